"""The command line in any surroundings: no home, closed or narrow streams, broken libraries, no space, no network."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ran_together, save_artifact
from hub_client import push_folder
from hub_server import serve

from robust_encoders.cli import main as cli
from robust_encoders.cli.main import main
from robust_encoders.cli.surroundings import configure_logs, debugging, prepare_streams, run_in_shell
from robust_encoders.utils.console import say, say_json

PROGRAM = [sys.executable, "-m", "robust_encoders"]
TEXT = "Zoë → 95 % ± \U0001f600 \udcff"
ENCODINGS: list[tuple[str, list[str]]] = [
    ("ascii", []),
    ("cp1252", ["--json"]),
    ("latin-1:strict", []),
    ("utf-8", ["--json"]),
    ("utf-16", []),
]
# Answers with characters that few terminals have, without the time that importing a pipeline takes.
ANSWER = f"""
import sys
from robust_encoders.cli import main as cli
from robust_encoders.utils.console import say
cli._list = lambda options: say({TEXT!r}) or 0
sys.argv = ["robust-encoders", "list"]
raise SystemExit(cli.main())
"""


def ran(*arguments: str, drop: tuple[str, ...] = (), **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own, with changed environment variables."""
    changed = settings.pop("env", {})
    environment = {**{key: value for key, value in os.environ.items() if key not in drop}, **changed}
    return subprocess.run([*PROGRAM, *arguments], env=environment, capture_output=True, check=False, **settings)


def test_python_dash_m_is_the_command_line() -> None:
    done = ran("--version")
    assert (done.returncode, done.stderr) == (0, b"")


def require_answer(data: bytes, encoding: str, flags: list[str]) -> None:
    out = data.decode(encoding.partition(":")[0])
    if flags:
        assert json.loads(out) == {"text": TEXT}, "escapes that JSON knows"
    else:
        assert out.startswith("Zoë" if encoding != "ascii" else "Zo\\u00eb")
        assert ("±" in out) == (encoding != "ascii")


