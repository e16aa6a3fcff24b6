"""Every pipeline class of diffusers with one CLIP text encoder: attach, encode, detach; docs/use.md lists them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from tree import ROOT

from robust_encoders import RobustEncoder

SWITCHES = {"requires_safety_checker": False}
CONSTRAINT = re.search(r"^diffusers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(kind.__init__).parameters)
    return {name: one for name, one in found.items() if name != "self" and one.kind is not one.VAR_KEYWORD}


def fits(kind: Any) -> bool:
    """Return whether a class has one CLIP text encoder and a UNet of Stable Diffusion 1 or 2."""
    if not (inspect.isclass(kind) and issubclass(kind, DiffusionPipeline)) or kind is DiffusionPipeline:
        return False
    taken = parameters(kind)
    encoders = [name for name in taken if "text_encoder" in name]
    if encoders != ["text_encoder"] or "unet" not in taken or kind.__module__.startswith("diffusers.utils.dummy"):
        return False
    encoder, unet = str(taken["text_encoder"].annotation), str(taken["unet"].annotation)
    return encoder.endswith(".CLIPTextModel'>") and "UNet2DConditionModel" in unet


def classes() -> Iterator[str]:
    for name in sorted(dir(diffusers)):
        # ControlNet-XS cannot be made on a tiny UNet, so it is not tried. Some deprecated classes raise when looked up.
        if "Pipeline" in name and not name.startswith(("Flax", "Onnx")) and "ControlNetXS" not in name:
            try:
                kind = getattr(diffusers, name)
            except (ImportError, RuntimeError, AttributeError):
                continue
            if fits(kind):
                yield name


CLASSES = tuple(classes())


def made(name: str, pipe: Any) -> Any:
    """Return a pipeline of a class on the components of another; what that one lacks is None."""
    kind = getattr(diffusers, name)
    pool = {**pipe.components, "controlnet": ControlNetModel.from_unet(pipe.unet), **SWITCHES}
    taken = parameters(kind)
    needed = [part for part, one in taken.items() if part in pool or one.default is inspect.Parameter.empty]
    return kind(**{part: pool.get(part) for part in needed})


@pytest.mark.parametrize("name", CLASSES)
def test_it_attaches_changes_the_conditioning_and_detaches(
    name: str, tiny_pipe: Any, tiny_encoder: RobustEncoder
) -> None:
    pipe = made(name, tiny_pipe)
    own = pipe.text_encoder
    ids = pipe.tokenizer(["a circle"], return_tensors="pt").input_ids
    before = own(ids)[0].detach()
    assert tiny_encoder.check(pipe).ok
    tiny_encoder.attach(pipe)
    assert pipe.text_encoder is not own
    assert not torch.equal(pipe.text_encoder(ids)[0].detach(), before)
    tiny_encoder.detach(pipe)
    assert pipe.text_encoder is own
    assert torch.equal(own(ids)[0].detach(), before)


@pytest.mark.skipif(
    CONSTRAINT is None or diffusers.__version__ != CONSTRAINT.group(1),
    reason="the documentation lists the classes of the diffusers in constraints.txt",
)
def test_the_documentation_lists_all_of_them() -> None:
    text = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
    listed = text.partition("<!-- pipeline classes: begin -->")[2].partition("<!-- pipeline classes: end -->")[0]
    assert re.findall(r"`(\w+)`", listed) == list(CLASSES), f"expected in docs/use.md: {CLASSES}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(\d+) classes are tested", readme) == [str(len(CLASSES))]
