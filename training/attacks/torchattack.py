"""Any attack of the library torchattacks (Kim, arXiv:2010.01950), by name, on what the text encoder gives the UNet."""

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

from ..diffusion.backbone import Backbone, Precision
from ..types import AttackResult, Candidate, Case
from .common.conditioning_ball import RADIUS, Ball, DenoisingLogits, Norm
from .common.denoising import DenoisingLoss, case_generator, clean_latents, draw_noise

Options = tuple[tuple[str, bool | int | float | str], ...]

_EITHER = ("APGD", "APGDT", "CW", "DeepFool", "EADEN", "EADL1", "FAB", "GN", "SparseFool", "Square")
# The attacks that run inside each ball; those of both take its norm as an argument or search without a radius.
RUNNABLE: Mapping[str, tuple[str, ...]] = {
    "linf": (
        *("BIM", "EOTPGD", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "RFGSM", "SPSA", "UPGD"),
        *("VMIFGSM", "VNIFGSM"),
        *_EITHER,
    ),
    "l2": ("PGDL2", *_EITHER),
}
_IMAGE = "it works on pictures of three channels, or on a pixel's neighbours, and a conditioning is none"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("DIFGSM", "OnePixel", "PIFGSM", "PIFGSMPP", "Pixle", "TIFGSM"), _IMAGE),
    "SINIFGSM": "it darkens pictures, and zero is a corner of the ball here, not black",
    **dict.fromkeys(("PGDRS", "PGDRSL2"), "it attacks a model smoothed by noise, and the one under attack is not"),
    "TPGD": "it leaves the start's prediction in either direction, so it may raise the loss as well",
    "JSMA": "it holds a number for every pair of coordinates: gigabytes for a conditioning of Stable Diffusion",
    "VANILA": "it changes nothing; the rate without attack is its result",
    "AutoAttack": "its parts have fixed budgets; run APGD, APGDT, FAB and Square, one by one",
    "MultiAttack": "it wraps other attacks; run them one by one",
    "LGV": "it trains the model under attack on a data set",
}
_STEPS = ("steps", "nb_iter", "n_queries", "max_iterations")  # what the library calls the number of iterations
_OWN = ("model", "norm", "eps", "seed", "verbose", *_STEPS)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's global generators, which the library draws from, within the scope and put them back after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def library() -> Any:
    """Return the module torchattacks.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import torchattacks
    except ImportError as error:
        raise ImportError(
            f"expected torchattacks, found no {error.name}; pip install 'robust-encoders[attacks,eval]' and "
            "pip install --no-deps torchattacks (its release 3.5.1 would downgrade requests)"
        ) from error
    return torchattacks


@dataclass(frozen=True)
class TorchAttack:
    """An attack of torchattacks on the conditioning, inside a ball around the model's own conditioning of the prompt.

    RACE's threat model (Kim et al., ECCV 2024, equation 6: ``||delta||_inf <= eps`` at the text encoder's output). The
    perturbation comes after the text encoder, so that none can defend against it unless the ball is small: a rate says
    how near the concept still lies, not what prompts can do. The negative prompt is the model's own.

    A case is attacked alone; the loss is averaged over fixed timesteps, one from each of ``samples`` equal parts of the
    model's range, and fixed noise.

    Differences from the library: the result is the point of lowest loss that the attack tried or returned, because
    some attacks return their input unless the label changes, and it never does. What CW and EAD weigh against a squared
    distance has by default the number of coordinates as its weight.

    Differences from RACE: the loss is UnlearnDiffAtk's (see ``DenoisingLoss``), not the distance of one prediction to
    the start noise; ``eps`` is relative; the conditioning is not clipped to the range of its own values.

    Args:
        attack: Name in the library; ``RUNNABLE`` lists those that run in each ball.
        norm: ``linf`` or ``l2``.
        eps: Radius in root mean squares of the prompt's conditioning: every coordinate changes by at most that (linf),
            or they do in the root mean square (l2), so that the l2 ball holds the linf ball.
        steps: Iterations, or queries of Square; single-step attacks have none.
        samples: Points of time and noise over which the loss is averaged (N); the UNet runs on as many latents at once.
        options: Further arguments of the attack, as pairs. Lengths are in units in which the ball's radius is 0.5;
            ``alpha`` is by default the fraction of it that it is in the library.
        precision: Of the UNet: ``fp32``, or ``bf16`` by autocast.

    Raises:
        ValueError: The attack is unknown, does not fit conditionings or the ball, or another setting makes no sense.
    """

    name: ClassVar[str] = "torchattack"
    tier: ClassVar[str] = "T4"
    joint: ClassVar[bool] = False
    budget_fields: ClassVar[tuple[str, ...]] = ("steps",)
    iteration_fields: ClassVar[tuple[str, ...]] = ("steps",)

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
                f"Take one of {names}"
            )
        own = [key for key, _ in self.options if key in _OWN]
        if own:
            raise ValueError(f"expected options that no field holds, found {own}: set the attack's fields instead")

    def _why(self) -> str:
        other = [norm for norm, names in RUNNABLE.items() if self.attack in names]
        if other:
            return f"its ball is that of norm={other[0]!r}"
        return REFUSED.get(self.attack, "torchattacks has none of that name")

    @classmethod
    def standard(cls, **changes: Any) -> TorchAttack:
        """Return the standard budget on the embedded base: 20 steps of PGD in the L-infinity ball of 0.2."""
        return cls(**{"eps": 0.2, "steps": 20, **changes})

    def run(self, target: Backbone, cases: Sequence[Case], *, seed: int) -> list[AttackResult]:
        """Attack every case.

        Args:
            target: The model under attack.
            cases: Prompts with their reference latents.
            seed: Of the run; with a case's own seed it fixes all that is random about that case.

        Returns:
            One result per case with one conditioning (L, D), its step the number of points tried until it was found.

        Raises:
            ImportError: torchattacks is not installed.
            ValueError: If a case has no reference latent, or the attack takes no such option.
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
        """Return the attack's arguments beside the model: the ball, the budget, the seed and the options."""
        taken = {key: p.default for key, p in inspect.signature(kind).parameters.items() if key != "model"}
        unknown = [key for key, _ in self.options if key not in taken]
        if unknown:
            left = ", ".join(key for key in taken if key not in _OWN) or "none"
            raise ValueError(f"expected options that {self.attack} takes ({left}), found {unknown}: leave them out")
        made = {**self._suited(*size), "seed": seed, **dict.fromkeys(_STEPS, self.steps)}
        if {"alpha", "eps"} <= taken.keys():
            made["alpha"] = RADIUS * taken["alpha"] / taken["eps"]
        return {**{key: value for key, value in made.items() if key in taken}, **dict(self.options)}

    def _suited(self, height: int, width: int) -> dict[str, Any]:
        """Return arguments whose defaults were chosen for small pictures in [0, 1] of ten classes."""
        coordinates = height * width
        spread = RADIUS if self.norm == "linf" else RADIUS / math.sqrt(coordinates)
        return {
            "eps": RADIUS,
            "norm": {"linf": "Linf", "l2": "L2"}[self.norm],
            **dict.fromkeys(("c", "initial_const"), coordinates),  # against a squared distance, a sum over them
            "n_classes": 2,  # towards the nearest label only: the other ratios say nothing about the loss
            "p_init": height / width / 2,  # larger squares would not fit in
            "abort_early": self.steps >= 10,  # below, the library divides by zero
            **({"std": spread} if self.attack == "GN" else {}),  # Jitter's is not a length
        }
