"""One-dimensional adapters (SPM): the layers that they lie on, and the vectors that they add to the layers' outputs.

Each adapter has a gate for each prompt, a number that scales what the adapter adds; a gate of 0 switches it off.
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
DEFAULT_TRANSPORT: Transport = "official"
UNET_PREFIX = "lora_unet_"
TEXT_PREFIX = "lora_te_text_model_"
DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True, eq=False)
class Adapter:
    """Adapters of one concept on the layers of one or two components, in the layout of SPM's release.

    Args:
        tensors: Three tensors for each layer, named ``<prefix><stem>`` (component and layer) plus
            ``.lora_down.weight`` (rank, in), ``.lora_up.weight`` (out, rank) or ``.alpha`` (). For a convolution, down
            and up have the further dimensions (1, 1).
        prompts: Prompts that the adapter was trained to erase.
        rank: Rank of every adapter.
        alpha: Numerator of the scale alpha / rank, which multiplies every adapter.

    Raises:
        IntegrityError: If a tensor is missing, unexpected, misshapen or not finite; the message names each of them.
    """

    tensors: Mapping[str, Tensor]
    prompts: tuple[str, ...]
    rank: int
    alpha: float

    def __post_init__(self) -> None:
        problems = [] if self.prompts and all(self.prompts) else [f"prompts: expected some text, found {self.prompts}"]
        if self.rank < 1:
            problems.append(f"rank: expected at least 1, found {self.rank}")
        problems += _odd_tensors(self.tensors, self.rank, self.alpha)
        if problems:
            raise IntegrityError(
                f"these tensors are no one-dimensional adapters ({len(problems)} problem(s)):\n  "
                + "\n  ".join(problems)
                + "\nuse an unchanged file of SPM's training"
            )

    @property
    def scale(self) -> float:
        """Factor of every adapter, alpha / rank."""
        return self.alpha / self.rank

    def stems(self, prefix: str) -> tuple[str, ...]:
        """Return the stems of the layers that the adapter lies on in one component, without the component's prefix."""
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
        # Alpha is compared in the precision of the file.
        if own.ndim or own != torch.tensor(alpha, dtype=own.dtype, device=own.device):
            problems.append(f"{stem}: expected alpha {alpha}, found {own.tolist()}")
    finite = (key for key, value in tensors.items() if not bool(torch.isfinite(value).all()))
    return [*problems, *(f"{key}: expected finite values" for key in finite)]


