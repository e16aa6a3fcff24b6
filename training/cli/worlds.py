"""The commands ``shapes`` and ``emoji``, which build the embedded bases."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from robust_encoders.utils.console import EXIT_OK, choose, say
from robust_encoders.utils.extras import OptionalPackage, install_command

from ..worlds.pretrain import build as builder
from ..worlds.pretrain.corpus import Corpus
from .parsing import parser_of
from .requirements import require, require_places

RENDERER = OptionalPackage(("resvg_py",), install_command("worlds"))


def shapes(arguments: Sequence[str]) -> int:
    """Run the command ``shapes``; returns the exit code."""
    from ..worlds import ShapesWorld

    parser = parser_of("shapes", "Build the embedded base.")
    _add_build(parser.add_subparsers(required=True, metavar="COMMAND").add_parser, "the embedded base")
    options = parser.parse_args(arguments)
    return _build(options, ShapesWorld().corpus)


def emoji(arguments: Sequence[str]) -> int:
    """Run the command ``emoji``; returns the exit code."""
    parser = parser_of("emoji", "Build the embedded base with real words, from icons and keywords of npm packages.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    fetch = commands.add_parser("fetch", help="download the packages that the base is made from; needs npm")
    fetch.add_argument("--out", type=Path, required=True, help="folder that receives the packages")
    build = _add_build(commands.add_parser, "the base with real words")
    build.add_argument("--sources", type=Path, help="folder of the packages (default: sources, inside the work folder)")
    options = parser.parse_args(arguments)
    return _fetch(options.out) if options.command == "fetch" else _build_emoji(options)


def _fetch(folder: Path) -> int:
    from ..worlds.emoji.fetch import fetch

    require_places(folder)
    fetch(folder)
    say(str(folder))
    return EXIT_OK


def _build_emoji(options: Namespace) -> int:
    from ..worlds.emoji.corpus import EmojiCorpus

    work = options.work or options.out / "work"
    require([text] if (text := RENDERER.problem("icons")) else [])
    return _build(options, lambda: EmojiCorpus.read(options.sources or work / "sources", work))


def _add_build(add_parser: Callable[..., ArgumentParser], what: str) -> ArgumentParser:
    build = add_parser("build", help=f"train {what} from scratch; a stopped run in the same folder continues")
    build.add_argument(
        "--out", type=Path, required=True, help="folder that receives base, judge, image tower and the run's record"
    )
    build.add_argument("--seed", type=int, default=0, help="seed of every stage")
    build.add_argument("--work", type=Path, help="folder of checkpoints (default: work, inside OUT)")
    build.add_argument("--stages", nargs="+", help="stages to run, in order (default: all)")
    return build


def _build(options: Namespace, corpus: Callable[[], Corpus]) -> int:
    for stage in options.stages or ():
        choose(stage, builder.STAGES, "stage")
    require_places(options.out, options.work)
    builder.build(corpus(), options.out, seed=options.seed, stages=options.stages, work=options.work)
    return EXIT_OK
