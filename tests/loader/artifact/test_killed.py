"""Killed at any moment of saving, converting, downloading or pushing: nothing half done is ever read, and it is done
again as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hub_server import WRITER, Hub, Repo, serve
from tree import HELPERS

from robust_encoders import CATALOG, RobustEncoder
from robust_encoders.clip.state_dict import nested_state

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
REPO = "org/circle"
QUICK, FULL = 5, 50
TRIES = 10  # for each kill that is to meet an operation under way
Maker = Callable[..., RobustEncoder]


class Row(NamedTuple):
    """What a study found."""

    operation: str
    moments: int
    under_way: int
    old: int
    new: int
    refused: int
    seconds: float


@dataclass
class Worker:
    """The other process, and the Hub that it talks to."""

    process: subprocess.Popen[str]
    hub: Hub
    folder: Path

    def ask(
        self, do: str, *, after: float | None = None, at: tuple[tuple[str, ...], int] | None = None, **given: Any
    ) -> dict[str, Any]:
        """Let it do something, perhaps killed after so many seconds or before one of its requests to the system."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        given = {"home": str(self.folder / "home"), **given}
        command = {"do": do, "after": after, "at": at, "given": given}
        self.process.stdin.write(json.dumps(command, default=str) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert "failed" not in answer
        self.hub.settle()
        return answer


@dataclass
class Case:
    """An operation that turns something old, or nothing, into something new.

    Args:
        do, look: What is done and what reads the outcome, each with its options.
        reset: Puts back what was there before.
        old, new: Hashes of the contents before and afterwards; empty for none.
        litter: Patterns, inside ``place``, of what only a killed process leaves.
    """

    do: tuple[str, dict[str, Any]]
    look: tuple[str, dict[str, Any]]
    reset: Callable[[], None]
    old: str
    new: str
    place: Path
    litter: tuple[str, ...] = (".*-????????",)

    def left(self) -> list[str]:
        """Return what killed processes left behind, but for empty folders, which go when they are ten seconds old."""
        found = [path for pattern in self.litter for path in self.place.rglob(pattern)]
        return [str(path) for path in found if not path.is_dir() or any(path.iterdir())]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("killed")
    with serve() as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": WRITER,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        script = HELPERS / "killed_worker.py"
        with subprocess.Popen(
            [sys.executable, str(script)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            yield Worker(process, hub, folder)
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def artifacts(worker: Worker, tiny_pipe: Any, make_encoder: Maker, tmp_path: Path) -> dict[str, str]:
    """Two artifacts of one pipeline, by the hash of their contents."""
    folders = {}
    for seed in (1, 2):
        encoder = make_encoder(tiny_pipe, seed=seed)
        encoder.save_pretrained(tmp_path / "sources" / str(seed))
        folders[encoder.content_sha256] = str(tmp_path / "sources" / str(seed))
    worker.ask("warm", source=folders[encoder.content_sha256])
    return folders


def put(source: str, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if source:
        shutil.copytree(source, target)
        (target / "notes.txt").write_text("of the user")


def saving(worker: Worker, artifacts: dict[str, str], place: Path, *, over: bool) -> Case:
    (old, first), (new, second) = artifacts.items()
    target = place / "artifact"
    do, look = ("save", {"source": second, "target": target}), ("load", {"name": f"{target}", "options": {}})
    return Case(do, look, lambda: put(first if over else "", target), old if over else "", new, place)


def converting(worker: Worker, artifacts: dict[str, str], place: Path, *, over: bool) -> Case:
    case = saving(worker, artifacts, place, over=over)
    source = place.with_name("checkpoint")
    source.mkdir()
    encoder = RobustEncoder.from_pretrained(artifacts[case.new])
    torch.save(dict(encoder.tensors), source / "weights.pt")
    shutil.copy(Path(artifacts[case.new], "config.json"), source)
    case.do = ("convert", {"source": source, "target": place / "artifact"})
    return case


def publishing(worker: Worker, artifacts: dict[str, str], place: Path, *, over: bool) -> Case:
    """A catalog name: fetched as a pickle, converted into the home of the package."""
    entry = CATALOG["nudity"]
    (old, first), (new, second) = artifacts.items()
    repo = worker.hub.repos[entry.repo] = Repo()
    encoder = RobustEncoder.from_pretrained(second)
    assert isinstance(encoder, RobustEncoder)
    place.mkdir()
    torch.save(dict(nested_state(encoder.text_encoder())), place.with_name("pickle"))
    config = Path(second, "config.json").read_bytes()
    files = {"config.json": config, "pytorch_model.bin": place.with_name("pickle").read_bytes()}
    repo.commit({f"{entry.subfolder}/{name}": data for name, data in files.items()}, "weights")
    target, cache = place / "converted" / "nudity", place / "cache"

    def reset() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        put(first if over else "", target)

    options = {"cache_dir": str(cache), "force_download": over}
    return Case(
        do=("load", {"name": "nudity", "options": options, "home": str(place)}),
        look=("load", {"name": str(target), "options": {}, "home": str(place)}),
        reset=reset,
        old=old if over else "",
        new=new,
        place=place,
    )


def files_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def downloading(worker: Worker, artifacts: dict[str, str], place: Path, *, over: bool) -> Case:
    (old, first), (new, second) = artifacts.items()
    cache = place / "cache"

    def reset() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        repo = worker.hub.repos[REPO] = Repo()
        if over:
            repo.commit(files_of(first), "first")
            worker.ask("load", name=REPO, options={"cache_dir": str(cache)})
        repo.commit(files_of(second), "second")

    return Case(
        do=("load", {"name": REPO, "options": {"cache_dir": str(cache)}}),
        look=("load", {"name": REPO, "options": {"cache_dir": str(cache), "local_files_only": True}}),
        reset=reset,
        old=old if over else "",
        new=new,
        place=place,
        litter=("*.incomplete",),
    )


def pushing(worker: Worker, artifacts: dict[str, str], place: Path, *, over: bool) -> Case:
    (old, first), (new, second) = artifacts.items()
    cache = place / "cache"

    def reset() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        worker.hub.objects.clear()
        worker.hub.repos.pop(REPO, None)
        if over:
            worker.hub.repos[REPO] = Repo()
            worker.hub.repos[REPO].commit(files_of(first), "first")

    return Case(
        do=("push", {"repo": REPO, "source": second, "home": str(place)}),
        look=("load", {"name": REPO, "options": {"cache_dir": str(cache), "force_download": True}}),
        reset=reset,
        old=old if over else "",
        new=new,
        place=place,
    )


CASES: dict[str, tuple[Callable[..., Case], bool]] = {
    "save": (saving, False),
    "save over another": (saving, True),
    "convert": (converting, False),
    "convert over another": (converting, True),
    "catalog name": (publishing, False),
    "catalog name again": (publishing, True),
    "download": (downloading, False),
    "download a moved branch": (downloading, True),
    "push": (pushing, False),
    "push over another": (pushing, True),
}


def seen(worker: Worker, case: Case) -> str:
    """Return the hash of what a reader sees; empty if it is refused in words."""
    do, given = case.look
    answer = worker.ask(do, **given)
    assert answer.get("hash") or answer["refused"].count(" ") > 5
    found = str(answer.get("hash", ""))
    assert found in {"", case.old, case.new}, "something else was read"
    return found


def measured(worker: Worker, case: Case) -> float:
    """Return how many seconds an operation takes that is left alone."""
    seconds: list[float] = []
    for _ in range(3):
        case.reset()
        seconds.append(worker.ask(case.do[0], **case.do[1])["seconds"])
    return statistics.median(seconds)


def study(worker: Worker, name: str, case: Case, wanted: int) -> Row:
    """Kill an operation at random moments until so many met it under way; after each look, do it again, look again.

    On a busy machine a kill may come after the end: that run's own length then bounds the next moments.
    """
    worker.hub.pause = 0.001
    do, given = case.do
    started, rng = time.perf_counter(), random.Random(name)
    duration = measured(worker, case)
    counts = {"": 0, case.old: 0, case.new: 0}
    under_way = moments = 0
    while under_way < wanted and moments < TRIES * wanted:
        moments += 1
        case.reset()
        answer = worker.ask(do, after=rng.uniform(0, duration), **given)
        under_way += "killed" in answer
        duration = min(duration, answer.get("seconds", duration))
        counts[seen(worker, case)] += 1
        assert "hash" in worker.ask(do, **given), "it is done again"
        assert seen(worker, case) == case.new
        assert case.left() == []
    seconds = time.perf_counter() - started
    old = counts[case.old] if case.old else 0
    return Row(name, moments, under_way, old, counts[case.new], counts[""], seconds)


@pytest.fixture
def make_case(worker: Worker, artifacts: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Case]]:
    def make(name: str) -> Case:
        maker, over = CASES[name]
        return maker(worker, artifacts, tmp_path / "place", over=over)

    yield make
    worker.hub.repos.clear()


def kill_everywhere(worker: Worker, case: Case, events: tuple[str, ...]) -> Row:
    """Kill an operation right before every such request to the file system, one after the other."""
    do, given = case.do
    started, counts = time.perf_counter(), {"": 0, case.old: 0, case.new: 0}
    for moment in range(1000):
        case.reset()
        if "killed" not in worker.ask(do, at=(events, moment), **given):
            break
        counts[seen(worker, case)] += 1
        assert "hash" in worker.ask(do, **given), "it is done again"
        assert seen(worker, case) == case.new
        assert (case.place / "artifact" / "notes.txt").read_text() == "of the user", "what lies beside it is kept"
        assert case.left() == []
    seconds = time.perf_counter() - started
    return Row(f"at every {events[0]}", moment, moment, counts[case.old], counts[case.new], counts[""], seconds)


@pytest.mark.parametrize(
    "name", ["save over another", "convert", "catalog name again", "download a moved branch", "push over another"]
)
def test_what_is_killed_leaves_nothing_half_done(worker: Worker, make_case: Callable[[str], Case], name: str) -> None:
    row = study(worker, name, make_case(name), QUICK)
    assert row.under_way == QUICK


def test_a_save_that_is_killed_before_any_change_of_a_folder_loses_nothing(
    worker: Worker, make_case: Callable[[str], Case]
) -> None:
    row = kill_everywhere(worker, make_case("save over another"), ("os.rename", "os.remove", "os.rmdir"))
    assert row.refused == 1, "between the move of the old folder and that of the new one"
    assert (row.old >= 1, row.new >= 5) == (True, True)


@pytest.mark.slow
def test_fifty_moments_of_everything(worker: Worker, make_case: Callable[[str], Case], tmp_path: Path) -> None:
    events = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
    rows = [kill_everywhere(worker, make_case("save over another"), events)]
    for name in CASES:
        shutil.rmtree(tmp_path / "place", ignore_errors=True)
        shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
        rows.append(study(worker, name, make_case(name), FULL))
    table = [Row._fields, *(tuple(f"{value:.0f}" if isinstance(value, float) else value for value in r) for r in rows)]
    sys.stderr.write("\n" + "".join("{:24}{:>9}{:>11}{:>6}{:>6}{:>9}{:>9}\n".format(*line) for line in table))
    assert all(row.under_way >= 0.6 * row.moments for row in rows)
    assert all(row.under_way == FULL for row in rows[1:])