def unet_layers(unet: nn.Module) -> dict[str, str]:
    """Map the stem to the module path for every linear layer and convolution in the UNet's spatial transformers.

    A UNet of Stable Diffusion 1.x has 192 such layers.

    Args:
        unet: UNet of diffusers. Where peft put a LoRA on a layer, the base layer inside counts.
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
    """Map the stem to the module path for q, k, v, out, fc1 and fc2 of every block of a CLIP text encoder.

    The text encoder of ViT-L/14 has 72 such layers.

    Args:
        text_encoder: CLIP text encoder of any version of transformers. Where peft put a LoRA on a layer, the base layer
            inside counts.
    """
    found = {}
    for name, part in text_encoder.named_modules():
        path = name.removesuffix(".base_layer")
        if _is_layer(part) and ".lora_" not in name and path.rpartition(".")[2] in (*_ATTENTION, "fc1", "fc2"):
            found[path.removeprefix("text_model.").replace(".", "_")] = name
    return found


def _is_layer(part: nn.Module) -> bool:
    # A peft wrapper is neither; the layer that it wraps is.
    return isinstance(part, (nn.Linear, nn.Conv2d))


LAYERS: Mapping[str, Callable[[nn.Module], dict[str, str]]] = {UNET_PREFIX: unet_layers, TEXT_PREFIX: text_layers}


class Gates:
    """The current gates: the strength with which each row of a batch opens each of K adapters.

    Attributes:
        value: Gates (B, K); None leaves every layer exactly as it is.
        transport: Rule of the gates. ``paper``: y = W x + sum_k g_k U_k D_k x. ``official``, the arithmetic of the
            released code: up vectors and down vectors are summed separately, each times its gate, and the two sums are
            multiplied.
        scales: Factor of each adapter; empty if all factors are 1.
        everywhere: True if the single row of gates applies to all rows of any batch, as in training.
    """

    def __init__(
        self, transport: Transport = "paper", scales: tuple[float, ...] = (), *, everywhere: bool = False
    ) -> None:
        self.value: Tensor | None = None
        self.everywhere = everywhere
        self.transport: Transport = transport
        self.scales: tuple[float, ...] = scales


def hook(root: nn.Module, adapters: Sequence[Adapter], prefix: str, gates: Gates) -> list[RemovableHandle]:
    """Register forward hooks that add the adapters' vectors to the outputs of a component's layers.

    Args:
        root: Component that gets the hooks.
        adapters: K adapters in the order of the gates' columns; some may lie on no layer of this component.
        prefix: Prefix of the component in the adapters' keys.
        gates: Gates of the adapters; the hooks read them at every call.

    Returns:
        Handles that remove the hooks.

    Raises:
        ValueError: If an adapter lies on a layer that the component does not have.
    """
    paths = LAYERS[prefix](root)
    stems = {stem for adapter in adapters for stem in adapter.stems(prefix)}
    if missing := sorted(stems - paths.keys()):
        raise ValueError(
            f"expected layers for all adapters, found none for {', '.join(missing[:3])}: they were made for another "
            "base; load the base that they were trained on"
        )
    handles = []
    for stem in sorted(stems):
        layer = root.get_submodule(paths[stem])
        handles.append(layer.register_forward_hook(_Added(adapters, prefix + stem, gates)))
    return handles


class _Added:
    """Forward hook of one layer, which adds the adapters' vectors to the layer's output.

    Args:
        adapters: All K adapters; at least one of them lies on this layer.
        stem: Stem of the layer, with its prefix.
        gates: Gates of the adapters; read at every call.
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
        # Adding in place takes a tenth of the time. It is unsafe if an earlier hook may have kept the output, or if a
        # backward pass needs it.
        alone = next(iter(module._forward_hooks.values())) is self
        # Autocast does not cast the operands of in-place operations.
        alike = args[0].dtype == output.dtype and not torch.is_autocast_enabled(output.device.type)
        inside = alone and alike and not torch.is_grad_enabled() and self.gates.transport == "paper"
        if inside and args[0].ndim == 4 and args[0].is_contiguous() and output.is_contiguous():
            return self._into_places(args[0], output)
        if args[0].ndim == 4:  # a 1 x 1 convolution is a linear layer at every pixel
            x, y = args[0].permute(0, 2, 3, 1), output.permute(0, 2, 3, 1)
            return self._of(x, y, inside=inside).permute(0, 3, 1, 2)
        return self._of(args[0], output, inside=inside)

    def _into_places(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the adapters' vectors for the input x (B, in, h, w) to y (B, out, h, w) in place, and return y."""
        down, up = self._stacked(x)
        strengths = self._strengths(self._opened(x))
        inner = torch.matmul(down, x.flatten(2)) * strengths.unsqueeze(-1)  # (B, R, h w)
        y.view(*y.shape[:2], -1).baddbmm_(up.expand(len(x), -1, -1), inner)
        return y

    def _of(self, x: Tensor, y: Tensor, *, inside: bool) -> Tensor:
        """Return y (B, ..., out) plus the adapters' vectors for x (B, ..., in); y itself if ``inside`` allows it."""
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
        # All adapters have the same rank r. Down and up vectors are summed over the adapters, each times its gate.
        each = inner.reshape(*inner.shape[:-1], len(self.here), -1)  # (B, ..., K, r)
        total = (each * _along(opened, inner).unsqueeze(-1)).sum(dim=-2)
        ups = (up.T * strengths.unsqueeze(-1)).reshape(len(x), len(self.here), -1, len(up)).sum(dim=1)  # (B, r, out)
        return y + torch.einsum("b...r,bro->b...o", total, ups)

    def _opened(self, x: Tensor) -> Tensor:
        """Return the gates (B, K) of the K adapters on this layer."""
        value = self.gates.value
        if value is not None and self.gates.everywhere:
            value = value.expand(len(x), -1)
        if value is None or len(value) != len(x):
            raise RuntimeError(
                f"expected {0 if value is None else len(value)} rows, as many as there are gates, found {len(x)}: "
                "the batch changed its size between the text encoder and this layer; switch off the option that "
                "changes it, or fuse the adapters"
            )
        return (value if len(self.here) == value.shape[1] else value[:, self.here]).to(x)

    def _strengths(self, opened: Tensor) -> Tensor:
        """Return gates (B, K) times the constant factors as (B, R): each adapter's column repeated rank times."""
        columns = opened * self._factors(opened)
        return columns if set(self.ranks) == {1} else self._repeated(columns)

    def _factors(self, x: Tensor) -> Tensor | float:
        """Return the constant factors (K,) of the adapters on this layer; one number if they are all equal."""
        scales = [self.gates.scales[k] if self.gates.scales else 1.0 for k in self.here]
        factors = [factor * scale for factor, scale in zip(self.factors, scales, strict=True)]
        return factors[0] if len(set(factors)) == 1 else x.new_tensor(factors)

    def _repeated(self, columns: Tensor) -> Tensor:
        """Return columns (B, K) as (B, R): each adapter's column repeated rank times."""
        return torch.cat([columns[:, k : k + 1].expand(-1, rank) for k, rank in enumerate(self.ranks)], dim=1)

    def _stacked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all down vectors (R, in) and all up vectors (out, R), on the device and in the dtype of the input."""
        place = (x.device, x.dtype)
        if self._kept is not None and self._kept[0] == place:
            return self._kept[1:]
        trained = any(tensor.requires_grad for tensor in (*self.downs, *self.ups))
        # The cached tensors serve all later calls, so they must be normal tensors even in a call in inference mode.
        with nullcontext() if trained else torch.inference_mode(False):
            down = torch.cat([tensor.to(x.device, x.dtype) for tensor in self.downs])
            up = torch.cat([tensor.to(x.device, x.dtype) for tensor in self.ups], dim=1)
        if not trained:  # values under training change, so they are not cached
            self._kept = (place, down, up)
        return down, up


def _along(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B, n) reshaped to (B, 1, ..., n), with as many dimensions as ``like`` (B, ..., R)."""
    return values.reshape(len(values), *[1] * (like.ndim - 2), -1)


def fused_weights(
    root: nn.Module, adapters: Sequence[Adapter], prefix: str, constants: Sequence[float]
) -> dict[str, Tensor]:
    """Return a component's weights with the adapters added at constant gates: W + sum_k c_k s_k U_k D_k.

    Args:
        root: Component; it is not changed.
        adapters: K adapters.
        prefix: Prefix of the component in the adapters' keys.
        constants: Constant gate of each adapter.

    Returns:
        Mapping of ``<module path>.weight`` to the new weight in its own dtype, for every layer with an adapter.
    """
    paths, weights = LAYERS[prefix](root), {}
    for stem in sorted({stem for adapter in adapters for stem in adapter.stems(prefix)}):
        weight: Any = root.get_submodule(paths[stem]).weight
        weights[f"{paths[stem]}.weight"] = joined(weight, adapters, prefix + stem, constants).to(weight.dtype)
    return weights


def joined(weight: Tensor, adapters: Sequence[Adapter], key: str, constants: Sequence[float]) -> Tensor:
    """Return the weight of one layer with the adapters added at constant gates, in float32.

    Args:
        weight: Weight of the layer.
        adapters: K adapters; those without tensors for this layer add nothing.
        key: Prefix of the component and stem of the layer, as in the adapters' keys.
        constants: Constant gate of each adapter.
    """
    total = weight.detach().float()
    for adapter, constant in zip(adapters, constants, strict=True):
        if key + DOWN in adapter.tensors:
            down, up = (adapter.tensors[key + end].flatten(1).to(total) for end in (DOWN, UP))
            total = total + constant * adapter.scale * (up @ down).view_as(total)
    return total
