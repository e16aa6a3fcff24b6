"""Maps of a UNet's cross-attentions: the places of a picture that attend to chosen tokens of a prompt.

A location is one cell of a layer's grid; a layer at a quarter of the latent's height and width has h w / 16 of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robust_encoders.overlays.eraser import cross_attentions


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Settings of the mask of the places that show the concept.

    Args:
        threshold: Smallest scaled attention inside the mask, in [0, 1]. The frozen model's attention to the concept's
            words is scaled so that each picture's smallest value is 0 and its largest is 1.
        resolution: Height of the attention maps that are averaged. None takes the height nearest to a quarter of the
            latent's, which is the paper's 16 in Stable Diffusion at 512 pixels.

    Raises:
        ValueError: If the threshold lies outside [0, 1].
    """

    threshold: float = 0.1
    resolution: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"expected a threshold in [0, 1], found {self.threshold}; the paper takes 0.1")


@contextmanager
def attention_maps(unet: nn.Module, tokens: Tensor) -> Iterator[dict[str, Tensor]]:
    """Record the attention to chosen tokens inside the context, and yield the maps by module path.

    Each cross-attention ``attn2`` gets an attention processor that computes the probabilities and then calls the
    layer's own processor. So predictions stay as they are, and any processor works. The layers get their own processors
    back when the context ends. A map is the mean of the probabilities over the heads and the chosen tokens, and belongs
    to the last UNet call.

    Args:
        unet: UNet of diffusers.
        tokens: Chosen token positions (B, L), true for at least one position of each prompt.

    Yields:
        Mapping of the module paths to maps (B, N) in float32, with N locations each; it is filled by UNet calls.

    Raises:
        ValueError: If a prompt has no chosen position. If a UNet call has other than B prompts of L positions.
    """
    if not bool(tokens.any(1).all()):
        raise ValueError("expected chosen token positions in every prompt, found a prompt without: choose some")
    maps: dict[str, Tensor] = {}
    layers: dict[str, Any] = {path: unet.get_submodule(path) for path in cross_attentions(unet)}
    before = {path: layer.processor for path, layer in layers.items()}
    share = tokens.float() / tokens.sum(1, keepdim=True)  # (B, L)
    try:
        for path, layer in layers.items():
            layer.set_processor(_Recorder(before[path], path, share, maps))
        yield maps
    finally:
        for path, layer in layers.items():
            layer.set_processor(before[path])


class _Recorder:
    """Attention processor that records a map and leaves the layer's output to the layer's own processor.

    Args:
        own: Processor of the layer.
        path: Module path of the layer.
        share: Weights (B, L) of the token positions in the map.
        maps: Mapping that receives the map.
    """

    def __init__(self, own: Any, path: str, share: Tensor, maps: dict[str, Tensor]) -> None:
        self.own, self.path, self.share, self.maps = own, path, share, maps

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **rest: Any
    ) -> Tensor:
        if encoder_hidden_states is None or encoder_hidden_states.shape[:2] != self.share.shape:
            found = None if encoder_hidden_states is None else tuple(encoder_hidden_states.shape[:2])
            raise ValueError(
                f"expected conditionings of {tuple(self.share.shape)} prompts and positions, found {found}: choose "
                "token positions for every prompt of the UNet call"
            )
        self.maps[self.path] = self._map(attn, hidden_states, encoder_hidden_states)
        output: Tensor = self.own(attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **rest)
        return output

    @torch.no_grad()
    def _map(self, attn: Any, hidden_states: Tensor, cond: Tensor) -> Tensor:
        query, key = (attn.head_to_batch_dim(one) for one in (attn.to_q(hidden_states), attn.to_k(cond)))
        found: Tensor = attn.get_attention_scores(query, key)  # (B heads, N, L)
        heads = found.float().reshape(len(cond), attn.heads, *found.shape[1:])
        return (heads.mean(1) * self.share[:, None].to(found.device)).sum(-1)


def grid_of(locations: int, latent: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a layer's grid.

    Args:
        locations: Number of locations of the layer.
        latent: Height and width of the latents; each downsampling halves both and rounds up.

    Raises:
        ValueError: If no number of downsamplings gives so many locations.
    """
    height, width = latent
    while height * width > max(locations, 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != locations:
        raise ValueError(
            f"expected a grid that halvings of {latent[0]} x {latent[1]} give, found {locations} locations: use a UNet "
            "of Stable Diffusion's kind"
        )
    return height, width


def concept_mask(maps: Mapping[str, Tensor], latent: tuple[int, int], config: MaskConfig) -> Tensor:
    """Return the mask (B, h', w') of the places that show the concept: 1 there, 0 elsewhere.

    Receler (Huang et al. 2024): the maps of the layers of one resolution are averaged and scaled to [0, 1] by each
    picture's smallest and largest value. The mask is 1 where the result is at least the threshold.

    Args:
        maps: Maps (B, N) of the concept's tokens by module path, see ``attention_maps``.
        latent: Height and width of the latents.
        config: Threshold and resolution.

    Raises:
        ValueError: If no layer has that resolution.
    """
    grids = {path: grid_of(found.shape[1], latent) for path, found in maps.items()}
    heights = sorted({height for height, _ in grids.values()})
    wanted = (
        min(heights, key=lambda height: abs(4 * height - latent[0])) if config.resolution is None else config.resolution
    )
    if wanted not in heights:
        raise ValueError(
            f"expected a resolution in {heights}, the heights of this UNet's cross-attention maps, found {wanted}: "
            "take one of them, or None"
        )
    chosen = [path for path, grid in grids.items() if grid[0] == wanted]
    mean = torch.stack([maps[path] for path in chosen]).mean(0)  # (B, N)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    # Equal values everywhere point to no place, so the mask is then empty.
    scaled = (mean - low) / (high - low).clamp(min=torch.finfo(mean.dtype).tiny)
    return (scaled >= config.threshold).float().reshape(len(mean), *grids[chosen[0]])


def resized(mask: Tensor, locations: int, latent: tuple[int, int]) -> Tensor:
    """Return a mask (B, h', w') on the grid of a layer with N ``locations``, by nearest neighbours, as (B, N).

    Args:
        mask: Mask to resize.
        locations: Number N of locations of the layer.
        latent: Height and width of the latents.
    """
    return F.interpolate(mask[:, None], size=grid_of(locations, latent), mode="nearest").flatten(1)
