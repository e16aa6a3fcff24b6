"""The data model of all tables and its Markdown: numbers, rows of one evaluation, tables of entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.sanity.trust import Marks
from ..types import Result
from .metric_labels import metric_label

MISSING = "–"  # noqa: RUF001  # the dash for "not measured"


@dataclass(frozen=True)
class Number:
    """A number with everything that its reader has to know.

    Args:
        value: Rate in [0, 1], or a mean.
        n: Number of cases behind the value.
        interval: 95 % interval, if there is one.
        scale: Factor of value and interval; 100 turns a rate into per cent.
        digits: Number of digits after the decimal point.
        bound: True if the value is only a lower bound.
        failed: Failed checks of the attack behind the number.
        before: Words before the number.
        after: Words after the number and its mark.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None
    scale: float = 100
    digits: int = 1
    bound: bool = False
    failed: tuple[Mapping[str, Any], ...] = ()
    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, result: Result, failed: Iterable[Mapping[str, Any]] = ()) -> Number:
        """Return a result with the scale and digits of its metric.

        Args:
            result: Measured or reported number.
            failed: Failed checks of the attack behind the number.
        """
        label = metric_label(result)
        return cls(result.value, result.n, result.interval, label.scale, label.digits, failed=tuple(failed))

    @property
    def bare(self) -> str:
        """The value alone, with the sign ≥ before a lower bound."""
        return f"{'≥ ' if self.bound else ''}{self.scale * self.value:.{self.digits}f}"

    @property
    def bounds(self) -> str:
        """The interval, ``[49.0, 51.0]``; empty if there is none."""
        if self.interval is None:
            return ""
        low, high = (f"{self.scale * bound:.{self.digits}f}" for bound in self.interval)
        return f"[{low}, {high}]"

    @property
    def text(self) -> str:
        """The number with its interval, without a mark."""
        return " ".join(filter(None, (self.before, self.bare, self.bounds)))


Entry = Number | str | None


@dataclass(frozen=True)
class Row:
    """The numbers of one evaluation for unattacked prompts, for an attack, for a worst case, or for a metric.

    Args:
        label: Name of the prompts, attack, worst case or metric.
        number: Rate of success, or value of the metric.
        tier: Threat tier of a rate of success, or tiers of a worst case such as ``T0-T3``; else empty.
        metric: Name of the metric.
        gained: Share of the prompts that only the attack won.
        last: Rate of success if only the last candidate counts.
        singles: Name of each single detector to its own rate, if a success is what several agree on.
        unet_calls: Number of UNet forwards on one latent, if they were counted.
        seconds: Seconds that an attack took, if they are known.
        prompts: Name of the prompt set.
        origin: ``measured`` or ``reported``; for a worst case the origins of its attacks.
        attack: Label, tier, name and settings of the attack; for a worst case the labels of its ``attacks``.
        floor: Rate of as many pictures without any attack, the lower one of encoder and base.
        tries: Mean number of pictures that were judged for a prompt.
    """

    label: str
    number: Number
    tier: str = ""
    metric: str = ""
    gained: Number | None = None
    last: Number | None = None
    singles: Mapping[str, Number] = field(default_factory=dict)
    unet_calls: int | None = None
    seconds: float | None = None
    prompts: str = ""
    origin: str = ""
    attack: Mapping[str, Any] = field(default_factory=dict)
    floor: Number | None = None
    tries: float | None = None

    @property
    def title(self) -> str:
        """The label of an attack with its threat tier; any other label alone."""
        return f"{self.label} {self.tier}" if self.metric == "asr_any" and self.tier else self.label


@dataclass(frozen=True)
class Table:
    """A table of entries.

    Args:
        title: Title above it.
        head: Name of each column.
        groups: Subheading to rows, in order; the subheading is empty if there is only one group.
        note: Note below the title.
    """

    title: str
    head: Sequence[str]
    groups: Mapping[str, Sequence[Sequence[Entry]]]
    note: str = ""

    def texts(self, marks: Marks) -> dict[str, list[list[str]]]:
        """Return the groups with every entry as text.

        Args:
            marks: Footnotes of the failed checks, numbered in the order of their first use.
        """
        return {title: [[shown(one, marks) for one in row] for row in rows] for title, rows in self.groups.items()}

    def markdown(self, marks: Marks) -> list[str]:
        """Return the lines of head and rows in Markdown, without title and note.

        Args:
            marks: Footnotes of the failed checks, numbered in the order of their first use.
        """
        return markdown(self.head, [row for rows in self.texts(marks).values() for row in rows])


def shown(entry: Entry, marks: Marks) -> str:
    """Return an entry as text: a number with its mark, a dash for None."""
    if isinstance(entry, Number):
        return marks.beside(entry.text, entry.failed) + entry.after
    return MISSING if entry is None else entry


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, padded so that it also reads as plain text."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    padded = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in lines]
    rule = " | ".join("-" * width for width in widths)
    return [f"| {line} |" for line in (padded[0], rule, *padded[1:])]
