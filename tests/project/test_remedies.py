"""Every remedy that a message names exists where the message says, and is followed by a test or is listed as no use."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import peft
import pytest
import torch
import transformers
from command_options import of_help, options
from diffusers import StableDiffusionPipeline
from messages import ROOMS, Message, Remedy, messages, remedies_of
from remedy_walks import NOT_WALKED, WALKED
from tree import ROOT

from robust_encoders import Concept, RobustEncoder
from robust_encoders.cli.main import EXTRA_OF, main
from robust_encoders.overlay import Overlay
from robust_encoders.training import ATTACKS, METHODS
from robust_encoders.training.detectors.image_classifier import ImageClassifier
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.methods import UCE
from robust_encoders.training.metrics.fid_kid import KernelDistance
from robust_encoders.training.objectives.config import RetainConfig
from robust_encoders.training.recipes.run import run_recipe

# Commands whose code raises the messages of a file: the longest prefix counts.
COMMANDS: Mapping[str, str] = {
    "robust_encoders/artifact/stated.py": "annotate",
    "robust_encoders/artifact/model_card.py": "annotate",
    "robust_encoders/cli/annotate.py": "annotate",
    "robust_encoders/cli/convert.py": "convert",
    "robust_encoders/cli/facts.py": "annotate convert",
    "robust_encoders/cli/interrupted.py": "train",
    "robust_encoders/conversion/": "convert",
    "robust_encoders/conversion/export": "export",
    "robust_encoders/hub/pins.py": "pin",
    "training/app/": "app",
    "training/cli/app.py": "app",
    "training/cli/bias.py": "bias",
    "training/cli/certify.py": "certify",
    "training/cli/compare.py": "compare",
    "training/cli/evaluate": "evaluate",
    "training/cli/results.py": "results",
    "training/cli/train.py": "train",
    "training/comparison/": "compare",
    "training/evaluation/": "evaluate",
    "training/evaluation/certificate/": "certify",
    "training/recipes/reproduce.py": "reproduce",
    "training/worlds/emoji/": "emoji",
    "training/worlds/pretrain/": "emoji shapes",
    "training/": "train",
}
# Options that only some methods have; every method that has the first must have the second.
TOGETHER = {"--train.rate": "--train.iterations", "--train.precision": "--train.iterations"}
KEYWORDS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("replace", "allow_partial", "allow_large_vectors"), RobustEncoder.attach),
    **dict.fromkeys(("token", "local_files_only"), RobustEncoder.from_pretrained),
    **dict.fromkeys(("base", "query", "draft"), TargetModel),
    **dict.fromkeys(("top", "threshold"), ImageClassifier),
    **dict.fromkeys(("prompts",), RetainConfig),
    "concept": RobustEncoder.annotate,
    "draft_steps": ATTACKS["paraphrase"],
    "name": Concept,
    "output_type": StableDiffusionPipeline.__call__,
    "private": RobustEncoder.push_to_hub,
    "references": RobustEncoder.status,
    "resume": run_recipe,
    "retain": METHODS["esd"],
    "subset_size": KernelDistance,
    "text_encoder": StableDiffusionPipeline.__init__,
    "target": METHODS["dp"],
    "texts": UCE,
    "transport": Overlay.attach,
}
OWNERS: Mapping[str, tuple[Any, ...]] = {
    "pipe": (StableDiffusionPipeline,),
    "encoder": (RobustEncoder, Overlay),
    "config": (transformers.CLIPTextConfig,),
    "CLIPTextModel": (transformers.CLIPTextModel,),
}
# Classes of others whose methods a message names on a component of the pipeline.
LIBRARIES = (torch.nn.Module, peft.LoraModel)
# Options of the programs of others, which have no place in this tree.
FOREIGN = {
    "iconv -f WINDOWS-1252 -t UTF-8 {} > utf8.txt",
    "pip install {}",
    "pip uninstall {}",
    'python -c "{}"',
    "ulimit -n",
    "git lfs install",
    "git lfs pull",
    "git config core.autocrlf false",
    "hf auth login",
    "fuse_lora",
}
ENVIRONMENT = {"HF_TOKEN", "HF_HUB_OFFLINE", "ROBUST_ENCODERS_HOME", "WORLD_SIZE"}
LEAST_QUOTED = 9
ADD = (
    "it names a remedy that no test follows: add a test that ends in this error and does what it says, and its words "
    "to WALKED in tests/helpers/remedy_walks.py; or add its words to NOT_WALKED with the reason"
)


@cache
def read() -> tuple[Message, ...]:
    return tuple(messages())


@cache
def naming() -> tuple[Message, ...]:
    """Return the messages that name something to do; a name alone is checked, but is no remedy."""
    nothing = [part for part, reason in NOT_WALKED.items() if reason.endswith("names nothing to do")]
    named = (one for one in read() if any(remedy.kind != "name" for remedy in one.remedies))
    return tuple(one for one in named if not any(part in one.text for part in nothing))


def of_kind(*kinds: str) -> Iterator[tuple[Message, Remedy]]:
    for one in naming():
        yield from ((one, remedy) for remedy in one.remedies if remedy.kind in kinds)


def commands_of(message: Message) -> list[str]:
    """Return the commands whose user reads a message: one that it names, or those whose code raises it."""
    if found := re.search(r"`robust-encoders (\w+)", message.text):
        return [found[1]]
    for prefix in sorted(COMMANDS, key=len, reverse=True):
        if message.path.startswith(prefix):
            return COMMANDS[prefix].split()
    raise AssertionError(f"{message} names an option; add to COMMANDS which command raises it")


def names(command: str, message: Message) -> list[str]:
    """Return the parsers of a command: for ``train``, those of the method whose file the message stands in, or all."""
    if command != "train":
        return [command]
    stem = message.path.rpartition("/")[2].removesuffix(".py")
    methods = [f"train {stem}"] if stem in METHODS else [name for name in options() if name.startswith("train ")]
    return methods


def test_the_collection_finds_what_is_there() -> None:
    """A collection that finds nothing would pass every other test here."""
    kinds = Counter(remedy.kind for one in naming() for remedy in one.remedies)
    assert len(naming()) >= 130
    least = {"option": 50, "command": 20, "keyword": 30, "call": 25, "setting": 30, "environment": 6, "pip": 3}
    assert {kind: kinds[kind] for kind in least if kinds[kind] < least[kind]} == {}
    text = "pass --no-resume (resume=False), set HF_TOKEN, call pipe.x() or run `robust-encoders pin --replace`, eta.b"
    assert {(one.kind, one.text) for one in remedies_of(text)} == {
        ("command", "robust-encoders pin --replace"), ("option", "--no-resume"), ("option", "--replace"),
        ("keyword", "resume"), ("call", "pipe.x"), ("environment", "HF_TOKEN"),
    }  # fmt: skip


@pytest.mark.parametrize("method", ["receler", "uce"])
def test_the_collected_options_are_those_of_the_help(method: str) -> None:
    assert of_help(method) - {"--help"} == options()[f"train {method}"]


def test_options_belong_to_the_command_that_names_them() -> None:
    wrong = []
    for message, remedy in of_kind("option"):
        for command in commands_of(message):
            parsers = names(command, message)
            least = TOGETHER.get(remedy.text)
            needed = [name for name in parsers if least in options()[name]] if least else parsers
            having = [name for name in needed if remedy.text in options()[name]]
            if not having or (least and having != needed):
                wrong.append(f"{message}: no {remedy.text} in {command}")
    assert not wrong


def test_settings_are_options_of_the_method_that_names_them() -> None:
    wrong = []
    for message, remedy in of_kind("setting"):
        section, _, last = remedy.text.replace("_", "-").rpartition(".")
        flags = {f"--{section}.{last}", f"--{section}.no-{last}", f"--start.{section}.{last}"}
        if not any(flags & options()[name] for name in names("train", message)):
            wrong.append(f"{message}: no setting {remedy.text}")
    assert not wrong


def test_commands_exist() -> None:
    known = {name.partition(" ")[0] for name in options()}
    for message, remedy in of_kind("command"):
        words = remedy.text.split()
        if remedy.text in FOREIGN or words[0] == "pip" or "(" in remedy.text:
            continue
        assert (words[0], words[1] in known) == ("robust-encoders", True), str(message)


def test_builds_are_named_with_the_options_that_they_demand() -> None:
    """A user copies the command; without a required option it only prints its usage."""
    found = []
    for message, remedy in of_kind("command"):
        words = remedy.text.split()
        if words[:1] == ["robust-encoders"] and words[1] in ("emoji", "shapes"):
            found.append(message)
            lacking = required(words[1], words[2]) - {*words}
            assert not lacking, f"{message}: no {', '.join(sorted(lacking))}"
    assert len(found) >= 3


def required(*command: str) -> set[str]:
    """Return the options that a command demands: those outside of brackets in its usage."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    usage = said.getvalue().partition("\n\n")[0]
    return set(re.findall(r"--[a-z-]+", re.sub(r"\[[^\]]*\]", "", usage)))


