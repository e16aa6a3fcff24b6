"""Where adversarial tokens stand in a prompt, and what is left of a prompt without its concept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass

Placement = Literal["prefix", "suffix", "mid", "insert", "replace", "add"]


def prompt_lengths(ids: Tensor, eos_id: int) -> Tensor:
    """Return how many tokens (B,) stand between the begin and the first end token of ids (B, L).

    Raises:
        ValueError: A row has no end token.
    """
    ends = ids == eos_id
    if not bool(ends.any(dim=1).all()):
        raise ValueError(f"expected an end token (id {eos_id}) in every row, found rows without: tokenize the prompts")
    return ends.int().argmax(dim=1) - 1


@dataclass(frozen=True)
class PromptLayout:
    """Places K adversarial token embeddings among the token embeddings of prompts.

    AdvUnlearn (Zhang et al. 2024), section 4 and appendix, on where the adversarial tokens go. Lengths are counted in
    tokens, so every sub-token of a prompt is kept; the authors' code counts words and drops the last sub-tokens of
    a prompt such as "nudity". Tail padding is pushed out to make room.

    Args:
        placement: ``prefix`` and ``suffix`` stand before and after the prompt, ``mid`` in one block at its middle,
            ``insert`` spread evenly through it, ``replace`` instead of it; ``add`` is added to the prompt's own
            embeddings, one adversarial token for each position.
        k: Adversarial tokens K; ``add`` has one for each position between begin and end, whatever ``k`` says.

    Raises:
        ValueError: Unknown placement, or K below 1.
    """

    placement: Placement = "prefix"
    k: int = 1

    def __post_init__(self) -> None:
        if self.placement not in get_args(Placement):
            raise ValueError(f"expected a placement in {get_args(Placement)}, found {self.placement!r}")
        if self.k < 1:
            raise ValueError(f"expected k >= 1 adversarial tokens, found {self.k}")

    def size(self, length: int) -> int:
        """Return how many adversarial embeddings ``place`` takes for prompts of L = ``length`` positions."""
        return length - 2 if self.placement == "add" else self.k

    def check(self, ids: Tensor, eos_id: int) -> None:
        """Refuse prompts (B, L) that leave no room for the adversarial tokens.

        Raises:
            ValueError: A sub-token of a prompt would be lost.
        """
        room = ids.shape[1] - 2 - self.size(ids.shape[1])
        taken = 0 if self.placement == "replace" else int(prompt_lengths(ids, eos_id).max())
        if self.placement != "add" and taken > room:
            raise ValueError(
                f"expected prompts of at most {room} tokens beside {self.k} adversarial ones in {ids.shape[1]} "
                f"positions, found one of {taken}: shorten the prompts or use fewer adversarial tokens"
            )

    def place(
        self, embeds: Tensor, ids: Tensor, adv: Tensor, *, eos_id: int, adv_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return token embeddings (B, L, D) and ids (B, L) with the adversarial tokens in place.

        Args:
            embeds: Token embeddings (B, L, D) of the prompts.
            ids: Their ids (B, L).
            adv: Adversarial embeddings (B, K, D).
            eos_id: Id of the end token.
            adv_ids: Ids (B, K) of the adversarial tokens where they are real ones; otherwise each row's begin token
                stands for them, which cannot be taken for an end.

        Raises:
            ValueError: The prompts leave no room, or ``adv`` has another number of tokens.
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
        """Return which of the L + K source positions stands at each of the L positions (B, L)."""
        step = torch.arange(1, self.k + 1, device=counts.device)
        after = {
            "prefix": 0 * step * counts[:, None],
            "suffix": counts[:, None].expand(-1, self.k),
            "mid": (counts // 2)[:, None].expand(-1, self.k),
            "insert": step * counts[:, None] // (self.k + 1),
            "replace": 0 * step * counts[:, None],
        }[self.placement]  # (B, K): how many prompt tokens stand before each adversarial one
        position = torch.arange(length, device=counts.device).expand(len(counts), -1).double()
        if self.placement == "replace":
            position = torch.where((position > 0) & (position <= counts[:, None]), position + 2 * length, position)
        order = torch.cat([position, after + 0.5], dim=1).argsort(dim=1, stable=True)[:, :length]
        if self.placement == "replace":  # fewer tokens than before: the last position, padding, fills up
            spare = torch.arange(length, device=counts.device) >= (length + self.k - counts)[:, None]
            order = torch.where(spare, length - 1, order)
        return order
