"""Erasers (Receler): small modules after the cross-attentions of a UNet, each with its own input-dependent output.

An eraser changes the output o of a cross-attention (after its output layer ``to_out``) to o + U GELU(D o + b_D) + b_U.
Huang et al., "Receler: Reliable Concept Erasing of Text-to-Image Diffusion Models via Lightweight Erasers", ECCV 2024
(arXiv 2311.17717). The modules act by hooks, because the GELU keeps them from being written into linear weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from robust_encoders.errors import IntegrityError
from robust_encoders.overlays.values import odd_values, shown

DOWN, DOWN_BIAS, UP, UP_BIAS = ".down.weight", ".down.bias", ".up.weight", ".up.bias"
ENDS = (DOWN, DOWN_BIAS, UP, UP_BIAS)
Observer = Callable[[str, Tensor], None]


@dataclass(frozen=True, eq=False)
class Eraser:
    """Modules of one concept after some or all cross-attentions of a UNet.

    Args:
        tensors: Four tensors for each cross-attention, named by its module path plus ``.down.weight`` (rank, C),
            ``.down.bias`` (rank,), ``.up.weight`` (C, rank) or ``.up.bias`` (C,); C is the width of its output. The
            tensors may be Parameters under training.

    Raises:
        IntegrityError: If a tensor is missing, unexpected, misshapen or not finite, or if the ranks differ; the message
            counts the problems and names the first ones.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if problems := _odd_tensors(self.tensors):
            raise IntegrityError(
                "expected for each cross-attention .down.weight (rank, C), .down.bias (rank,), .up.weight (C, rank) "
                f"and .up.bias (C,), finite and of one rank, found {shown(problems)}; make or fetch the eraser again"
            )

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Module paths of the cross-attentions that the eraser acts on, sorted."""
        return tuple(sorted(name.removesuffix(DOWN) for name in self.tensors if name.endswith(DOWN)))

    @property
    def rank(self) -> int:
        """Inner width of every module."""
        return len(self.tensors[self.paths[0] + DOWN])

    @property
    def widths(self) -> dict[str, int]:
        """Width C of each cross-attention's output, by module path."""
        return {path: len(self.tensors[path + UP]) for path in self.paths}

    def module(self, path: str) -> EraserTensors:
        """Return the four tensors of one cross-attention.

        Args:
            path: Module path of the cross-attention.
        """
        return EraserTensors(*(self.tensors[path + end] for end in ENDS))


class EraserTensors(NamedTuple):
    """The tensors of the module after one cross-attention of width C.

    Args:
        down: Matrix D (rank, C).
        down_bias: Vector b_D (rank,).
        up: Matrix U (C, rank).
        up_bias: Vector b_U (C,).
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor

    def output(self, o: Tensor) -> Tensor:
        """Return U GELU(D o + b_D) + b_U, with the exact GELU.

        Gradients reach the tensors and o. Under autocast the operations choose their precision; otherwise the tensors
        are cast to the dtype of o.

        Args:
            o: Output of the cross-attention (..., C).
        """
        automatic = torch.is_autocast_enabled(o.device.type)
        down, down_bias, up, up_bias = (one.to(o.device) if automatic else one.to(o) for one in self)
        return functional.linear(functional.gelu(functional.linear(o, down, down_bias)), up, up_bias)


def _odd_tensors(tensors: Mapping[str, Tensor]) -> list[str]:
    paths = sorted({name.removesuffix(end) for name in tensors for end in ENDS if name.endswith(end)})
    problems = [f"{name}, which names no part of a module" for name in sorted(tensors) if not name.endswith(ENDS)]
    problems += [] if paths else ["no modules"]
    ranks = set()
    for path in paths:
        if missing := [end for end in ENDS if path + end not in tensors]:
            problems.append(f"{path} without {', '.join(missing)}")
            continue
        down, down_bias, up, up_bias = (tuple(tensors[path + end].shape) for end in ENDS)
        fits = len(down) == 2 and 0 not in down and up == down[::-1] and (down_bias, up_bias) == (down[:1], down[1:])
        ranks |= {down[0]} if fits else set()
        problems += [] if fits else [f"{path} with shapes {down}, {down_bias}, {up}, {up_bias}"]
    problems += [f"ranks {sorted(ranks)}"] if len(ranks) > 1 else []
    return problems + odd_values(tensors)


def cross_attentions(unet: nn.Module) -> dict[str, int]:
    """Return the module paths of a UNet's cross-attentions ``attn2`` and the widths C of their outputs.

    A UNet of Stable Diffusion 1.x has 16 of them.

    Args:
        unet: UNet of diffusers. Where peft put a LoRA on an output layer, its width is still found.
    """
    found: dict[str, int] = {}
    for path, module in unet.named_modules():
        attention: Any = module
        if path.rpartition(".")[2] == "attn2" and getattr(attention, "is_cross_attention", False):
            found[path] = int(attention.to_out[0].out_features)
    return found


def new_tensors(unet: nn.Module, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the tensors of an untrained eraser, which changes nothing because every U and b_U is zero.

    D and b_D are drawn uniformly from [-1 / sqrt(C), 1 / sqrt(C)], as ``nn.Linear`` does.

    Args:
        unet: UNet of diffusers; it is not changed.
        rank: Inner width of every module; 128 in the paper.
        generator: Source of the random values, on the CPU.

    Returns:
        Mapping of the names of :class:`Eraser` to float32 tensors on the CPU.
    """
    tensors = {}
    for path, width in cross_attentions(unet).items():
        bound = width**-0.5
        tensors[path + DOWN] = torch.empty(rank, width).uniform_(-bound, bound, generator=generator)
        tensors[path + DOWN_BIAS] = torch.empty(rank).uniform_(-bound, bound, generator=generator)
        tensors[path + UP], tensors[path + UP_BIAS] = torch.zeros(width, rank), torch.zeros(width)
    return tensors


