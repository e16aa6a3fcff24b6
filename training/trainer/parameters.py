"""Selection of the text encoder's parameters that a method trains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

LAYER = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.(.+)$")
# Beginnings of the names of the parameters in each part of a layer.
PARTS = {"all": ("",), "attention": ("self_attn.",), "mlp": ("mlp.",), "linear": ("self_attn.", "mlp.")}


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Selection of a CLIP text encoder's parameters, by layer number and part.

    In AdvUnlearn (Zhang et al. 2024), nudity trains every layer and the final norm. Styles and objects train only
    layer 0. Layer numbers are compared as numbers here. In the authors' code "layer 1" is a string prefix that also
    selects layers 10 and 11. Token and position embeddings are never trained.

    Args:
        layers: Numbers of the layers to train, from 0; None selects every layer.
        part: Part of each layer to train. ``linear`` is both ``attention`` and ``mlp``; all three leave out the layer
            norms. ``all`` is the whole layer.
        final_norm: Switch that also trains the final layer norm. The paper trains it together with every layer, but
            not together with layer 0 alone.
    """

    layers: tuple[int, ...] | None = None
    part: Literal["all", "attention", "mlp", "linear"] = "all"
    final_norm: bool = True

    def select(self, text_encoder: nn.Module) -> dict[str, nn.Parameter]:
        """Return the selected parameters by name, in the model's order.

        Raises:
            ValueError: If the model does not have a layer, if the part is unknown, or if no parameter is selected.
        """
        named = dict(text_encoder.named_parameters())
        available = {int(match[1]) for name in named if (match := LAYER.search(name))}
        wanted = available if self.layers is None else set(self.layers)
        if self.part not in PARTS or not wanted <= available:
            raise ValueError(
                f"expected layers among {sorted(available)} and a part in {tuple(PARTS)}, "
                f"found layers {sorted(wanted - available)} and part {self.part!r}"
            )
        chosen = {name: parameter for name, parameter in named.items() if self._takes(name, wanted)}
        if not chosen:
            raise ValueError(f"expected parameters to train, found none with {self}: select a layer or the final norm")
        return chosen

    def _takes(self, name: str, wanted: set[int]) -> bool:
        match = LAYER.search(name)
        if match is None:
            return self.final_norm and "final_layer_norm." in name
        return int(match[1]) in wanted and match[2].startswith(PARTS[self.part])
