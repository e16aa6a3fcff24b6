"""Rules that hold for the whole tree."""

from __future__ import annotations

import ast
import importlib
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from tree import ROOT

import robust_encoders
from robust_encoders.cli.main import EXTRA_OF, TRAINING_COMMANDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted([*(ROOT / "robust_encoders").rglob("*.py"), *(ROOT / "training").rglob("*.py")])
Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Function):
                yield f"{relative(path)}:{node.lineno} {node.name}", node


def body_lines(node: Function) -> int:
    """Lines of a function without signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert robust_encoders.__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_exist_and_are_sorted() -> None:
    def kind(name: str) -> int:
        return 0 if name.isupper() else 1 if name[0].isupper() else 2

    names = list(robust_encoders.__all__)
    assert [name for name in names if not hasattr(robust_encoders, name)] == []
    assert names == sorted(set(names), key=lambda name: (kind(name), name)), "constants, then classes, then the rest"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_has_a_docstring_and_no_unfinished_business(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "module docstring missing"
    assert re.findall(r"\b(TODO|FIXME|XXX|HACK)\b", text) == []
    assert re.findall(r"# type: ignore(?!\[[\w-]+\] {1,2}# \w)", text) == [], "an ignore needs a code and a reason"


def test_pickles_are_read_by_the_converter_alone_and_never_run() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_load = isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"
            is_pickle = isinstance(node, ast.Import | ast.ImportFrom) and re.search(r"\bc?pickle\b", ast.unparse(node))
            if is_load or is_pickle:
                found.append(relative(path))
    assert found == ["robust_encoders/conversion/pickles.py"]
    converter = ast.parse((ROOT / "robust_encoders" / "conversion" / "pickles.py").read_text())
    (call,) = [call for call in calls(converter) if ast.unparse(call.func) == "torch.load"]
    assert "weights_only=True" in [ast.unparse(keyword) for keyword in call.keywords]


def test_nothing_is_loaded_leniently() -> None:
    offenders = [
        f"{relative(path)}:{call.lineno}"
        for path in SOURCES
        for call in calls(ast.parse(path.read_text()))
        for keyword in call.keywords
        if keyword.arg == "strict" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        # zip's keyword of that name loads nothing.
        if ast.unparse(call.func) != "zip"
    ]
    assert offenders == []


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert [where for where, node in functions() if body_lines(node) > 60] == []


def test_no_function_takes_more_than_five_positional_parameters() -> None:
    def positional(node: Function) -> int:
        return len([arg for arg in (*node.args.posonlyargs, *node.args.args) if arg.arg not in ("self", "cls")])

    assert [where for where, node in functions() if positional(node) > 5] == []


def test_the_readme_shows_both_set_up_commands_and_they_are_targets() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^\$ make {target}\b", readme, re.MULTILINE)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_the_python_of_the_readme_compiles_and_names_what_exists() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("robust_encoders", "RobustEncoder"):
                owner = (
                    robust_encoders if ast.unparse(node.value) == "robust_encoders" else robust_encoders.RobustEncoder
                )
                assert hasattr(owner, node.attr), f"the README uses {ast.unparse(node)}"


def test_every_training_command_knows_the_extra_that_it_needs() -> None:
    assert set(EXTRA_OF) == set(TRAINING_COMMANDS)
    needed = {extra for extras in EXTRA_OF.values() for extra in extras.split(",")}
    assert needed <= set(PROJECT["project"]["optional-dependencies"])


def test_the_card_template_renders_to_a_card_that_the_hub_accepts() -> None:
    data = ModelCardData(
        base_model="org/base", library_name="robust-encoders", license="apache-2.0", pipeline_tag="text-to-image"
    )
    fields: dict[str, Any] = {
        "title": "a-title",
        "summary": "a-summary",
        "reference": "org/a-reference",
        "results": "a-table",
        "limits": ["a-limit", "another-limit"],
        "recipe": "a-recipe",
        "licence": "a-licence",
        "citation": "a-citation",
    }
    template = ROOT / "robust_encoders" / "assets" / "card_template.md"
    card = ModelCard.from_template(data, template_path=str(template), **fields)
    assert vars(card.data) == vars(data)
    assert all(
        text in card.text for value in fields.values() for text in ([value] if isinstance(value, str) else value)
    )
    assert "{{" not in card.text


def test_every_test_that_the_table_of_pitfalls_names_is_there() -> None:
    text = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []
    assert re.findall(r"^\| (P\d+) \|", text, re.MULTILINE) == [f"P{i}" for i in range(1, 24)]
