"""Attacks of the library torchattacks (Kim, arXiv:2010.01950), by name, on the conditioning that the UNet receives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from robust_encoders.utils.extras import OptionalPackage, install_command

from ..diffusion.backbone import Backbone, Precision
from ..types import AttackResult, Candidate, Case
from .common.conditioning_ball import RADIUS, Ball, DenoisingLogits, Norm
from .common.denoising import DenoisingLoss, case_generator, clean_latents, draw_noise

Options = tuple[tuple[str, bool | int | float | str], ...]

_EITHER = ("APGD", "APGDT", "CW", "DeepFool", "EADEN", "EADL1", "FAB", "GN", "SparseFool", "Square")
# Attacks that run inside each ball. Attacks listed for both balls take the norm as an argument or have no radius.
RUNNABLE: Mapping[str, tuple[str, ...]] = {
    "linf": (
        *("BIM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "RFGSM", "SPSA", "UPGD"),
        *("VMIFGSM", "VNIFGSM"),
        *_EITHER,
    ),
    "l2": ("PGDL2", *_EITHER),
}
_IMAGE = "it needs a picture with three channels or with neighbouring pixels, and a conditioning has neither"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("DIFGSM", "OnePixel", "PIFGSM", "PIFGSMPP", "Pixle", "TIFGSM"), _IMAGE),
    "SINIFGSM": "it darkens pictures by scaling them towards zero, but here zero is a corner of the ball, not black",
    **dict.fromkeys(
        ("PGDRS", "PGDRSL2"), "it attacks a model smoothed by noise, and the model under attack is not smoothed"
    ),
    "TPGD": "it moves away from the start's prediction in any direction, so it may also raise the loss",
    "JSMA": "it stores a number for every pair of coordinates: gigabytes for a conditioning of Stable Diffusion",
    "VANILA": "it changes nothing; the rate without attack is its result",
    "AutoAttack": "its parts have fixed budgets; run APGD, APGDT, FAB and Square, one by one",
    "MultiAttack": "it wraps other attacks; run them one by one",
    "LGV": "it trains the model under attack on a data set",
}
_STEPS = ("steps", "nb_iter", "n_queries", "max_iterations")  # the library's names for the number of iterations
_OWN = ("model", "norm", "eps", "seed", "verbose", *_STEPS)


TORCHATTACKS = OptionalPackage(
    ("torchattacks", "scipy"),
    f"{install_command('attacks,eval')} and pip install --no-deps torchattacks (its release 3.5.1 would downgrade "
    "requests)",
)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's global generators, which the library uses, within the scope and restore their state after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def library() -> Any:
    """Return the module torchattacks.

    Raises:
        ImportError: torchattacks is not installed.
    """
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError(f"expected torchattacks, found no {error.name}; {TORCHATTACKS.remedy}") from error
    return torchattacks


@dataclass(frozen=True)
class TorchAttack:
    """An attack of torchattacks on the conditioning, inside a ball around the model's own conditioning of the prompt.

    The threat model is that of RACE (Kim et al., ECCV 2024, equation 6: ``||delta||_inf <= eps`` at the text encoder's
    output). The perturbation is added after the text encoder, so an encoder can only resist it in a small ball. A
    success rate shows how near the concept still lies, not what prompts can reach. The conditioning of the negative
    prompt is the model's own.

    Each case is attacked alone. The loss is averaged over fixed noise and fixed timesteps, one timestep from each of
    ``samples`` equal parts of the model's range.

    Differences from the library: the result is the point of lowest loss that the attack tried or returned. The reason:
    some attacks return their input unless the label changes, and here the label never changes. CW and EAD weigh the
    loss against a squared distance; the default weight of the loss is the number of coordinates.

    Differences from RACE: the loss is that of UnlearnDiffAtk (see ``DenoisingLoss``), not the distance between one
    prediction and the initial noise. ``eps`` is relative to the conditioning. The conditioning is not clipped to the
    range of its own values.

    Args:
        attack: Name of the attack in the library; ``RUNNABLE`` lists the names for each ball.
        norm: Norm of the ball, ``linf`` or ``l2``.
        eps: Radius of the ball, relative to the root mean square of the prompt's conditioning. With ``linf`` it bounds
            the change of every coordinate, with ``l2`` the root mean square of the changes. So the l2 ball contains the
            linf ball.
        steps: Number of iterations, or of queries for Square; single-step attacks ignore it.
        samples: Number N of pairs of timestep and noise that the loss is averaged over; the UNet runs on N latents at
            once.
        options: Further arguments of the attack, as pairs of name and value. Lengths are in units in which the radius
            of the ball is 0.5. The default of ``alpha`` has the same ratio to the radius as in the library.
        precision: Precision of the UNet: ``fp32``, or ``bf16`` by autocast.

    Raises:
        ValueError: The attack is unknown, does not fit conditionings or the ball, or another setting is invalid.
    """

    name: ClassVar[str] = "torchattack"
    tier: ClassVar[str] = "T4"
    joint: ClassVar[bool] = False
    budget_fields: ClassVar[tuple[str, ...]] = ("steps",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps",)
    packages: ClassVar[tuple[OptionalPackage, ...]] = (TORCHATTACKS,)

    attack: str = "PGD"
    norm: Norm = "linf"
    eps: float = 0.1
    steps: int = 10
    samples: int = 8
    options: Options = ()
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.norm not in RUNNABLE or not 0 < self.eps < math.inf or min(self.steps, self.samples) < 1:
            raise ValueError(
                "expected norm 'linf' or 'l2', eps above 0, and steps and samples of at least 1, "
                f"found {self.norm!r}, {self.eps}, {self.steps} and {self.samples}"
            )
        if self.attack not in RUNNABLE[self.norm]:
            names = ", ".join(sorted(RUNNABLE[self.norm]))
            raise ValueError(
                f"expected an attack for conditionings in the {self.norm} ball, found {self.attack!r}: {self._why()}. "
                f"Choose one of {names}"
            )
        own = [key for key, _ in self.options if key in _OWN]
        if own:
            raise ValueError(
                f"expected options that TorchAttack does not set itself, found {own}: remove them, or set its fields "
                "instead"
            )

    def _why(self) -> str:
        other = [norm for norm, names in RUNNABLE.items() if self.attack in names]
        if other:
            return f"it runs in the ball of norm={other[0]!r}"
        return REFUSED.get(self.attack, "torchattacks has no attack of that name")

    @classmethod
    def standard(cls, **changes: Any) -> TorchAttack:
        """Return the attack with the standard budget on the embedded base: 20 PGD steps in the linf ball of 0.2."""
        return cls(**{"eps": 0.2, "steps": 20, **changes})

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: Model under attack.
            cases: Cases with their reference latents.
            seed: Seed of the run; together with a case's own seed it fixes every random draw of that case.

        Returns:
            One result per case with one conditioning (L, D). The step of this candidate is the number of points tried
            until it was found.

        Raises:
            ImportError: torchattacks is not installed.
            ValueError: If a case has no reference latent, or the attack has no argument named by an option.
        """
        kind = getattr(library(), self.attack)
        shared = target.sharing(precision=self.precision)
        latents = clean_latents(cases, target)
        rows = tqdm(list(zip(cases, latents, strict=True)), desc=self.attack, leave=False, disable=None)
        with target.frozen():
            return [self._one(kind, shared, case, latent, seed) for case, latent in rows]

    def _one(self, kind: Any, target: Backbone, case: Case, latent: Tensor, seed: int) -> AttackResult:
        generator, before = case_generator(seed, case, self.name), target.unet_calls
        model = self._model(target, case, latent, generator)
        number = int(torch.randint(2**31, (1,), generator=generator))
        start = model.ball.start()
        with own_randomness(number), torch.enable_grad():
            attack = kind(model, **self._arguments(kind, number, start.shape[-2:]))
            found = attack(start, torch.zeros(1, dtype=torch.long))
        with torch.no_grad():
            model.loss(found.detach())
        candidate = Candidate("conditioning", model.best, model.found)
        return AttackResult((candidate,), queries=0, unet_calls=target.unet_calls - before)

    def _model(self, target: Backbone, case: Case, latent: Tensor, generator: torch.Generator) -> DenoisingLogits:
        with torch.no_grad():
            ball = Ball.relative(target.condition([case.prompt])[0], self.norm, self.eps)
        parts = torch.arange(self.samples) + torch.rand(self.samples, generator=generator)
        t = (parts * len(target.alphas_cumprod) / self.samples).long().to(target.device)
        loss = DenoisingLoss(target, latent.expand(self.samples, *latent.shape))
        return DenoisingLogits(target, ball, loss, t, draw_noise(loss.latents, [generator] * self.samples))

    def _arguments(self, kind: Any, seed: int, size: Sequence[int]) -> dict[str, Any]:
        """Return the attack's arguments other than the model: the ball, the budget, the seed and the options."""
        taken = {key: p.default for key, p in inspect.signature(kind).parameters.items() if key != "model"}
        unknown = [key for key, _ in self.options if key not in taken]
        if unknown:
            left = ", ".join(key for key in taken if key not in _OWN) or "none"
            raise ValueError(f"expected options that {self.attack} takes ({left}), found {unknown}: remove them")
        made = {**self._suited(*size), "seed": seed, **dict.fromkeys(_STEPS, self.steps)}
        if {"alpha", "eps"} <= taken.keys():
            made["alpha"] = RADIUS * taken["alpha"] / taken["eps"]
        return {**{key: value for key, value in made.items() if key in taken}, **dict(self.options)}

    def _suited(self, height: int, width: int) -> dict[str, Any]:
        """Return the arguments whose library defaults suit only small pictures in [0, 1] of ten classes."""
        coordinates = height * width
        spread = RADIUS if self.norm == "linf" else RADIUS / math.sqrt(coordinates)
        return {
            "eps": RADIUS,
            "norm": {"linf": "Linf", "l2": "L2"}[self.norm],
            **dict.fromkeys(("c", "initial_const"), coordinates),  # balances a squared distance summed over coordinates
            "n_classes": 2,  # only towards the nearest label: the ratios of the others are unrelated to the loss
            "p_init": height / width / 2,  # larger squares would not fit into the picture
            "abort_early": self.steps >= 10,  # with fewer steps the library would divide by zero
            **({"std": spread} if self.attack == "GN" else {}),  # Jitter also has a std, which is not a length
        }
