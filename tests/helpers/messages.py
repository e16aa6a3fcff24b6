"""The messages of the tree and what they tell a user to do, read from the text of the source files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tree import ROOT

ROOMS = ("robust_encoders", "training")
# Keywords of calls whose texts describe an option or a command. Tests of the help read those.
DESCRIBING = {"help", "description", "metavar", "prog"}
OPTION = re.compile(r"(?<![\w-])--[a-z]\w*(?:[.-]\w+)*")
BACKTICK = re.compile(r"`([^`]+)`")
PIP = re.compile(r"pip install(?: --?[a-z-]+)* (?:'[^']*'|\S+)")
KEYWORD = re.compile(r"\b([a-z]\w*)=(?=True|False|None|\.\.\.|'|[A-Z]\w*|encoder\.|Backbone|\{)")
CALL = re.compile(r"(?:\b([A-Za-z]\w*)\.)?(?<!\\)\b([A-Za-z]\w*)\((?!s\))")
ENVIRONMENT = re.compile(r"\b(?:HF|ROBUST_ENCODERS|CUDA|WORLD)_[A-Z][A-Z_]*\b")
SETTING = re.compile(
    r"\b(?:retain|unlearn|hardening|language|outliers|adversary|train|bank|start|attack|prior)\.[a-z][a-z_]*\b"
)
SNAKE = re.compile(r"(?<![\w./<{-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b(?![./}])")


@dataclass(frozen=True)
class Remedy:
    """One thing that a message names.

    Args:
        kind: option, command, pip, keyword, call, environment, setting or name.
        text: The thing itself, without backticks.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Message:
    """One text that a user can read.

    Args:
        path: Path of the source file in the tree.
        line: Line in it.
        text: The text, in which ``{expression}`` stands for each value.
        remedies: What it names.
    """

    path: str
    line: int
    text: str
    remedies: tuple[Remedy, ...]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.text!r}"


def messages() -> list[Message]:
    """Return all texts of the tree that name something to do; docstrings and descriptions of options are left out."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if not any(part.is_symlink() for part in path.parents):  # a checkout may link one room into the other
                found += list(_messages_of(path))
    return found


def _messages_of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(one) for one in _described(tree)}
    for node in ast.walk(tree):
        text = shown(node)
        if text is not None and id(node) not in skipped and " " in text and (named := remedies_of(text)):
            yield Message(str(path.relative_to(ROOT)), getattr(node, "lineno", 0), text, named)


def _described(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the texts that are no messages: docstrings, descriptions of options, and parts of other texts."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr):
            yield node.body[0].value
        if isinstance(node, ast.keyword) and node.arg in DESCRIBING:
            yield from ast.walk(node.value)
        if isinstance(node, ast.JoinedStr):
            yield from (inner for inner in ast.walk(node) if inner is not node)


def shown(node: ast.AST) -> str | None:
    """Return the text of a literal, with ``{expression}`` for each value in it; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else _placeholder(ast.unparse(part.value))
            for part in node.values
            if isinstance(part, (ast.Constant, ast.FormattedValue))
        )
    return None


def _placeholder(expression: str) -> str:
    return f"{{{expression}}}" if re.fullmatch(r"[\w.]+", expression) else "{}"


def remedies_of(text: str) -> tuple[Remedy, ...]:
    """Return what a message names: each thing once, in the order of the text within its kind."""
    bare = re.sub(r"\{[^{}]*\}", "{}", text)
    quoted = [one for one in BACKTICK.findall(bare) if re.match(r"[a-z-]+ \S|\w+(\.\w+)*\(|[a-z]+_[a-z]+$", one)]
    found = [Remedy("command", one) for one in quoted]
    found += [Remedy("pip", one) for one in PIP.findall(bare)]
    outside = PIP.sub("", BACKTICK.sub(lambda m: m[0] if m[1].startswith("robust-encoders") else "", bare))
    found += [Remedy("option", one) for one in OPTION.findall(outside)]
    found += [Remedy("keyword", one) for one in KEYWORD.findall(bare)]
    found += [Remedy("call", ".".join(filter(None, one))) for one in CALL.findall(bare)]
    found += [Remedy("environment", one) for one in ENVIRONMENT.findall(bare)]
    found += [Remedy("setting", one) for one in SETTING.findall(bare)]
    found += [Remedy("name", one) for one in SNAKE.findall(CALL.sub("", SETTING.sub("", KEYWORD.sub("", bare))))]
    return tuple(dict.fromkeys(found))
