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
        call: Number of the newest call of the text encoder that returned it.
        empty: True for a prompt without tokens, other than special ones.
    """

    gates: Tensor
    call: int
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
        rows = [Row(gate, self._calls, none) for gate, none in zip(gates, empty, strict=True)]
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
    prompt, or it was encoded later than the prompt of its row, as diffusers does.

    Args:
        rows: Remembered facts of each row; None for a row that the text encoder did not return.
    """
    half, odd = divmod(len(rows), 2)
    if odd or not half:
        return False
    return all(
        negative is not None and (negative.empty or prompt is None or negative.call > prompt.call)
        for negative, prompt in zip(rows[:half], rows[half:], strict=True)
    )


def _keys(conditionings: Tensor) -> list[bytes]:
    flat = conditionings.detach().flatten(1)
    # Evenly spread over the flattened row, so over positions and channels.
    index = torch.linspace(0, flat.shape[1] - 1, min(_VALUES, flat.shape[1]), device=flat.device).long()
    picked = flat[:, index].float().cpu().numpy()
    kind = str(conditionings.dtype).encode()
    return [kind + row.tobytes() for row in picked]
