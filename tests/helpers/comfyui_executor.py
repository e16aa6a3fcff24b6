"""How ComfyUI 0.30.0 loads a folder of nodes and runs a graph, stated again from ``nodes.py`` and ``execution.py``.

``studies/comfyui`` runs the node in ComfyUI itself.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]


class ExecutionBlocker:
    """An output that stops the nodes that take it, with a message."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class PromptServer:
    """The server as far as a node sees it: it keeps the texts that it would send to the page."""

    instance: PromptServer | None = None

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.texts[node_id] = text


def modules(models: Path) -> dict[str, ModuleType]:
    """Return ComfyUI's modules that a node imports, with a folder of models of their own."""
    folders: dict[str, list[str]] = {}

    def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
        folders.setdefault(folder_name, []).append(full_folder_path)

    paths, graph, server = ModuleType("folder_paths"), ModuleType("comfy_execution.graph_utils"), ModuleType("server")
    vars(paths).update(
        models_dir=str(models),
        add_model_folder_path=add_model_folder_path,
        get_folder_paths=lambda folder_name: list(folders[folder_name]),
    )
    vars(graph).update(ExecutionBlocker=ExecutionBlocker)
    vars(server).update(PromptServer=PromptServer)
    package = ModuleType("comfy_execution")
    package.__path__ = []
    return {module.__name__: module for module in (paths, package, graph, server)}


def loaded(folder: Path) -> ModuleType:
    """Import a folder of nodes: under its path as a name, points replaced, and not below any package."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            del sys.modules[known]
    return module


class Executor:
    """Validation and execution of graphs; outputs are kept from one graph to the next.

    Args:
        classes: Mapping of kinds of nodes to classes.
    """

    def __init__(self, classes: Mapping[str, type[Any]]) -> None:
        self.classes = classes
        self.ran: list[str] = []
        self.ui: dict[str, Mapping[str, Any]] = {}
        self._kept: dict[object, tuple[Any, ...]] = {}

    def problems(self, graph: Graph) -> dict[str, list[str]]:
        """Return what validation finds, by node."""
        found = {number: self._problems(node) for number, node in graph.items()}
        return {number: one for number, one in found.items() if one}

    def _problems(self, node: Mapping[str, Any]) -> list[str]:
        kind, inputs = self.classes[node["class_type"]], node["inputs"]
        types = kind.INPUT_TYPES()
        own = getattr(kind, "VALIDATE_INPUTS", None)
        named = inspect.getfullargspec(own).args if own else []
        found = [f"{name}: required input is missing" for name in types["required"] if name not in inputs]
        for name, spec in {**types["required"], **types.get("optional", {})}.items():
            value = inputs.get(name)
            if name in named or name not in inputs or _is_link(value):
                continue
            if isinstance(spec[0], list) and value not in spec[0]:
                found.append(f"{name}: {value!r} not in {spec[0]}")
        if own and (given := {name: _constant(inputs[name]) for name in named if name in inputs}):
            answer = own(**given)
            found += [] if answer is True else [f"{name} - {answer}" for name in given]
        return found

    def run(self, graph: Graph, number: str) -> tuple[Any, ...]:
        """Return the outputs of a node, after those that it needs."""
        assert self.problems(graph) == {}
        node = graph[number]
        kind = self.classes[node["class_type"]]
        given = {name: self._value(graph, value) for name, value in node["inputs"].items()}
        blocked = next((value for value in given.values() if isinstance(value, ExecutionBlocker)), None)
        if blocked is not None:
            raise RuntimeError(f"Execution Blocked: {blocked.message}")
        key = self._key(graph, number)
        if key not in self._kept:
            hidden = {
                name: number for name, what in kind.INPUT_TYPES().get("hidden", {}).items() if what == "UNIQUE_ID"
            }
            answer = getattr(kind(), kind.FUNCTION)(**given, **hidden)
            self.ran.append(number)
            self.ui[number] = answer["ui"] if isinstance(answer, dict) else {}
            self._kept[key] = answer["result"] if isinstance(answer, dict) else answer
            assert len(self._kept[key]) == len(kind.RETURN_TYPES)
        return self._kept[key]

    def _value(self, graph: Graph, value: Any) -> Any:
        return self.run(graph, value[0])[value[1]] if _is_link(value) else value

    def _key(self, graph: Graph, number: str) -> object:
        kind, inputs = graph[number]["class_type"], graph[number]["inputs"]
        changed = getattr(self.classes[kind], "IS_CHANGED", None)
        state = changed(**{name: _constant(value) for name, value in inputs.items()}) if changed else None
        parts = [
            (name, self._key(graph, value[0]), value[1]) if _is_link(value) else (name, value)
            for name, value in sorted(inputs.items())
        ]
        return (kind, state, tuple(parts))


def _is_link(value: Any) -> bool:
    return isinstance(value, list)


def _constant(value: Any) -> Any:
    return None if _is_link(value) else value