def test_keywords_are_parameters() -> None:
    for message, remedy in of_kind("keyword"):
        if remedy.text in ("dtype", "model", "use_safetensors", "weight"):
            continue  # of torch and transformers, which take any
        assert remedy.text in KEYWORDS, f"{message}: add to KEYWORDS which function takes {remedy.text}="
        assert remedy.text in inspect.signature(KEYWORDS[remedy.text]).parameters, str(message)


def test_methods_exist() -> None:
    defined = {
        node.name
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for message, remedy in of_kind("call"):
        owner, _, name = remedy.text.rpartition(".")
        found = any(hasattr(one, name) for one in OWNERS.get(owner, ())) if owner in OWNERS else name in defined
        found = found or any(hasattr(one, name) for one in LIBRARIES)
        assert found, f"{message}: no {remedy.text}()"


def test_variables_and_extras_exist() -> None:
    read_here = "".join(path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    for message, remedy in of_kind("environment"):
        assert remedy.text in ENVIRONMENT, str(message)
    extras = re.search(r"\[project\.optional-dependencies\]\n(.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S)
    assert extras is not None
    declared = set(re.findall(r"^([\w-]+) = ", extras[1], re.MULTILINE))
    given = [*EXTRA_OF.values(), *re.findall(r"install_command\(['\"]([\w,-]+)['\"]\)", read_here)]
    asked = {one for several in given for one in several.split(",")}
    assert {"train", "metrics", "nudenet"} <= asked <= declared


def tables_of(message: Message) -> list[str]:
    return [part for part in (*WALKED, *NOT_WALKED) if part in message.text]


def test_every_remedy_is_followed_or_listed() -> None:
    assert not [f"{message}: {ADD}" for message in naming() if not tables_of(message)]


def test_the_tables_hold_nothing_else() -> None:
    texts = [one.text for one in read()]
    assert not [part for part in (*WALKED, *NOT_WALKED) if not any(part in text for text in texts)]
    assert not set(WALKED) & set(NOT_WALKED)
    for node in set(WALKED.values()):
        file, _, name = node.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), node


def test_the_tests_look_for_the_messages() -> None:
    """A test that follows a remedy quotes a part of the message; otherwise it may end in another error."""
    silent = []
    for part, node in WALKED.items():
        source = (ROOT / node.partition("::")[0]).read_text(encoding="utf-8").replace("\\", "")
        quoting = re.sub(r'"\s*\n\s*r?f?"', "", source)  # texts in several lines
        for one in (message for message in read() if part in message.text):
            texts = [text for text in re.split(r"\{[^}]*\}|\n", one.text) if len(text) >= LEAST_QUOTED]
            pieces = (text[i : i + 12] for text in texts for i in range(max(len(text) - 11, 1)))
            if not any(piece in quoting for piece in pieces):
                silent.append(f"{one}: {node} does not quote it")
    assert not silent


def test_how_many_are_followed(record_property: Callable[[str, object], None]) -> None:
    walked = [one for one in naming() if any(part in one.text for part in WALKED)]
    counts = {
        "errors": len(naming()),
        "remedies": sum(remedy.kind != "name" for one in naming() for remedy in one.remedies),
        "errors walked": len(walked),
        "remedies walked": sum(remedy.kind != "name" for one in walked for remedy in one.remedies),
        "listed with a reason": len(naming()) - len(walked),
    }
    for key, value in counts.items():
        record_property(key, value)
    assert counts["errors walked"] >= 125
