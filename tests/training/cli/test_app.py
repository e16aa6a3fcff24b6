"""``robust-encoders app``: what it says before it opens a page, and that it closes the page at the end."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest

from robust_encoders.cli.main import main
from robust_encoders.errors import NotReadyError
from robust_encoders.training.app.opening import AppConfig
from robust_encoders.training.cli import app as cli_app
from robust_encoders.training.cli.app import require_free


class StandIn:
    """A page that opens at once, and whose visitors leave at once."""

    def __init__(self) -> None:
        self.config = AppConfig()
        self.launched: dict[str, Any] = {}
        self.closed = False

    def open(self, config: AppConfig) -> StandIn:
        self.config = config
        return self

    def launch(self, **options: Any) -> str:
        self.launched = options
        return "http://127.0.0.1:7860/"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    module: Any = types.ModuleType("robust_encoders.training.app.page")
    module.open_page = found.open
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Interrupted:
        def wait(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_app, "Event", Interrupted)
    return found


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_page_opens_on_this_machine_alone_and_closes_on_ctrl_c(
    page: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--port", "0"]) == 0
    assert page.launched == {"host": "127.0.0.1", "port": None, "share": False}
    assert page.config == AppConfig()
    assert page.closed
    out, err = capsys.readouterr()
    assert out == "http://127.0.0.1:7860/\n"
    assert "Other people" not in err


def test_options_reach_the_page(page: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--base org/m --detector nudenet --steps 3 --guidance 2 --workers 4 --device cpu --dtype float16 --share"
    assert main(["app", "nudity", "church", "nudity", *options.split(), "--port", "0"]) == 0
    assert page.config == AppConfig(("nudity", "church"), "org/m", "nudenet", 3, 2.0, 4, "cpu", "float16")
    assert page.launched["share"] is True
    assert "Other people can reach this page" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    page: StandIn, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--port", str(taken)]) == 2
    assert f"found 127.0.0.1 port {taken} taken or unknown" in capsys.readouterr().err
    for port in (-1, 65536):
        assert main(["app", f"--port={port}"]) == 2
        assert f"expected a port from 0 to 65535, found {port}; pass another one as --port" in capsys.readouterr().err
    assert page.launched == {}
    assert main(["app", "--port", "0"]) == 0  # another --port, as the message says


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(NotReadyError, match="or another --host"):
        require_free("203.0.113.1", 0)  # an address for documentation


def test_without_gradio_the_command_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "robust_encoders.training.app.page", raising=False)
    declared = ['gradio<7,>=6.20; extra == "app"']
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    assert main(["app"]) == 1
    assert "pip install '.[app]'" in capsys.readouterr().err


def test_wrong_settings_end_the_command(page: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(config: AppConfig) -> StandIn:
        raise ValueError("expected a detector, found 'x'")

    monkeypatch.setattr(sys.modules["robust_encoders.training.app.page"], "open_page", refuse)
    assert main(["app", "--port", "0"]) == 2
    assert "expected a detector, found 'x'" in capsys.readouterr().err
