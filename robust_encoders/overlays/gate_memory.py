"""Memory of the gates of every conditioning row, and whether a batch of rows is under classifier-free guidance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Largest number of remembered conditioning rows with their gates. One row takes less than a kilobyte.
_MOST_ROWS = 2**14
# Number of newest text encoder calls whose gates keep their gradients.
_ATTACHED_CALLS = 4
# Number of values that identify a row. Later positions attend to earlier ones, so one different token changes them.
_VALUES = 64
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Row(NamedTuple):
    """A conditioning row that a text encoder returned.

    Args:
        gates: Gates (K,) of its prompt.
        calls: Numbers of the newest two calls of the text encoder that returned it, the newest last.
        place: Its place in the newest of them; equal rows of a call share the first one's.
        order: Places of all rows of that call.
        empty: True for a prompt without tokens, other than special ones.
    """

    gates: Tensor
    calls: tuple[int, ...]
    place: int
    order: tuple[int, ...]
    empty: bool


class Rows:
    """Memory of the gates of every conditioning row that a text encoder returned.

    A pipeline repeats, joins and casts conditionings on their way to the UNet. The values of each row stay the same, so
    a row is recognised by its values in any batch.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._attached: list[list[bytes]] = []  # keys of the newest calls, whose gates carry gradients
        self._calls = 0

    def add(self, layers: Sequence[Tensor], gates: Tensor, empty: Sequence[bool]) -> None:
        """Remember the rows of one call.

        Args:
            layers: Outputs (B, L, D) of one or several layers.
            gates: Gates (B, K).
            empty: True for each row of a prompt without tokens.
        """
        self._calls += 1
        own = _keys(layers[0])
        order = tuple(own.index(key) for key in own)
        # Every layer and dtype of a row has been returned by the same calls.
        calls = [(*(self._rows[key].calls[-1:] if key in self._rows else ()), self._calls) for key in own]
        rows = [Row(*row) for row in zip(gates, calls, order, [order] * len(order), empty, strict=True)]
        added, dtypes = [], dict.fromkeys((*_DTYPES, layers[0].dtype))
        for conditionings in layers:
            for dtype in dtypes:
                keys = _keys(conditionings.to(dtype))
                self._rows.update(zip(keys, rows, strict=True))
                added += keys
        for key in added:
            self._rows.move_to_end(key)
        self._attached.append(added)
        # Gates with gradients keep their whole autograd graph in memory, so only the gates of the newest calls keep
        # them: enough for prompts and negative prompts.
        while len(self._attached) > _ATTACHED_CALLS or (self._attached and not gates.requires_grad):
            self._let_go(self._attached.pop(0))
        while len(self._rows) > _MOST_ROWS * len(dtypes):
            self._rows.popitem(last=False)

    def _let_go(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            if key in self._rows:
                self._rows[key] = self._rows[key]._replace(gates=self._rows[key].gates.detach())

    def find(self, conditionings: Tensor) -> list[Row | None]:
        """Return what is known of each row (B, L, D); None for a row that the text encoder did not return."""
        keys = _keys(conditionings)
        for key in keys:
            if key in self._rows:
                self._rows.move_to_end(key)
        return [self._rows.get(key) for key in keys]


def is_guided(rows: Sequence[Row | None]) -> bool:
    """Return true if the first half of a batch is unconditional: its negative prompts, with their prompts behind.

    Pipelines of diffusers order a batch under classifier-free guidance like this. A negative prompt is the empty
    prompt, or it was encoded later than the prompt of its row, as diffusers does. A text may be among both.

    Args:
        rows: Remembered facts of each row; None for a row that the text encoder did not return.
    """
    half, odd = divmod(len(rows), 2)
    if odd or not half or _is_one_call(rows):
        return False
    return all(
        negative is not None and (negative.empty or prompt is None or _is_later(negative, prompt))
        for negative, prompt in zip(rows[:half], rows[half:], strict=True)
    )


def _is_later(negative: Row, prompt: Row) -> bool:
    """Return true if a row was returned after another; a text that is prompt and negative prompt was returned twice."""
    return negative.calls[-1] >= prompt.calls[-1] and negative.calls[-1] > prompt.calls[0]


def _is_one_call(rows: Sequence[Row | None]) -> bool:
    """Return true if a batch is what the newest call returned, each row once or several times in a row."""
    known = [row for row in rows if row is not None]
    if len(known) < len(rows) or len({row.calls[-1] for row in known}) > 1 or len(rows) % len(known[0].order):
        return False
    times = len(rows) // len(known[0].order)
    return [row.place for row in known] == [place for place in known[0].order for _ in range(times)]


def _keys(conditionings: Tensor) -> list[bytes]:
    flat = conditionings.detach().flatten(1)
    # Evenly spread over the flattened row, so over positions and channels.
    index = torch.linspace(0, flat.shape[1] - 1, min(_VALUES, flat.shape[1]), device=flat.device).long()
    picked = flat[:, index].float().cpu().numpy()
    kind = str(conditionings.dtype).encode()
    return [kind + row.tobytes() for row in picked]
