"""Positions of adversarial tokens in a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass

Placement = Literal["prefix", "suffix", "mid", "insert", "replace", "add"]


def prompt_lengths(ids: Tensor, eos_id: int) -> Tensor:
    """Return the numbers of tokens (B,) between the begin token and the first end token of rows of ids (B, L).

    Raises:
        ValueError: If a row has no end token.
    """
    ends = ids == eos_id
    if not bool(ends.any(dim=1).all()):
        raise ValueError(f"expected an end token (id {eos_id}) in every row, found rows without: tokenize the prompts")
    return ends.int().argmax(dim=1) - 1


@dataclass(frozen=True)
class PromptLayout:
    """Layout of K adversarial token embeddings among the token embeddings of a prompt.

    See AdvUnlearn (Zhang et al. 2024), section 4 and appendix. Lengths are counted in tokens here, so every sub-token
    of a prompt is kept. The authors' code counts words and drops the last sub-tokens of a prompt such as "nudity". The
    last padding positions drop out to make room.

    Args:
        placement: Position of the adversarial tokens. ``prefix`` is before the prompt, ``suffix`` after it. ``mid`` is
            one block in its middle, ``insert`` is spread evenly through it, and ``replace`` takes its place. ``add``
            adds the embeddings to the prompt's own, one adversarial token for each position.
        k: Number K of adversarial tokens. ``add`` ignores it and has one for each position except the first and last.

    Raises:
        ValueError: If the placement is unknown, or K is below 1.
    """

    placement: Placement = "prefix"
    k: int = 1

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            raise ValueError(f"expected a placement in {get_args(Placement)}, found {self.placement!r}")
        if self.k < 1:
            raise ValueError(f"expected k >= 1 adversarial tokens, found {self.k}")

    def size(self, length: int) -> int:
        """Return the number of adversarial embeddings that ``place`` takes for prompts of L = ``length`` positions."""
        return length - 2 if self.placement == "add" else self.k

    def check(self, ids: Tensor, eos_id: int) -> None:
        """Refuse prompts (B, L) that have no room for the adversarial tokens.

        Raises:
            ValueError: If a token of a prompt would be lost.
        """
        room = ids.shape[1] - 2 - self.size(ids.shape[1])
        taken = 0 if self.placement == "replace" else int(prompt_lengths(ids, eos_id).max())
        if self.placement != "add" and taken > room:
            raise ValueError(
                f"expected prompts of at most {room} tokens beside {self.k} adversarial ones in {ids.shape[1]} "
                f"positions, found one of {taken}: shorten the prompts, or use fewer adversarial tokens"
            )

    def place(
        self, embeds: Tensor, ids: Tensor, adv: Tensor, *, eos_id: int, adv_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return token embeddings (B, L, D) and ids (B, L) with the adversarial tokens in place.

        Args:
            embeds: Token embeddings (B, L, D) of the prompts.
            ids: Token ids (B, L) of the prompts.
            adv: Adversarial embeddings (B, K, D).
            eos_id: Id of the end token.
            adv_ids: Ids (B, K) of the adversarial tokens if they are real tokens. With None, the id of the begin token
                fills their places, because it cannot be mistaken for an end token.

        Raises:
            ValueError: If the prompts have no room, or if ``adv`` has another number of tokens.
        """
        length = ids.shape[1]
        if adv.shape[1] != self.size(length):
            raise ValueError(f"expected {self.size(length)} adversarial embeddings, found {adv.shape[1]}")
        self.check(ids, eos_id)
        counts = prompt_lengths(ids, eos_id)
        if self.placement == "add":
            inside = torch.arange(1, length - 1, device=ids.device) <= counts[:, None]  # (B, L - 2)
            shift = torch.nn.functional.pad(adv * inside[..., None], (0, 0, 1, 1))
            return embeds + shift.to(embeds.dtype), ids
        order = self._order(counts, length)
        names = ids[:, :1].expand(-1, self.k) if adv_ids is None else adv_ids
        width = embeds.shape[2]
        source = torch.cat([embeds, adv.to(embeds.dtype)], dim=1)  # (B, L + K, D)
        return source.gather(1, order[..., None].expand(-1, -1, width)), torch.cat([ids, names], dim=1).gather(1, order)

    def _order(self, counts: Tensor, length: int) -> Tensor:
        """Return the source position (B, L), out of L + K, of each of the L positions."""
        step = torch.arange(1, self.k + 1, device=counts.device)
        after = {
            "prefix": 0 * step * counts[:, None],
            "suffix": counts[:, None].expand(-1, self.k),
            "mid": (counts // 2)[:, None].expand(-1, self.k),
            "insert": step * counts[:, None] // (self.k + 1),
            "replace": 0 * step * counts[:, None],
        }[self.placement]  # (B, K): number of prompt tokens before each adversarial one
        position = torch.arange(length, device=counts.device).expand(len(counts), -1).double()
        if self.placement == "replace":
            position = torch.where((position > 0) & (position <= counts[:, None]), position + 2 * length, position)
        order = torch.cat([position, after + 0.5], dim=1).argsort(dim=1, stable=True)[:, :length]
        if self.placement == "replace":  # the last position, which is padding, fills positions that became free
            spare = torch.arange(length, device=counts.device) >= (length + self.k - counts)[:, None]
            order = torch.where(spare, length - 1, order)
        return order
