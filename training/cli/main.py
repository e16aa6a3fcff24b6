"""The training commands: ``demo``, ``shapes build``, ``train``, ``evaluate``, ``reproduce``, ``leaderboard``, ..."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from robust_encoders.utils.console import EXIT_NO, EXIT_OK, UsageError, choose, say

from .parsing import parser_of


def main(arguments: Sequence[str]) -> int:
    """Run one training command.

    Args:
        arguments: The command's name, then its own arguments.

    Returns:
        The exit code.

    Raises:
        UsageError: The arguments parse, but contradict each other or name what does not exist.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    commands: Mapping[str, Callable[[Sequence[str]], int]] = {
        "demo": _demo,
        "evaluate": _evaluate,
        "leaderboard": _leaderboard,
        "merge": _merge,
        "reproduce": _reproduce,
        "results": _results,
        "shapes": _shapes,
        "train": _train,
    }
    return commands[arguments[0]](arguments[1:])


def _demo(arguments: Sequence[str]) -> int:
    parser = parser_of("demo", "Draw the same prompts with and without a robust encoder, plain and under attack.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder that receives demo.png")
    parser.add_argument("--seed", type=int, default=0, help="of prompts, pictures and attacks")
    options = parser.parse_args(arguments)
    if options.out.suffix or options.out.is_file():
        raise UsageError(f"expected a folder that receives demo.png, found a file name: {options.out}")

    from .demo import run_demo

    say(run_demo(options.out, seed=options.seed).table)
    return EXIT_OK


def _shapes(arguments: Sequence[str]) -> int:
    parser = parser_of("shapes", "The embedded base.")
    build = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "build", help="train it from nothing; goes on where an earlier run of the same folder was stopped"
    )
    build.add_argument("--out", type=Path, required=True, help="receives base, judge, image tower and the run's record")
    build.add_argument("--seed", type=int, default=0, help="seeds every stage")
    build.add_argument("--work", type=Path, help="folder of checkpoints (default: work, inside OUT)")
    build.add_argument("--stages", nargs="+", help="only these, in order")
    options = parser.parse_args(arguments)

    from ..worlds import ShapesWorld
    from ..worlds.pretrain.build import STAGES
    from ..worlds.pretrain.build import build as build_base

    for stage in options.stages or ():
        choose(stage, STAGES, "stage")
    build_base(ShapesWorld().corpus(), options.out, seed=options.seed, stages=options.stages, work=options.work)
    return EXIT_OK


def _train(arguments: Sequence[str]) -> int:
    from .train import train

    return train(arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    from .evaluate import evaluate

    return evaluate(arguments)


def _reproduce(arguments: Sequence[str]) -> int:
    parser = parser_of("reproduce", "Train an artifact again from its manifest and compare the tensors, bit for bit.")
    parser.add_argument("name", metavar="ARTIFACT", help="a catalog name or a folder")
    parser.add_argument("--base", help="folder or Hub id of the pipeline it was made from; by default the embedded one")
    parser.add_argument("--out", type=Path, help="keep the second run's artifact in this folder")
    parser.add_argument("--cache-dir", type=Path, help="keeps the trajectories of the frozen model")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    options = parser.parse_args(arguments)

    from robust_encoders.encoder import RobustEncoder

    from ..diffusion.load import open_base
    from ..recipes.reproduce import recorded_dtype, recorded_recipe, reproduce

    encoder = RobustEncoder.from_pretrained(options.name)
    recorded_recipe(encoder.manifest)  # says what is missing before a base is loaded
    base = open_base(options.base, dtype=recorded_dtype(encoder.manifest))
    found = reproduce(encoder, base.pipe, out=options.out, cache_dir=options.cache_dir)
    answer = {"name": options.name, "equal": found.equal, **asdict(found)}
    say(json.dumps(answer) if options.json else found.explain())
    return EXIT_OK if found.equal else EXIT_NO


def _merge(arguments: Sequence[str]) -> int:
    parser = parser_of("merge", "Make one encoder of several that erased one concept each.")
    parser.add_argument("names", metavar="ENCODER", nargs="+", help="a catalog name or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifact")
    parser.add_argument(
        "--base", help="folder or Hub id of the pipeline they were made from; by default the embedded one"
    )
    parser.add_argument("--rule", choices=("task_arithmetic", "ties"), default="task_arithmetic", help="how to add up")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the joint change")
    parser.add_argument("--density", type=float, default=0.2, help="share of each change that ties keeps")
    options = parser.parse_args(arguments)

    from robust_encoders.encoder import RobustEncoder

    from ..diffusion.load import open_base
    from ..methods.merge import Merge, merge

    base = open_base(options.base)
    try:
        method = Merge(rule=options.rule, scale=options.scale, density=options.density)
        merged = merge([RobustEncoder.from_pretrained(name) for name in options.names], base.pipe, method)
    except ValueError as error:
        raise UsageError(str(error)) from error
    merged.save_pretrained(options.out)
    say(str(options.out))
    return EXIT_OK


def _results(arguments: Sequence[str]) -> int:
    parser = parser_of("results", "Print the tables of finished evaluations, by concept and in pairs, in Markdown.")
    parser.add_argument("found", type=Path, nargs="+", metavar="RESULTS", help="results.json, or the folder with it")
    options = parser.parse_args(arguments)

    from ..reports.matrix import tables
    from ..reports.paired import paired_tables

    found = _own(options.found)
    try:
        say("\n".join(filter(None, (tables(found), paired_tables(found)))))
    except FileNotFoundError as error:
        raise UsageError(f"expected the results of a finished evaluation, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    return EXIT_OK


def _leaderboard(arguments: Sequence[str]) -> int:
    parser = parser_of("leaderboard", "Print one table of many evaluations, worst case first, and draw it.")
    parser.add_argument("found", type=Path, nargs="+", metavar="DIR", help="a finished evaluation, or an artifact")
    parser.add_argument("--out", type=Path, default=Path(), help="folder that receives leaderboard.png")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    options = parser.parse_args(arguments)

    from robust_encoders.utils.home import write_atomically

    from ..reports.leaderboard import Leaderboard
    from ..reports.plots.style import png

    try:
        board = Leaderboard.read(_own(options.found))
    except FileNotFoundError as error:
        raise UsageError(f"expected finished evaluations or artifacts, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if any(row.worst is not None for row in board.rows):  # a row of attacks of no known tier is ranked nowhere
        write_atomically(options.out / "leaderboard.png", png(board.figure()))
    say(board.to_json() if options.json else board.table())
    return EXIT_OK


def _own(found: Sequence[Path]) -> list[Path]:
    """Return what was named, without the folder that evaluations side by side share, which a shell glob names too."""
    return [path for path in found if not (path.is_dir() and [one.name for one in path.iterdir()] == ["chunks"])]
