"""The commands ``shapes`` and ``emoji``, which build the embedded bases and measure the latter."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence

from robust_encoders.utils.console import EXIT_OK, choose, say
from robust_encoders.utils.extras import OptionalPackage, install_command
from robust_encoders.utils.home import expanded

from ..worlds.pretrain import build as builder
from ..worlds.pretrain.corpus import Corpus
from ..worlds.pretrain.workshop import STAGES
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
    fetch.add_argument("--out", type=expanded, required=True, help="folder that receives the packages")
    build = _add_build(commands.add_parser, "the base with real words")
    build.add_argument(
        "--sources", type=expanded, help="folder of the packages (default: sources, inside the work folder)"
    )
    _add_measure(commands.add_parser)
    options = parser.parse_args(arguments)
    return {"fetch": _fetch, "build": _build_emoji, "measure": _measure_emoji}[options.command](options)


def _add_measure(add_parser: Callable[..., ArgumentParser]) -> None:
    measure = add_parser("measure", help="draw captions that no training uses, and judge them; finished sets are kept")
    measure.add_argument("--out", type=expanded, required=True, help="folder that receives measure.json and sheet.png")
    measure.add_argument("--n", type=_count, default=1000, help="captions of each set, and renders for the judges")
    measure.add_argument(
        "--sheet", type=_count_or_none, default=100, help="captions on the contact sheet; 0 draws no sheet"
    )
    measure.add_argument("--sets", nargs="+", help="names of the sets to measure, as the table has them (default: all)")
    measure.add_argument("--seed", type=int, default=3_000_000, help="seed of captions, noise and renders")
    measure.add_argument("--assets", type=expanded, help="folder that a build wrote (default: the packaged base)")
    measure.add_argument("--sources", type=expanded, help="folder of the packages; measures the judges themselves, too")
    measure.add_argument("--work", type=expanded, help="folder of the rendered icons (default: work, inside OUT)")


def _count(text: str) -> int:
    """Return a number of at least 1; argparse shows the error."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError(f"expected a number of at least 1, found {number}")
    return number


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _fetch(options: Namespace) -> int:
    from ..worlds.emoji.fetch import fetch

    require_places(options.out)
    fetch(options.out)
    say(str(options.out))
    return EXIT_OK


def _measure_emoji(options: Namespace) -> int:
    from ..worlds.emoji.corpus import EmojiCorpus
    from ..worlds.emoji.measure import SETS, Measured, measure, table
    from ..worlds.emoji.sheet import contact_sheet

    for name in options.sets or ():
        choose(name, SETS, "set of captions")
    require_places(options.out, options.work)
    require([text] if options.sources and (text := RENDERER.problem("icons")) else [])
    work = options.work or options.out / "work"
    corpus = EmojiCorpus.read(options.sources, work) if options.sources else None
    base = Measured.read(options.assets)
    options.out.mkdir(parents=True, exist_ok=True)
    path, sheet = options.out / "measure.json", options.out / "sheet.png"
    record = measure(base, options.n, seed=options.seed, corpus=corpus, path=path, sets=options.sets or ())
    if options.sheet and not sheet.exists():
        contact_sheet(base, options.sheet, seed=options.seed).save(sheet)
    say(table(record))
    return EXIT_OK


def _build_emoji(options: Namespace) -> int:
    from ..worlds.emoji.corpus import EmojiCorpus

    work = options.work or options.out / "work"
    require([text] if (text := RENDERER.problem("icons")) else [])
    return _build(options, lambda: EmojiCorpus.read(options.sources or work / "sources", work))


def _add_build(add_parser: Callable[..., ArgumentParser], what: str) -> ArgumentParser:
    build = add_parser("build", help=f"train {what} from scratch; a stopped run in the same folder continues")
    build.add_argument(
        "--out", type=expanded, required=True, help="folder that receives base, judge, image tower and the run's record"
    )
    build.add_argument("--seed", type=int, default=0, help="seed of every stage")
    build.add_argument("--work", type=expanded, help="folder of checkpoints (default: work, inside OUT)")
    build.add_argument("--stages", nargs="+", help="stages to run, in order (default: all)")
    return build


def _build(options: Namespace, corpus: Callable[[], Corpus]) -> int:
    for stage in options.stages or ():
        choose(stage, STAGES, "stage")
    require_places(options.out, options.work)
    builder.build(corpus(), options.out, seed=options.seed, stages=options.stages, work=options.work)
    return EXIT_OK
