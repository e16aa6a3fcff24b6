"""The shapes world as training data, for the build of its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Generator, Tensor

from ..pretrain.config import NetworkConfig, Sizes
from ..pretrain.corpus import Pictures
from ..pretrain.networks import LabelNet
from .captions import ScenePrompt, scene_prompts
from .judge import Judge
from .networks import LABELS
from .pictures import captions_of, render_pictures
from .rejects import reject_pictures


class ShapesCorpus:
    """Rendered scenes, their four factors as labels, and their captions."""

    @property
    def labels(self) -> Mapping[str, int]:
        """Number of values, by factor."""
        return LABELS

    @property
    def networks(self) -> NetworkConfig:
        """Sizes of the networks of the packaged base."""
        return NetworkConfig()

    @property
    def sizes(self) -> Sizes:
        """Steps and batch sizes that made the packaged base."""
        return Sizes()

    def pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n rendered pictures; equal seeds give equal pictures."""
        return render_pictures(n, seed=seed)

    def reject_pictures(self, n: int, *, seed: int) -> Pictures:
        """Return n pictures that lack a value of at least one factor; equal seeds give equal pictures."""
        return reject_pictures(n, seed=seed)

    def captions(self, labels: Tensor, generator: Generator, *, empty: float = 0.0) -> list[str]:
        """Return a random caption for each row of labels (n, 4), over all templates and words."""
        return captions_of(labels, generator, empty=empty)

    def prompts(self, n: int, *, seed: int) -> Sequence[ScenePrompt]:
        """Return n captions from held-out templates; equal seeds give equal captions."""
        return scene_prompts(n, seed=seed)

    def reader(self, network: LabelNet, version: str) -> Judge:
        """Return a judge that uses a trained network; ``version`` names its weights."""
        return Judge(network, version)