@pytest.mark.parametrize(("encoding", "flags"), ENCODINGS)
def test_a_terminal_of_any_encoding_gets_every_character(
    encoding: str, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream as Python makes it for PYTHONIOENCODING."""
    name, _, errors = encoding.partition(":")
    screen, complaints = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, name, errors or "strict"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(complaints, name, "backslashreplace"))

    def answer(options: Any) -> int:
        say_json({"text": TEXT}) if options.json else say(TEXT)
        return 0

    monkeypatch.setattr(cli, "_list", answer)
    monkeypatch.setattr(sys, "argv", ["robust-encoders", "list", *flags])
    assert cli.main() == 0
    sys.stdout.flush()
    sys.stderr.flush()
    assert complaints.getvalue() == b""
    require_answer(screen.getvalue(), encoding, flags)


def test_a_terminal_of_few_characters_gets_all_as_escapes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", ANSWER], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    require_answer(done.stdout, "ascii", [])


def test_a_program_without_streams_has_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    prepare_streams()
    say("to nobody")
    assert sys.stdin is not None
    assert sys.stdin.read() == ""
    assert main(["list"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_an_answer_that_finds_no_space_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PROGRAM, "list"], stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert done.returncode == 1
    assert "the answer cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_and_help_into_a_closed_pipe_are_no_traceback() -> None:
    shell = f'"{sys.executable}" -m robust_encoders'
    for line in (f"{shell} list >&- <&-", f"{shell} list 2>&- | head -1 >/dev/null", f"{shell} --help | true"):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert run_in_shell(stopped) == 130
    assert capsys.readouterr().err == "robust-encoders: interrupted\n"


# The password database does not know the user of this process.
UNKNOWN = "import os; os.getuid = lambda: 54321"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no list of users by number")
def test_a_user_without_a_home_may_check_and_learns_how_to_pin() -> None:
    without = ("HOME", "XDG_CACHE_HOME", "ROBUST_ENCODERS_HOME", "HF_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in without}
    commands = (["check", "shapes/circle", "shapes"], ["pin", "shapes/circle"])
    checked, pinned = ran_together(commands, environment, UNKNOWN)
    assert checked.out.splitlines()[-1:] == ["fits"], checked.err
    assert pinned.code == 1
    assert "this user has no home directory; set ROBUST_ENCODERS_HOME" in pinned.err
    assert "Traceback" not in pinned.err


@pytest.mark.parametrize("home", ["/dev/null", "/nonexistent"])
def test_a_home_that_is_no_folder_keeps_nobody_from_loading(home: str) -> None:
    drop = ("XDG_CACHE_HOME", "ROBUST_ENCODERS_HOME", "HF_HOME")
    done = ran("verify", "shapes/circle", drop=drop, env={"HOME": home})
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not delete a folder in which a program works")
def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    command = f'mkdir gone; cd gone; rmdir ../gone; "{sys.executable}" -m robust_encoders list'
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 1
    assert "the working folder no longer exists" in done.stderr


BREAKAGES = {
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "OSError": "raise OSError('libcudart.so.11: cannot open shared object file')",
    "AttributeError": "import torch; torch.no_such_member",
    "ImportError": "raise ImportError('undefined symbol')",
}


@pytest.mark.parametrize(
    "kind",
    [
        "RuntimeError",
        "ImportError",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("OSError", "AttributeError")),
    ],
)
def test_a_broken_library_is_named_and_does_not_disturb_answers_from_memory(tmp_path: Path, kind: str) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BREAKAGES[kind])
    info = tmp_path / "torchvision-0.20.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.20.1\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    commands = (["info", "shapes/circle"], ["check", "shapes/circle", "shapes"])
    told, checked = ran_together(commands, {**os.environ, "PYTHONPATH": path})
    assert told.code == 0, told.err
    assert "Traceback" not in checked.err
    if checked.code:  # some versions of transformers do without torchvision if it fails by an ImportError
        assert "expected a torchvision 0.20.1 that can be imported, found one that fails" in checked.err
        assert "pip uninstall torchvision" in checked.err
    else:
        assert kind == "ImportError"


def test_offline_a_name_that_is_not_cached_is_refused_in_one_line(tmp_path: Path) -> None:
    """Without one of the client's tries; ``test_connection`` measures the time in a process that runs already."""
    done = ran("verify", "org/none", env={"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert (
        "org/none is not in the cache and cannot be fetched: the Hub cannot be reached (Connection refused" in lines[0]
    )


def test_a_base_may_be_named_by_its_id_on_the_hub(tiny_pipe: Any, tmp_path: Path) -> None:
    """By a commit, and then by the name alone, which needs another answer of the Hub than the one in the cache."""
    tiny_pipe.save_pretrained(tmp_path / "base")
    with serve() as hub:
        commit = push_folder(hub, "org/base", tmp_path / "base")
        named = {save_artifact(tiny_pipe, tmp_path / "by commit"): f"org/base@{commit}"}
        named |= {save_artifact(tiny_pipe, tmp_path / "by name"): "org/base"}
        commands = [
            arguments
            for artifact, name in named.items()
            for arguments in (["check", str(artifact), name], ["annotate", str(artifact), "--base", name])
        ]
        reached = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        found = ran_together(commands, {**os.environ, **reached})
    for artifact, checked, stated in zip(named, found[::2], found[1::2], strict=True):
        assert checked.out.splitlines()[-1:] == ["fits"], checked.err
        assert stated.code == 0, stated.err
        base = json.loads((artifact / "robust_encoder.json").read_text(encoding="utf-8"))["base"]
        assert (base["ids"], base["revision"]) == (["org/base"], commit)
    assert not any(hub.url in one.err for one in found), "no address of a request"


def test_a_folder_with_an_at_sign_in_its_path_is_a_folder(tiny_pipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "me@work" / "base@v1"
    tiny_pipe.save_pretrained(folder)
    save_artifact(tiny_pipe, tmp_path / "artifact")
    assert main(["check", str(tmp_path / "artifact"), str(folder)]) == 0
    assert main(["annotate", str(tmp_path / "artifact"), "--base", str(folder)]) == 0


@pytest.mark.parametrize(("value", "found"), [("1", True), ("yes", True), ("0", False), ("", False), ("false", False)])
def test_debugging_is_a_choice(monkeypatch: pytest.MonkeyPatch, value: str, found: bool) -> None:
    monkeypatch.delenv("HF_DEBUG", raising=False)
    monkeypatch.setenv("ROBUST_ENCODERS_DEBUG", value)
    assert debugging() is found


def test_logs_are_ours_and_warnings_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ROBUST_ENCODERS_DEBUG", raising=False)
    monkeypatch.delenv("HF_DEBUG", raising=False)
    root, library = logging.getLogger(), logging.getLogger("a_library")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    configure_logs()
    own = logging.StreamHandler(sys.stderr)
    library.addHandler(own)
    try:
        logging.getLogger("httpx").info("HTTP Request: GET")
        logging.getLogger("httpx2").warning("a warning of a library")
        logging.getLogger("a_library.part").warning("written by its own handler")
        logging.getLogger("robust_encoders.hub").info("ours")
        assert capsys.readouterr().err.splitlines() == ["a warning of a library", "written by its own handler", "ours"]
        monkeypatch.setenv("HF_DEBUG", "1")
        logging.getLogger("httpx").info("HTTP Request: GET https://host/x?sig=abc")
        assert "?<hidden>" in capsys.readouterr().err
    finally:
        library.removeHandler(own)


def test_the_missing_torchvision_is_told_to_those_who_debug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HF_DEBUG", raising=False)
    monkeypatch.delenv("ROBUST_ENCODERS_DEBUG", raising=False)
    notices = logging.getLogger("transformers.utils.import_utils")
    monkeypatch.setattr(notices, "filters", [])
    notices.addHandler(caplog.handler)
    try:
        configure_logs()
        notices.warning("`CLIPImageProcessor` requires torchvision (not installed); falling back")
        notices.warning("another notice")
        assert set(caplog.messages) == {"another notice"}
        monkeypatch.setenv("HF_DEBUG", "1")
        notices.warning("`CLIPImageProcessor` requires torchvision (not installed); falling back")
        assert "torchvision" in caplog.text
    finally:
        notices.removeHandler(caplog.handler)