def misfits(unet: nn.Module, eraser: Eraser) -> list[str]:
    """Return the problems of an eraser on a UNet, in words: cross-attentions that do not exist or have another width.

    Args:
        unet: UNet of diffusers.
        eraser: Eraser to compare with it.
    """
    known = cross_attentions(unet)
    missing = [f"no cross-attention {path}" for path in eraser.paths if path not in known]
    widths = {path: width for path, width in eraser.widths.items() if known.get(path, width) != width}
    return missing + [f"{path} of width {known[path]} for {width}" for path, width in widths.items()]


def hook(
    unet: nn.Module, erasers: Sequence[Eraser], *, scale: float = 1.0, observe: Observer | None = None
) -> list[RemovableHandle]:
    """Register forward hooks that add the erasers' outputs to the outputs of a UNet's cross-attentions.

    Several erasers read the same o, and their outputs are summed.

    Args:
        unet: UNet of diffusers that gets the hooks.
        erasers: Erasers to apply. Tensors that require gradients are read again at every call, and gradients reach
            them.
        scale: Factor of the added outputs.
        observe: Function that is called at every pass with the path of a cross-attention and the sum of the erasers'
            outputs there (B, h w, C), before the scale and with gradients. Receler's regularisation reads it.

    Returns:
        Handles that remove the hooks.

    Raises:
        ValueError: If the UNet lacks a cross-attention of an eraser, or has it with another width.
    """
    if wrong := [problem for eraser in erasers for problem in misfits(unet, eraser)]:
        raise ValueError(
            f"expected a cross-attention of its width for every module of the erasers, found {shown(wrong)}; load the "
            "base that the erasers were made for"
        )
    paths = sorted({path for eraser in erasers for path in eraser.paths})
    return [
        unet.get_submodule(path).register_forward_hook(
            _Erased(path, [eraser.module(path) for eraser in erasers if path in eraser.paths], scale, observe)
        )
        for path in paths
    ]


@contextmanager
def applied(
    unet: nn.Module, erasers: Sequence[Eraser], *, scale: float = 1.0, observe: Observer | None = None
) -> Iterator[None]:
    """Apply erasers to a UNet for the length of a ``with`` block; for arguments and errors, see :func:`hook`."""
    handles = hook(unet, erasers, scale=scale, observe=observe)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Erased:
    """Forward hook of one cross-attention, which adds the outputs of all modules after it.

    Args:
        path: Module path of the cross-attention, for the observer.
        modules: Tensors of the modules after it; at least one.
        scale: Factor of the added outputs.
        observe: Function that sees the summed outputs before the scale; None for no such function.
    """

    def __init__(
        self, path: str, modules: Sequence[EraserTensors], scale: float, observe: Observer | None = None
    ) -> None:
        self.path, self.scale, self.observe = path, scale, observe
        self.modules = list(modules)
        self._kept: tuple[tuple[torch.device, torch.dtype], EraserTensors] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        added = self._joined(output).output(output)
        if self.observe is not None:
            self.observe(self.path, added)
        return (output + (added if self.scale == 1.0 else self.scale * added)).to(output.dtype)

    def _joined(self, o: Tensor) -> EraserTensors:
        """Return one module that equals the sum of all modules, in the dtype and on the device of o.

        The sum of modules is the module with stacked inner rows: the GELU acts on each inner row by itself.
        """
        place = (o.device, o.dtype)
        if self._kept is not None and self._kept[0] == place:
            return self._kept[1]
        if any(tensor.requires_grad for one in self.modules for tensor in one):
            return _stacked(self.modules)  # values under training change, so they are not cached
        # The cached tensors serve all later calls, so they must be normal tensors even in a call in inference mode.
        with torch.inference_mode(False):
            cast = [EraserTensors(*(tensor.to(o.device, o.dtype) for tensor in one)) for one in self.modules]
            joined = _stacked(cast)
        self._kept = (place, joined)
        return joined


def _stacked(modules: Sequence[EraserTensors]) -> EraserTensors:
    if len(modules) == 1:
        return modules[0]
    place = modules[0].down
    down, down_bias, up = (
        torch.cat([getattr(one, name).to(place) for one in modules], dim=dim)
        for name, dim in (("down", 0), ("down_bias", 0), ("up", 1))
    )
    return EraserTensors(down, down_bias, up, torch.stack([one.up_bias.to(place) for one in modules]).sum(0))
