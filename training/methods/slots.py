"""Training of one of two text encoders, as SDXL has them: which settings allow it, and which parameters matter."""

from __future__ import annotations

from torch import nn

from ..diffusion.backbone import Backbone
from ..diffusion.two_encoders import TwoEncoderBackbone
from ..trainer.parameters import SelectionConfig
from .terms_method import TermsMethod, on_conditionings


def slot_problems(method: TermsMethod) -> list[str]:
    """Return the settings of a method that a base with two text encoders does not allow, one sentence each.

    Terms on conditionings measure distances as the UNet of Stable Diffusion 1 and 2 sees them. They leave out the
    pooled vector, through which SDXL's UNet reads the prompt, too.

    Args:
        method: Settings of the method.
    """
    if method.component == "unet":
        return [
            "expected component 'text_encoder' or 'text_encoder_2' on a base with two text encoders, found 'unet': "
            "choose one of them, or a base of Stable Diffusion 1 or 2"
        ]
    used = [name for name, given in on_conditionings(method).items() if given]
    kind = "terms on predictions alone on a base with two text encoders"
    return [f"expected {kind}, found {name}: leave it out" for name in used]


def require_slot(method: TermsMethod, backbone: Backbone) -> None:
    """Check that a backbone is for the component of a method, and that its settings allow two text encoders.

    Raises:
        ValueError: If the backbone is for another text encoder, or a setting does not allow two.
    """
    if method.component != "unet":
        require_backbone_for(method.component, backbone)
    if backbone.beside and (problems := slot_problems(method)):
        raise ValueError("; ".join(problems))


def require_backbone_for(component: str, backbone: Backbone) -> None:
    """Check that a backbone is for one of the text encoders.

    Raises:
        ValueError: If the backbone is for another text encoder.
    """
    if component != backbone.component:
        raise ValueError(
            f"expected a backbone for component {component!r}, found one for {backbone.component!r}: make it by "
            f"backbone_of(pipe, {component!r})"
        )


def read_parameters(select: SelectionConfig, backbone: Backbone) -> dict[str, nn.Parameter]:
    """Return the selected parameters of a text encoder, without those that the pipeline does not read.

    Args:
        select: Selection of the parameters to train.
        backbone: Base with the text encoder to train.

    Raises:
        ValueError: If the pipeline reads none of the selected parameters.
    """
    chosen = select.select(backbone.text_encoder)
    if not isinstance(backbone, TwoEncoderBackbone):
        return chosen
    read = {name: parameter for name, parameter in chosen.items() if backbone.reads(name)}
    if not read:
        raise ValueError(
            f"expected parameters that SDXL reads in its {backbone.component}, found only the last layer and the final "
            "norm, which it skips: choose other layers with select.layers"
        )
    return read
