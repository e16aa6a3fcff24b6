"""The training commands: ``app``, ``demo``, ``train``, ``evaluate``, ``reproduce``, ``leaderboard`` and others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from robust_encoders.hub.embedded import EMBEDDED_BASES
from robust_encoders.utils.console import EXIT_NO, EXIT_OK, UsageError, say
from robust_encoders.utils.home import expanded

from .parsing import parser_of

_PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".webp")


def main(arguments: Sequence[str]) -> int:
    """Run one training command.

    Args:
        arguments: The command's name, then its own arguments.

    Returns:
        The exit code.

    Raises:
        UsageError: If the arguments contradict each other, or name something that does not exist.
        SystemExit: With 0 after help, with 2 on arguments that do not parse.
    """
    commands: Mapping[str, Callable[[Sequence[str]], int]] = {
        "app": _app,
        "bias": _bias,
        "certify": _certify,
        "compare": _compare,
        "demo": _demo,
        "emoji": _emoji,
        "evaluate": _evaluate,
        "judge": _judge,
        "leaderboard": _leaderboard,
        "merge": _merge,
        "reproduce": _reproduce,
        "results": _results,
        "shapes": _shapes,
        "synonyms": _synonyms,
        "train": _train,
    }
    return commands[arguments[0]](arguments[1:])


def _app(arguments: Sequence[str]) -> int:
    from .app import app

    return app(arguments)


def _bias(arguments: Sequence[str]) -> int:
    from .bias import bias

    return bias(arguments)


def _compare(arguments: Sequence[str]) -> int:
    from .compare import compare

    return compare(arguments)


def _demo(arguments: Sequence[str]) -> int:
    parser = parser_of("demo", "Draw the same prompts with and without a robust encoder, plain and under attack.")
    parser.add_argument("--out", type=expanded, default=Path(), help="folder that receives demo.png and demo-strip.png")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts, pictures and attacks")
    parser.add_argument(
        "--base", choices=EMBEDDED_BASES, help="embedded base to draw with; by default all that are installed"
    )
    options = parser.parse_args(arguments)
    named_as_picture = options.out.suffix.lower() in _PICTURES and not options.out.is_dir()
    if named_as_picture or options.out.is_file():
        raise UsageError(f"expected a folder that receives demo.png, found a file name: {options.out}")
    from .demo import run_demo
    from .requirements import require_places

    require_places(options.out)

    say(run_demo(options.out, seed=options.seed, bases=(options.base,) if options.base else ()).table)
    return EXIT_OK


def _emoji(arguments: Sequence[str]) -> int:
    from .worlds import emoji

    return emoji(arguments)


def _shapes(arguments: Sequence[str]) -> int:
    from .worlds import shapes

    return shapes(arguments)


def _train(arguments: Sequence[str]) -> int:
    from .train import train

    return train(arguments)


def _synonyms(arguments: Sequence[str]) -> int:
    from .synonyms import add_options, synonyms

    parser = parser_of("synonyms", "Print the words nearest to a concept in a base's text encoder.")
    add_options(parser)
    return synonyms(parser.parse_args(arguments))


def _evaluate(arguments: Sequence[str]) -> int:
    from .evaluate import evaluate

    return evaluate(arguments)


def _reproduce(arguments: Sequence[str]) -> int:
    parser = parser_of("reproduce", "Train an artifact again from its manifest and compare the tensors, bit for bit.")
    parser.add_argument("name", metavar="ARTIFACT", help="catalog name or folder of the artifact")
    parser.add_argument(
        "--base", help="folder, Hub id or name of its pipeline; by default the embedded base that it is for"
    )
    parser.add_argument("--out", type=expanded, help="folder that keeps the artifact of the second run")
    parser.add_argument("--cache-dir", type=expanded, help="folder that keeps the trajectories of the frozen model")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    options = parser.parse_args(arguments)

    from robust_encoders.encoder import RobustEncoder

    from ..recipes.reproduce import recorded_dtype, recorded_recipe, reproduce
    from ..worlds.choice import base_of_encoders, embedded_base_of, open_named, other_world_problems
    from .requirements import base_problems, require, require_artifact_run, require_places

    require_artifact_run(options.out, options.base or embedded_base_of([options.name]), two=True)
    require_places(options.cache_dir)
    encoder = RobustEncoder.from_pretrained(options.name)
    recorded_recipe(encoder.manifest)  # reports what is missing before a base is loaded
    require(other_world_problems(base := base_of_encoders(options.base, [encoder]), [encoder]))
    require(base_problems(base, two=True))
    pipe = open_named(base, dtype=recorded_dtype(encoder.manifest), two=True).pipe
    found = reproduce(encoder, pipe, out=options.out, cache_dir=options.cache_dir)
    answer = {"name": options.name, "equal": found.equal, **asdict(found)}
    say(json.dumps(answer) if options.json else found.explain())
    return EXIT_OK if found.equal else EXIT_NO


def _merge(arguments: Sequence[str]) -> int:
    parser = parser_of("merge", "Merge several encoders, which erase one concept each, into one encoder.")
    parser.add_argument("names", metavar="ENCODER", nargs="+", help="catalog name or folder of an encoder")
    parser.add_argument("--out", type=expanded, required=True, help="folder of the merged artifact")
    parser.add_argument(
        "--base", help="folder, Hub id or name of their pipeline; by default the embedded base they are for"
    )
    parser.add_argument(
        "--rule",
        choices=("task_arithmetic", "ties"),
        default="task_arithmetic",
        help="rule that adds up the changes of the weights",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the summed change")
    parser.add_argument("--density", type=float, default=0.2, help="share of each change that the rule ties keeps")
    options = parser.parse_args(arguments)

    from robust_encoders.encoder import RobustEncoder

    from ..methods.merge import Merge, merge, merge_problems
    from ..worlds.choice import base_of_encoders, embedded_base_of, open_named, other_world_problems
    from .requirements import base_problems, require, require_artifact_run

    require_artifact_run(options.out, options.base or embedded_base_of(options.names))
    try:
        method = Merge(rule=options.rule, scale=options.scale, density=options.density)
        encoders = [RobustEncoder.from_pretrained(name) for name in options.names]
        base = base_of_encoders(options.base, encoders)
        require(other_world_problems(base, encoders) or merge_problems(encoders) or base_problems(base))
        merged = merge(encoders, open_named(base).pipe, method)
    except ValueError as error:
        raise UsageError(str(error)) from error
    merged.save_pretrained(options.out)
    say(str(options.out))
    return EXIT_OK


def _certify(arguments: Sequence[str]) -> int:
    from .certify import certify

    return certify(arguments)


def _results(arguments: Sequence[str]) -> int:
    from .results import results

    return results(arguments)


def _judge(arguments: Sequence[str]) -> int:
    from .judge import judge

    return judge(arguments)


def _leaderboard(arguments: Sequence[str]) -> int:
    parser = parser_of("leaderboard", "Print and draw one table of many evaluations, ranked by the worst case.")
    parser.add_argument("found", type=expanded, nargs="+", metavar="DIR", help="folder of an evaluation or an artifact")
    parser.add_argument("--out", type=expanded, default=Path(), help="folder that receives leaderboard.png")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    options = parser.parse_args(arguments)

    from robust_encoders.utils.home import write_atomically
    from robust_encoders.utils.targets import place_problems

    from ..reports.leaderboard import Leaderboard
    from ..reports.plots.style import png
    from .results import own_folders

    if problems := place_problems(options.out):
        raise UsageError(problems[0])
    try:
        board = Leaderboard.read(own_folders(options.found))
    except FileNotFoundError as error:
        raise UsageError(f"expected finished evaluations or artifacts, found no {error.filename}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    if any(row.worst is not None for row in board.rows):  # rows without a known tier have no rank
        write_atomically(options.out / "leaderboard.png", png(board.figure()))
    say(board.to_json() if options.json else board.table())
    return EXIT_OK
