"""One-dimensional adapters: which layers they lie on, and what they add to what those layers give.

Lyu et al., "One-dimensional Adapter to Rule Them All", CVPR 2024 (arXiv 2312.16145).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from robust_encoders.errors import IntegrityError

Transport = Literal["paper", "official"]
UNET_PREFIX = "lora_unet_"
TEXT_PREFIX = "lora_te_text_model_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True, eq=False)
class Adapter:
    """Adapters of one concept on the layers of one or two components, in the layout of SPM's release.

    Args:
        tensors: ``<prefix><stem>`` with ``.lora_down.weight`` (rank, in), ``.lora_up.weight`` (out, rank), both with
            (1, 1) behind for a convolution, and ``.alpha`` ().
        prompts: Prompts that it was trained to erase.
        rank: Rank of every adapter.
        alpha: Every adapter is scaled by alpha / rank.

    Raises:
        IntegrityError: Naming every tensor that is missing, unexpected, misshapen or not finite.
    """

    tensors: Mapping[str, Tensor]
    prompts: tuple[str, ...]
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        problems = [] if self.prompts and all(self.prompts) else [f"prompts: expected some, found {self.prompts}"]
        if self.rank < 1:
            problems.append(f"rank: expected at least 1, found {self.rank}")
        problems += _odd_tensors(self.tensors, self.rank, self.alpha)
        if problems:
            raise IntegrityError(
                f"these tensors are no one-dimensional adapters ({len(problems)} problem(s)):\n  "
                + "\n  ".join(problems)
                + "\nuse a file as SPM's training wrote it"
            )

    @property
    def scale(self) -> float:
        """Factor of every adapter, alpha / rank."""
        return self.alpha / self.rank

    def stems(self, prefix: str) -> tuple[str, ...]:
        """Return the layers that it lies on, of one component, without the prefix."""
        found = (key for key in self.tensors if key.startswith(prefix) and key.endswith(DOWN))
        return tuple(sorted(key.removeprefix(prefix).removesuffix(DOWN) for key in found))


def _odd_tensors(tensors: Mapping[str, Tensor], rank: int, alpha: float) -> list[str]:
    stems = {key.removesuffix(end) for key in tensors for end in (DOWN, UP, ALPHA) if key.endswith(end)}
    odd = [key for key in tensors if not key.endswith((DOWN, UP, ALPHA))]
    odd += [stem for stem in stems if not stem.startswith((UNET_PREFIX, TEXT_PREFIX))]
    problems = [f"{key}: expected no such tensor" for key in sorted(odd)] or ([] if stems else ["found no tensors"])
    for stem in sorted(stems):
        if missing := [end for end in (DOWN, UP, ALPHA) if stem + end not in tensors]:
            problems.append(f"{stem}: expected {', '.join(missing)}, found none")
            continue
        down, up, own = (tensors[stem + end] for end in (DOWN, UP, ALPHA))
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        if down.ndim not in (2, 4) or up.ndim != down.ndim or not down.shape[0] == up.shape[1] == rank:
            problems.append(f"{stem}: expected ({rank}, in) and (out, {rank}), found {shapes}")
        elif down.shape[2:].numel() * up.shape[2:].numel() != 1:
            problems.append(f"{stem}: expected a convolution of 1 x 1, found {shapes}")
        # As the file's precision holds it.
        if own.ndim or own != torch.tensor(alpha, dtype=own.dtype, device=own.device):
            problems.append(f"{stem}: expected alpha {alpha}, found {own.tolist()}")
    finite = (key for key, value in tensors.items() if not bool(torch.isfinite(value).all()))
    return [*problems, *(f"{key}: expected finite values" for key in finite)]


def unet_layers(unet: nn.Module) -> dict[str, str]:
    """Return stem to path of every linear layer and convolution inside a spatial transformer: 192 on SD 1.x.

    Args:
        unet: UNet of diffusers, perhaps with a LoRA of peft, whose base layers count.
    """
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    roots = [name for name, part in unet.named_modules() if isinstance(part, Transformer2DModel)]
    found = {}
    for root in roots:
        for name, part in unet.get_submodule(root).named_modules(prefix=root):
            if _is_layer(part) and ".lora_" not in name:
                found[name.removesuffix(".base_layer").replace(".", "_")] = name
    return found


def text_layers(text_encoder: nn.Module) -> dict[str, str]:
    """Return stem to path of q, k, v, out, fc1 and fc2 of every layer of a CLIP text encoder: 72 on ViT-L/14.

    Args:
        text_encoder: CLIP text encoder, of any transformers; base layers count where peft put a LoRA on it.
    """
    found = {}
    for name, part in text_encoder.named_modules():
        path = name.removesuffix(".base_layer")
        if _is_layer(part) and ".lora_" not in name and path.rpartition(".")[2] in (*_ATTENTION, "fc1", "fc2"):
            found[path.removeprefix("text_model.").replace(".", "_")] = name
    return found


def _is_layer(part: nn.Module) -> bool:
    # A wrapper of peft is no such layer itself, what it wraps is.
    return isinstance(part, (nn.Linear, nn.Conv2d))


LAYERS: Mapping[str, Callable[[nn.Module], dict[str, str]]] = {UNET_PREFIX: unet_layers, TEXT_PREFIX: text_layers}


class Gates:
    """How far each row of a batch opens each of K adapters, at this moment.

    Attributes:
        value: (B, K); None leaves every layer exactly as it is.
        transport: ``paper``: y = W x + sum_k g_k U_k D_k x. ``official``, as the released code computes: the sums of
            the up and of the down vectors, each times its gate, are multiplied.
        scales: A factor for each adapter; empty for ones.
        everywhere: Whether one row of gates stands for all rows of any batch, as in training.
    """

    def __init__(
        self, transport: Transport = "paper", scales: tuple[float, ...] = (), *, everywhere: bool = False
    ) -> None:
        self.value: Tensor | None = None
        self.everywhere = everywhere
        self.transport: Transport = transport
        self.scales: tuple[float, ...] = scales


def hook(root: nn.Module, adapters: Sequence[Adapter], prefix: str, gates: Gates) -> list[RemovableHandle]:
    """Let adapters add to what the layers of a component give.

    Args:
        root: The component.
        adapters: K of them, in the order of the gates' columns; some may lie on no layer of this component.
        prefix: Prefix of the component.
        gates: Read at every call.

    Raises:
        ValueError: If an adapter lies on a layer that the component does not have.
    """
    paths = LAYERS[prefix](root)
    stems = {stem for adapter in adapters for stem in adapter.stems(prefix)}
    if missing := sorted(stems - paths.keys()):
        raise ValueError(f"expected layers for all adapters, found none for {', '.join(missing[:3])}: another base")
    handles = []
    for stem in sorted(stems):
        layer = root.get_submodule(paths[stem])
        handles.append(layer.register_forward_hook(_Added(adapters, prefix + stem, gates)))
    return handles


class _Added:
    """A forward hook of one layer.

    Args:
        adapters: K of them, of which some lie on this layer.
        stem: Stem of the layer, with its prefix.
        gates: Read at every call.
    """

    def __init__(self, adapters: Sequence[Adapter], stem: str, gates: Gates) -> None:
        self.here = [k for k, adapter in enumerate(adapters) if stem + DOWN in adapter.tensors]
        self.gates = gates
        chosen = [adapters[k] for k in self.here]
        self.factors, self.ranks = [one.scale for one in chosen], [one.rank for one in chosen]
        self.downs = [one.tensors[stem + DOWN].flatten(1) for one in chosen]  # (rank, in)
        self.ups = [one.tensors[stem + UP].flatten(1) for one in chosen]  # (out, rank)
        self._kept: tuple[tuple[torch.device, torch.dtype], Tensor, Tensor] | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if self.gates.value is None:
            return None
        # In place it takes a tenth of the time; not what a hook before this one may have kept, or a backward needs.
        alone = next(iter(module._forward_hooks.values())) is self
        # Autocast does not cast what is done in place.
        alike = args[0].dtype == output.dtype and not torch.is_autocast_enabled(output.device.type)
        inside = alone and alike and not torch.is_grad_enabled() and self.gates.transport == "paper"
        if inside and args[0].ndim == 4 and args[0].is_contiguous() and output.is_contiguous():
            return self._into_places(args[0], output)
        if args[0].ndim == 4:  # a convolution of 1 x 1 is a linear layer on every place
            x, y = args[0].permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
            return self._of(x, y, inside=inside).permute(0, 3, 1, 2)
        return self._of(args[0], output, inside=inside)

    def _into_places(self, x: Tensor, y: Tensor) -> Tensor:
        """Add to y (B, out, h, w) what the adapters make of x (B, in, h, w), and return it."""
        down, up = self._stacked(x)
        strengths = self._strengths(self._opened(x))
        inner = torch.matmul(down, x.flatten(2)) * strengths.unsqueeze(-1)  # (B, R, h w)
        y.view(*y.shape[:2], -1).baddbmm_(up.expand(len(x), -1, -1), inner)
        return y

    def _of(self, x: Tensor, y: Tensor, *, inside: bool) -> Tensor:
        """Return y (B, ..., out), itself or anew, with what the adapters make of x (B, ..., in)."""
        opened = self._opened(x)
        down, up = self._stacked(x)
        inner = functional.linear(x, down)  # (B, ..., R)
        strengths = self._strengths(opened)
        if self.gates.transport == "paper":
            inner = inner * _along(strengths, inner)
            if not inside or not y.is_contiguous():
                return y + functional.linear(inner, up)
            y.view(-1, len(up)).addmm_(inner.reshape(-1, len(up.T)), up.T)
            return y
        # Of equal rank r: the sums over adapters of the down and of the up vectors, each adapter times its gate.
        each = inner.reshape(*inner.shape[:-1], len(self.here), -1)  # (B, ..., K, r)
        total = (each * _along(opened, inner).unsqueeze(-1)).sum(dim=-2)
        ups = (up.T * strengths.unsqueeze(-1)).reshape(len(x), len(self.here), -1, len(up)).sum(dim=1)  # (B, r, out)
        return y + torch.einsum("b...r,bro->b...o", total, ups)

    def _opened(self, x: Tensor) -> Tensor:
        """Return the gates (B, K) of the adapters here."""
        value = self.gates.value
        if value is not None and self.gates.everywhere:
            value = value.expand(len(x), -1)
        if value is None or len(value) != len(x):
            raise RuntimeError(
                f"expected {0 if value is None else len(value)} rows, as many as there are gates, found {len(x)}: "
                "something changed the batch between the text encoder and this layer; draw without it, or fuse the "
                "adapters"
            )
        return (value if len(self.here) == value.shape[1] else value[:, self.here]).to(x)

    def _strengths(self, opened: Tensor) -> Tensor:
        """Return gates (B, K) times the constant factors, once for each rank of their adapter, (B, R)."""
        columns = opened * self._factors(opened)
        return columns if set(self.ranks) == {1} else self._repeated(columns)

    def _factors(self, x: Tensor) -> Tensor | float:
        """Return the constant factors (K,) of the adapters here, as one number where they are equal."""
        scales = [self.gates.scales[k] if self.gates.scales else 1.0 for k in self.here]
        factors = [factor * scale for factor, scale in zip(self.factors, scales, strict=True)]
        return factors[0] if len(set(factors)) == 1 else x.new_tensor(factors)

    def _repeated(self, columns: Tensor) -> Tensor:
        """Return columns (B, K) once for each rank of their adapter, (B, R)."""
        return torch.cat([columns[:, k : k + 1].expand(-1, rank) for k, rank in enumerate(self.ranks)], dim=1)

    def _stacked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all down vectors (R, in) and all up vectors (out, R) where the input is."""
        place = (x.device, x.dtype)
        if self._kept is not None and self._kept[0] == place:
            return self._kept[1:]
        trained = any(tensor.requires_grad for tensor in (*self.downs, *self.ups))
        # What is kept must do for every later call, also if this one is made in inference mode.
        with nullcontext() if trained else torch.inference_mode(False):
            down = torch.cat([tensor.to(x.device, x.dtype) for tensor in self.downs])
            up = torch.cat([tensor.to(x.device, x.dtype) for tensor in self.ups], dim=1)
        if not trained:  # what is trained changes
            self._kept = (place, down, up)
        return down, up


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B, n) with as many dimensions as ``like`` (B, ..., R)."""
    return values.reshape(len(values), *[1] * (like.ndim - 2), -1)


def fused_weights(
    root: nn.Module, adapters: Sequence[Adapter], prefix: str, constants: Sequence[float]
) -> dict[str, Tensor]:
    """Return the weights of a component with adapters added, each with a constant gate: W + sum_k c_k s_k U_k D_k.

    Args:
        root: The component; left as it is.
        adapters: K of them.
        prefix: Prefix of the component.
        constants: A gate for each.

    Returns:
        Path and ``.weight`` to the weight, in its own dtype, of every layer that an adapter lies on.
    """
    paths, weights = LAYERS[prefix](root), {}
    for stem in sorted({stem for adapter in adapters for stem in adapter.stems(prefix)}):
        weight: Any = root.get_submodule(paths[stem]).weight
        joined = weight.detach().float()
        for adapter, constant in zip(adapters, constants, strict=True):
            if prefix + stem + DOWN in adapter.tensors:
                down, up = (adapter.tensors[prefix + stem + end].flatten(1).to(joined) for end in (DOWN, UP))
                joined = joined + constant * adapter.scale * (up @ down).view_as(joined)
        weights[f"{paths[stem]}.weight"] = joined.to(weight.dtype)
    return weights
