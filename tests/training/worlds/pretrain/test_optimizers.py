"""Muon steps the matrices of hidden layers, AdamW the rest, and a stopped training goes on with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from robust_encoders.training.worlds.pretrain.loop import Schedule, fit
from robust_encoders.training.worlds.pretrain.optimizers import Optimizers


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 4, 3, padding=1)
        self.hidden = nn.Conv2d(4, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.wide = nn.Linear(6, 5)
        self.conv_out = nn.Conv2d(6, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.norm(self.hidden(self.conv_in(images)).relu())
        values: Tensor = self.conv_out(seen).mean((1, 2, 3)) + self.wide(seen.mean((2, 3))).sum(1)
        return values


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def stepped(rate: float, matrix_rate: float, *, matrices: bool = True) -> tuple[Small, dict[str, Tensor]]:
    """Return a module and the change of each parameter after one step."""
    module = small()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizers = Optimizers(dict(module.named_parameters()), matrices=matrices)
    module(torch.randn((2, 3, 4, 4), generator=Generator().manual_seed(1))).square().sum().backward()
    optimizers.step(rate, matrix_rate)
    return module, {name: value.detach() - before[name] for name, value in module.named_parameters()}


def test_muon_steps_the_matrices_of_hidden_layers_alone() -> None:
    _, moved = stepped(0.0, 0.1)
    assert {name for name, change in moved.items() if bool(change.any())} == {"hidden.weight", "wide.weight"}
    _, moved = stepped(0.1, 0.0)
    assert {name for name, change in moved.items() if not bool(change.any())} == {"hidden.weight", "wide.weight"}


def test_its_update_of_a_convolution_is_an_orthogonal_matrix_of_outputs() -> None:
    _, moved = stepped(0.0, 0.1)
    sizes = torch.linalg.svdvals(moved["hidden.weight"].reshape(6, -1))
    # The iteration brings all singular values near one common value, here 0.1 * 0.2 * sqrt(36).
    assert float(sizes.min()) > 0.5 * 0.12
    assert float(sizes.max()) < 1.4 * 0.12


def test_without_it_all_parameters_are_stepped_as_by_adamw() -> None:
    module, _ = stepped(0.1, 0.7, matrices=False)
    other = small()
    adamw = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=1e-4)
    other(torch.randn((2, 3, 4, 4), generator=Generator().manual_seed(1))).square().sum().backward()
    adamw.step()
    for one, same in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)


def test_gradients_are_forgotten_and_a_missing_one_moves_nothing() -> None:
    module = small()
    optimizers = Optimizers(dict(module.named_parameters()), matrices=True)
    before = [value.detach().clone() for value in module.parameters()]
    module(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizers.step(0.0, 0.0)
    assert all(value.grad is None for value in module.parameters())
    optimizers.step(0.1, 0.1)
    assert all(torch.equal(one, same) for one, same in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("matrix_rate", [0.0, 0.05])
def test_a_stopped_training_goes_on_with_the_same_numbers(matrix_rate: float, tmp_path: Path) -> None:
    schedule = Schedule(steps=6, rate=0.01, every=2, matrix_rate=matrix_rate)

    def trained(folder: Path, stop: int) -> Small:
        module, calls = small(), [0]

        def loss(generator: Generator) -> Tensor:
            calls[0] += 1
            if calls[0] > stop:
                raise KeyboardInterrupt
            value: Tensor = module(torch.randn((2, 3, 4, 4), generator=generator)).square().mean()
            return value

        fit(module, loss, schedule, folder, seed=0, label="small")
        return module

    whole = trained(tmp_path / "whole", 6)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", 5)
    again = trained(tmp_path / "parts", 2)
    for one, same in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
