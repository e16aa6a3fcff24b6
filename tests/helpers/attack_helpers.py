"""What the tests of prompt attacks share: cases, planted models, a count of what the UNet did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.diffusion.target import TargetModel
from robust_encoders.training.protocols import Attack
from robust_encoders.training.types import AttackResult, Case, Draft, DraftScores, Query

PROMPTS = ("a red circle", "a blue square", "a dotted green triangle", "circle")


def make_target(
    pipe: Any, base: Any = None, query: Query | None = None, draft: Draft | None = None, settled: Sequence[int] = ()
) -> TargetModel:
    """The model of ``pipe`` under attack, made from ``base``, by default from itself."""
    base = Backbone.from_pipeline(base or pipe)
    made: TargetModel = TargetModel.from_pipeline(pipe, base=base, query=query, draft=draft, settled=settled)
    return made


class Drafts:
    """Scores drafts by the length of their texts; a step costs one call, and ``alike`` texts share a draft."""

    def __init__(self, *alike: str, sign: int = 1) -> None:
        self.alike, self.sign = alike, sign
        self.asked: list[tuple[str, int]] = []

    def __call__(self, asked: Sequence[str], cases: Sequence[Case], steps: int) -> DraftScores:
        rows = [(text, case.index) for text, case in zip(asked, cases, strict=True)]
        self.asked += rows
        shared = [i for i, (text, case) in enumerate(rows) if text in self.alike[1:] and (self.alike[0], case) in rows]
        margins = torch.tensor([self.sign * len(text) / 1000 - 1 for text in asked])
        return DraftScores(margins, tuple(0 if i in shared else steps for i in range(len(rows))))


def make_cases(backbone: Backbone, prompts: Sequence[str] = PROMPTS) -> list[Case]:
    rng = torch.Generator().manual_seed(3)
    shape = backbone.latent_shape
    return [
        Case(i, prompt, seed=100 + i, reference_latent=torch.randn(shape, generator=rng, dtype=backbone.dtype))
        for i, prompt in enumerate(prompts)
    ]


def texts(result: AttackResult) -> list[str]:
    assert all(candidate.kind == "text" for candidate in result.candidates)
    return [str(candidate.value) for candidate in result.candidates]


def tensors(result: AttackResult) -> Tensor:
    values = [candidate.value for candidate in result.candidates]
    return torch.stack([value for value in values if isinstance(value, Tensor)])


def ids_of(backbone: Backbone, text: str) -> list[int]:
    """The token ids of a text, without begin and end."""
    ids: list[int] = backbone.tokenizer(text, add_special_tokens=False).input_ids
    return ids


class PlantedUNet(torch.nn.Module):
    """Predicts zero, the best guess of unseen noise, for one conditioning, and worse the farther away it is."""

    def __init__(self, like: Any, goal: Tensor) -> None:
        super().__init__()
        self.config = like.config
        self.goal = torch.nn.Parameter(goal)

    def forward(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> SimpleNamespace:
        distance = (encoder_hidden_states - self.goal).square().mean((1, 2)).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=distance.expand_as(latents))


@torch.no_grad()
def planted(make_pipe: Callable[..., Any], prompt: str) -> tuple[TargetModel, Callable[[Sequence[str]], Tensor]]:
    """A model that denoises well for one prompt alone, and how far (B,) the conditionings of texts lie from it."""
    pipe = make_pipe()
    pipe.text_encoder.get_input_embeddings().weight.mul_(50)
    goal = Backbone.from_pipeline(pipe).condition([prompt])
    pipe.unet = PlantedUNet(pipe.unet, goal)
    target = make_target(pipe)

    @torch.no_grad()
    def distances(prompts: Sequence[str]) -> Tensor:
        found: Tensor = (target.condition(prompts) - goal).square().mean((1, 2))
        return found

    return target, distances


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Collect the batch size of every forward of the UNet."""
    sizes: list[int] = []
    handle = backbone.unet.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[0]))
    try:
        yield sizes
    finally:
        handle.remove()


def assert_seeds_decide(attack: Attack, target: TargetModel, cases: Sequence[Case], *, differ: bool = True) -> None:
    """The same seed gives the same result whatever the global generator does, another seed another one."""
    torch.manual_seed(1)
    first = attack.run(target, cases, seed=0)
    torch.manual_seed(2)
    assert_same(attack.run(target, cases, seed=0), first)
    if differ:
        found, other = (
            [r.candidates[-1].value for r in results] for results in (first, attack.run(target, cases, seed=1))
        )
        assert any(
            not torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a != b
            for a, b in zip(found, other, strict=True)
        )


def assert_alone_is_together(
    attack: Attack, target: TargetModel, cases: Sequence[Case], *, one: Attack | None = None
) -> None:
    """Every case gets the same result alone as among its neighbours; ``one`` runs it alone, by default ``attack``."""
    together = attack.run(target, cases, seed=7)
    assert_same([(one or attack).run(target, [case], seed=7)[0] for case in cases], together)


def assert_same(found: Sequence[AttackResult], expected: Sequence[AttackResult]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.queries, one.unet_calls) == (other.queries, other.unet_calls)
        assert [(c.kind, c.step) for c in one.candidates] == [(c.kind, c.step) for c in other.candidates]
        for a, b in zip(one.candidates, other.candidates, strict=True):
            if isinstance(a.value, Tensor) and isinstance(b.value, Tensor):
                torch.testing.assert_close(a.value, b.value, atol=1e-8, rtol=0)
            else:
                assert a.value == b.value
