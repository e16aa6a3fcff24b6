"""No module maps a file of tensors: what is verified, or computed once, must not change with the file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAPPING = {"load_file", "safe_open", "load_model", "memmap", "mmap"}


def mapping_calls(source: str) -> list[str]:
    """Return the names of called functions that map a file, unless they are told not to."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
    return [name for name in names if name in MAPPING]


@pytest.mark.parametrize("package", ["robust_encoders", "training"])
def test_no_module_maps_a_file(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for path in (ROOT / package).rglob("*.py")
        if (calls := mapping_calls(path.read_text(encoding="utf-8")))
    }
    assert not found, "use robust_encoders.artifact.owned_file.read_owned instead"


def test_such_a_call_would_be_found() -> None:
    assert mapping_calls("import safetensors.torch\nsafetensors.torch.load_file('a')") == ["load_file"]
    assert mapping_calls("with safe_open('a', 'pt') as file: ...") == ["safe_open"]
