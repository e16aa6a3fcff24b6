"""What a visitor of the page asks for, checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from robust_encoders.errors import RobustEncodersError

LONGEST = 1000  # characters of a prompt
LARGEST_SEED = 2**32 - 1


class RequestError(RobustEncodersError):
    """A visitor asked for something that cannot be drawn; the message lists every problem.

    Args:
        problems: Sentences, one for each problem.
    """

    def __init__(self, problems: Collection[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class PictureRequest:
    """A prompt with all that its pictures depend on.

    Args:
        prompt: Text of the prompt.
        negative: Negative prompt; empty for none.
        seed: Seed of the initial latent.
        encoders: Names of the encoders and overlays to attach.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    encoders: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, prompt: object, negative: object, seed: object, encoders: object, *, known: Collection[str]
    ) -> PictureRequest:
        """Return the request that the fields of the page make.

        Args:
            prompt: Text of the prompt.
            negative: Negative prompt; None or empty for none.
            seed: Whole number from 0 to ``LARGEST_SEED``.
            encoders: List of names; None or empty for none.
            known: Names that the page offers.

        Raises:
            RequestError: If a field is empty or wrong; the message lists all of them.
        """
        problems: list[str] = []
        texts = [_text("prompt", prompt, problems), _text("negative prompt", negative or "", problems)]
        if isinstance(prompt, str) and not texts[0]:
            problems.append("Expected a prompt, found none. Write what the picture shall show.")
        number, names = _seed(seed, problems), _names(encoders, known, problems)
        if problems:
            raise RequestError(problems)
        return cls(texts[0], texts[1], number, names)


def _text(what: str, value: object, problems: list[str]) -> str:
    if not isinstance(value, str):
        problems.append(f"Expected a text as the {what}, found {_short(value)}. Write it in words.")
        return ""
    try:
        value.encode()
    except UnicodeEncodeError:
        problems.append(f"Expected whole characters in the {what}, found half of one. Write the {what} again.")
    text = " ".join(value.replace("\0", " ").split())
    if len(text) > LONGEST:
        problems.append(f"Expected at most {LONGEST} characters as the {what}, found {len(text)}. Write a shorter one.")
    return text


def _seed(value: object, problems: list[str]) -> int:
    found = int(value) if isinstance(value, int | float) and value == value // 1 else -1
    if 0 <= found <= LARGEST_SEED and not isinstance(value, bool):
        return found
    problems.append(
        f"Expected a whole number from 0 to {LARGEST_SEED} as the seed, found {_short(value)}. Write another."
    )
    return 0


def _names(value: object, known: Collection[str], problems: list[str]) -> tuple[str, ...]:
    given = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    unknown = [_short(name) for name in given if not isinstance(name, str) or name not in known]
    if unknown:
        problems.append(f"Expected encoders of this page, found {', '.join(unknown)}. Choose from the list.")
        return ()
    return tuple(dict.fromkeys(map(str, given)))


def _short(value: object) -> str:
    if value is None or value == "":
        return "none"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
