"""The optimizers of the base's parts: AdamW, or Muon for the matrices of the hidden layers and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# First and last layers and the embedding of the timestep stay with AdamW, as in Muon's description.
_ENDS = ("conv_in.", "conv_out.", "time_embedding.")
_DECAY = 1e-4
_ADAMW, _MUON = ("step", "exp_avg", "exp_avg_sq"), ("momentum_buffer",)


class Optimizers:
    """The optimizers of one module, and their state as tensors.

    Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") makes the update of a matrix
    orthogonal. The weights of a convolution count as a matrix of its outputs by everything else. On a UNet for
    the emoji base, 400 steps came further than 600 of AdamW alone, in the same time.

    Args:
        named: Parameters of the module, by name; they are changed in place.
        matrices: True to take Muon for matrices.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], *, matrices: bool) -> None:
        hidden = {n: p for n, p in named.items() if matrices and p.ndim > 1 and not n.startswith(_ENDS)}
        self._parameters = dict(named)
        # A flat view holds the same numbers as its parameter, and is what Muon steps.
        self._views = {n: nn.Parameter(p.detach().view(len(p), -1)) for n, p in hidden.items()}
        rest = [p for n, p in named.items() if n not in hidden]
        self._adamw = torch.optim.AdamW(rest, weight_decay=_DECAY)
        self._muon = (
            torch.optim.Muon(self._views.values(), weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw")
            if hidden
            else None
        )

    def step(self, rate: float, matrix_rate: float) -> None:
        """Take one step by the gradients of the parameters, and forget them.

        Args:
            rate: Learning rate of AdamW.
            matrix_rate: Learning rate of Muon, on the scale of AdamW's.
        """
        _set(self._adamw, rate)
        self._adamw.step()
        if self._muon is not None:
            for name, view in self._views.items():
                gradient = self._parameters[name].grad
                view.grad = None if gradient is None else gradient.reshape(view.shape)
            _set(self._muon, matrix_rate)
            self._muon.step()  # type: ignore[no-untyped-call]  # PyTorch leaves it without types
        for one in self._parameters.values():
            one.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the state of every parameter that has one, each tensor by its key and the parameter's name."""
        return {f"{key}.{name}": value for name in self._parameters for key, value in self._state(name).items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the state that ``tensors`` gave."""
        for name in self._parameters:
            keys = _MUON if name in self._views else _ADAMW
            state = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
            if state:
                self._of(name).state[self._handle(name)] = state

    def _state(self, name: str) -> Mapping[str, Tensor]:
        state: Mapping[str, Tensor] = self._of(name).state.get(self._handle(name), {})
        return state

    def _of(self, name: str) -> torch.optim.Optimizer:
        return self._muon if self._muon is not None and name in self._views else self._adamw

    def _handle(self, name: str) -> nn.Parameter:
        return self._views.get(name, self._parameters[name])


def _set(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
