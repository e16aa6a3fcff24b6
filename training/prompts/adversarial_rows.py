"""Adversarial rows of conditionings, learned over a whole training: an attack past the text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ..diffusion.backbone import Backbone
from .layout import prompt_lengths


@dataclass(frozen=True, kw_only=True)
class AdversarialRowsConfig:
    """Settings of an attack that learns rows of the text encoder's output.

    Args:
        steps: Number of attack steps per iteration; 0 switches the attack off, and the erasers learn from the plain
            prompts.
        tokens: Number of adversarial rows. They replace the rows of the end token and the padding after the prompt.
        rate: Learning rate of the attack's Adam.
        decay: Weight decay of the attack's Adam, an L2 penalty on the rows.

    Raises:
        ValueError: If a number is outside its range.
    """

    steps: int = 50
    tokens: int = 16
    rate: float = 0.1
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.tokens < 1 or self.rate <= 0 or self.decay < 0:
            raise ValueError(
                f"expected steps >= 0, tokens >= 1, rate > 0 and decay >= 0, found {self}; steps 0 switches the attack "
                "off"
            )


class AdversarialRows:
    """One adversarial prompt (K, D) for each part of a concept, which lives on from iteration to iteration.

    The rows begin uniformly in [0, 1). They stand after the last token of the prompt, at the positions of the end token
    and the padding.

    Args:
        config: Settings of the attack.
        backbone: Base of the prompts.
        texts: N prompts.
        part: Numbers (N,) of the concept's parts that the prompts belong to.
        generator: Generator of the first values.

    Raises:
        ValueError: If a prompt has no room for the rows.
    """

    def __init__(
        self, config: AdversarialRowsConfig, backbone: Backbone, texts: Sequence[str], part: Tensor, *,
        generator: Generator,
    ) -> None:  # fmt: skip
        width, device = int(backbone.text_encoder.config.hidden_size), backbone.device
        lengths = prompt_lengths(backbone.tokenize(texts), int(backbone.tokenizer.eos_token_id))
        room = backbone.max_length - 1 - int(lengths.max())
        if config.tokens > room:
            raise ValueError(
                f"expected room for {config.tokens} adversarial rows after every prompt, found {room} positions after "
                "the longest one: shorten the prompts, or use fewer rows"
            )
        self.part = part.to(device)
        self.positions = (lengths[:, None] + 1 + torch.arange(config.tokens, device=lengths.device)).to(device)
        count = int(part.max()) + 1
        self.prompts = [
            nn.Parameter(torch.rand(config.tokens, width, generator=generator).to(device)) for _ in range(count)
        ]
        self.optimizer = torch.optim.Adam(self.prompts, lr=config.rate, weight_decay=config.decay)

    def placed(self, cond: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the conditionings (B, L, D) of prompts with adversarial rows, and the rows (B, K, D) as a leaf.

        Args:
            cond: Conditionings (B, L, D) of the plain prompts.
            index: Indices (B,) of the prompts.
        """
        leaf = torch.stack([self.prompts[i].detach() for i in self.part[index].tolist()]).requires_grad_()
        where = self.positions[index][..., None].expand(-1, -1, cond.shape[2])
        return cond.scatter(1, where, leaf.to(cond.dtype)), leaf

    def step(self, error: Tensor, leaf: Tensor, index: Tensor, *, keep_graph: bool) -> None:
        """Take one step of Adam that lowers the mean error of each adversarial prompt that is in use.

        The other adversarial prompts stay as they are, and so do their averages in Adam.

        Args:
            error: Errors (B,) of the predictions.
            leaf: Rows (B, K, D) that the errors were computed with.
            index: Indices (B,) of the prompts.
            keep_graph: True if the caller differentiates the predictions again.
        """
        (gradient,) = torch.autograd.grad(error.sum(), leaf, retain_graph=keep_graph)
        part = self.part[index]
        for number, prompt in enumerate(self.prompts):
            own = gradient[part == number]
            prompt.grad = own.mean(0) if len(own) else None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return the adversarial prompts and the tensors of Adam, by name."""
        adam = self.optimizer.state_dict()["state"]
        prompts = {f"adversarial.{i}": prompt.detach() for i, prompt in enumerate(self.prompts)}
        return prompts | {f"adversarial.{i}.{key}": value for i, kept in adam.items() for key, value in kept.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors of ``state``; other entries are ignored."""
        adam: dict[int, dict[str, Tensor]] = {}
        for i, prompt in enumerate(self.prompts):
            prompt.copy_(state[f"adversarial.{i}"])
            start = f"adversarial.{i}."
            kept = {name.removeprefix(start): one for name, one in state.items() if name.startswith(start)}
            if kept:  # a prompt that was never in use has no averages yet
                adam[i] = kept
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": adam})
