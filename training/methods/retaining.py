"""Methods whose retain prompts are one of their fields."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self


class RetainsField:
    """A method that holds its retain prompts in one field, a tuple of strings.

    A class of these is a frozen dataclass. It fulfils ``RetainingMethod`` and ``StandardMethod``.

    Attributes:
        retain_field: Name of the field.
    """

    retain_field: ClassVar[str] = "retain"

    @classmethod
    def standard(cls, retained: tuple[str, ...]) -> Self:
        """Return the default settings, those of the paper, with these retain prompts."""
        kind: Any = cls
        method: Self = kind(**{cls.retain_field: retained})
        return method

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts that keep their meaning."""
        prompts: tuple[str, ...] = getattr(self, self.retain_field)
        return prompts

    @property
    def wants_retained(self) -> bool:
        """False, because the paper has no retain prompts; a method whose loss needs some says True."""
        return False

    def retaining(self, prompts: tuple[str, ...]) -> Self:
        """Return a copy with other retain prompts."""
        return self._changed(**{self.retain_field: prompts})

    def _changed(self, **fields: Any) -> Self:
        """Return a copy with other fields."""
        method: Any = self
        changed: Self = replace(method, **fields)
        return changed
