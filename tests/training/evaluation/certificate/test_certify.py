"""A certificate from beginning to end on a tiny base: counts, resuming, refusals, manifest and card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from robust_encoders import Concept, RobustEncoder
from robust_encoders.artifact.model_card import card
from robust_encoders.errors import IntegrityError, NotReadyError
from robust_encoders.training.diffusion.sampling import SamplingConfig
from robust_encoders.training.evaluation.certificate import prompts
from robust_encoders.training.evaluation.certificate.certify import PARTS, certify, form_problems
from robust_encoders.training.evaluation.certificate.config import CertificateConfig
from robust_encoders.training.evaluation.certificate.drawing import Samples, picture_seed
from robust_encoders.training.evaluation.certificate.prompts import pair_prompts, single_prompts
from robust_encoders.training.evaluation.certificate.record import Certificate, with_certificate
from robust_encoders.training.evaluation.certificate.share import Share
from robust_encoders.training.evaluation.chance import Chance, Floor
from robust_encoders.training.evaluation.manifest_results import with_results
from robust_encoders.training.evaluation.results import Evaluation, result_from_record
from robust_encoders.training.metrics.rates import rate
from robust_encoders.training.reports.plots.certificate import certificate_figure
from robust_encoders.training.reports.plots.style import LIGHT

CIRCLE = Concept(name="circle", kind="object", synonyms=("disc",))
SMALL = CertificateConfig(
    nearest=4,
    random=3,
    each=2,
    seeds=2,
    pairs_among=3,
    floor=4,
    part=64,
    chunk=8,
    sampling=SamplingConfig(steps=1, guidance=1.0, batch=8),
)


class Bright:
    """A detector that finds bright pictures, and can stop a run after some calls."""

    name = "bright"
    version = "1"
    threshold: float = 0.5
    calls: ClassVar[int] = 0

    def __init__(self, stop_after: int = 10**6) -> None:
        self.left = stop_after

    def __call__(self, images: Tensor) -> Tensor:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        type(self).calls += 1
        return images.mean((1, 2, 3)) * 2


def _tenth(shown: int) -> Share:
    return Share(50, shown, 200, shown, (0.0, 1.0))


@pytest.fixture
def made(tiny_encoder: RobustEncoder) -> Certificate:
    """A certificate of the tiny encoder as a run could give it; nothing is drawn."""
    floor = Floor(0.1, (0.0, 0.3), 100, 3)
    return Certificate(
        concept="circle",
        words=CIRCLE.words(),
        content_sha256=tiny_encoder.content_sha256,
        config_sha256=tiny_encoder.config_sha256,
        base={"id": "org/tiny", "models_sha256": "1" * 64},
        prompts=172,
        prompts_sha256="2" * 64,
        pairs_among=3,
        nearest=Share(4, 1, 8, 2, (0.1, 0.2)),
        random=Share(3, 0, 6, 0, (0.1, 2.0)),
        tenths=tuple(map(_tenth, (5,) * 10)),
        margins=tuple(0.1 + 0.19 * i for i in range(11)),
        bound=None,
        chance=Chance(floor, floor),
        detector=("bright", "1", 0.5),
        settings={"seed": 0, "pictures_per_prompt": 2, "unet_calls": 7},
    )


def test_it_counts_every_prompt_once_and_a_stopped_run_goes_on(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, make_encoder: Any, tmp_path: Path
) -> None:
    def run(folder: str, detector: Bright, encoder: Any = tiny_encoder) -> Certificate:
        Bright.calls = 0
        return certify(tiny_pipe, encoder, CIRCLE, detector, out=tmp_path / folder, config=SMALL)

    whole = run("whole", Bright())
    calls, singles = Bright.calls, single_prompts(tiny_pipe.tokenizer)
    # Any two whole words are a prompt of two tokens, so three tokens give nine pairs.
    assert whole.prompts == 1 + len(singles) + 9
    assert (whole.pairs_among, whole.concept, whole.words) == (3, "circle", ("circle", "disc"))
    assert (whole.nearest.n, whole.nearest.pictures, whole.random.n) == (4, 8, 3)
    assert [one.n for one in whole.tenths] == [2] * 10
    assert list(whole.margins) == sorted(whole.margins)
    assert whole.nearest.distances[0] == whole.margins[0] == whole.random.distances[0]
    assert whole.bound is None
    assert whole.chance.encoder.pictures == whole.chance.base.pictures == 4
    assert not tiny_encoder.status(tiny_pipe).attached

    with pytest.raises(KeyboardInterrupt):
        run("stopped", Bright(stop_after=4))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / PARTS).iterdir()}
    assert any(path.name.startswith("encoded-pairs") for path in kept)
    assert run("stopped", Bright()) == whole
    assert Bright.calls == calls - 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run("stopped", Bright()) == whole
    assert Bright.calls == 0

    other = make_encoder(tiny_pipe, seed=2)
    found = run("whole", Bright(), other)
    assert Bright.calls > 0
    assert found.content_sha256 == other.content_sha256 != whole.content_sha256
    assert found.margins != whole.margins


def test_all_pairs_are_counted_on_a_small_vocabulary(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = single_prompts(tiny_pipe.tokenizer).tolist()[:6]
    monkeypatch.setattr(prompts, "ordinary_ids", lambda _: few)
    config = replace(SMALL, pairs_among=None, each=1)
    found = certify(tiny_pipe, tiny_encoder, CIRCLE, Bright(), out=tmp_path, config=config)
    assert found.prompts == 1 + 6 + len(pair_prompts(tiny_pipe.tokenizer, few)) == 43
    start = "all 43 prompts of up to two tokens were encoded; of the 4 nearest "
    assert falling(found).statement == f"{start}{found.nearest.shown} showed the concept"


def test_samples_are_of_their_tenths_and_do_not_depend_on_each_other() -> None:
    samples = Samples.of(103, SMALL)
    ends = [0, 10, 20, 30, 41, 51, 61, 72, 82, 92, 103]
    for i, tenth in enumerate(samples.tenths):
        assert len(set(tenth)) == 2
        assert ends[i] <= min(tenth) <= max(tenth) < ends[i + 1]
    assert samples.nearest == (0, 1, 2, 3)
    assert len(samples.all) == len(set(samples.all))
    assert Samples.of(103, replace(SMALL, nearest=9)).tenths == samples.tenths
    assert Samples.of(103, replace(SMALL, seed=1)).tenths != samples.tenths
    assert picture_seed(0, (3, 4), 1) == picture_seed(0, (3, 4), 1) != picture_seed(0, (4, 3), 1)


def test_more_than_there_is_is_refused_before_anything_is_drawn(
    tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="found 104; lower --nearest, and each of at most 10 for 103"):
        Samples.of(103, replace(SMALL, nearest=104, each=11))
    few = single_prompts(tiny_pipe.tokenizer).tolist()[:4]
    monkeypatch.setattr(prompts, "ordinary_ids", lambda _: few)
    config = replace(SMALL, pairs_among=0)
    with pytest.raises(ValueError, match="expected each of at most 2 for 21 prompts, found 3; lower --each"):
        certify(tiny_pipe, tiny_encoder, CIRCLE, Bright(stop_after=0), out=tmp_path, config=replace(config, each=3))


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="nearest 0, pairs_among -1"):
        CertificateConfig(nearest=0, pairs_among=-1)
    with pytest.raises(ValueError, match="floor 3, below seeds 4"):
        CertificateConfig(floor=3)


def test_the_number_of_pairs_follows_the_vocabulary() -> None:
    assert CertificateConfig().shortlist(758) == 0
    assert CertificateConfig().shortlist(49408) == 1000
    assert CertificateConfig(pairs_among=5).shortlist(758) == 5


def test_an_edit_of_the_unet_is_refused(tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.manifest = replace(tiny_encoder.manifest, form="delta", component="unet")
    with pytest.raises(NotReadyError, match="found form 'delta' of 'unet'; use robust-encoders evaluate"):
        certify(tiny_pipe, tiny_encoder, CIRCLE, Bright(), out=tmp_path, config=SMALL)
    assert len(form_problems(tiny_encoder)) == 1


def falling(made: Certificate) -> Certificate:
    return replace(made, tenths=tuple(_tenth(n) for n in (20, 9, 4, 2, 1, 0, 0, 1, 0, 0)))


def test_without_a_trend_there_is_no_certificate(made: Certificate) -> None:
    assert falling(made).holds
    flat = replace(made, tenths=tuple(_tenth(5) for _ in range(10)))
    assert not flat.holds
    assert flat.statement.startswith("there is no certificate: success does not fall with distance")
    none = replace(made, tenths=tuple(_tenth(0) for _ in range(10)))
    assert "none of the 500 prompts from all tenths showed the concept" in none.statement
    every = replace(made, tenths=tuple(_tenth(50) for _ in range(10)))
    assert "all of the 500 prompts" in every.statement


class Apart:
    """A detector that finds the concept in the first pictures of the base alone, and never with the encoder.

    Args:
        pipe: Pipeline.
        encoder: Encoder.
        found: Number of the base's first pictures that show the concept, behind those of the empty prompt.
    """

    name = "apart"
    version = "1"
    threshold: float = 0.5

    def __init__(self, pipe: Any, encoder: Any, found: int) -> None:
        self.pipe, self.encoder, self.found, self.seen = pipe, encoder, found, 0

    def __call__(self, images: Tensor) -> Tensor:
        if self.encoder.status(self.pipe).attached:
            return torch.zeros(len(images))
        places = torch.arange(self.seen, self.seen + len(images))
        self.seen += len(images)
        return ((places >= SMALL.floor) & (places < SMALL.floor + self.found)).float()


@pytest.mark.parametrize(("found", "holds"), [(16, True), (0, False), (40, False)])
def test_of_an_encoder_that_never_fails_the_base_says_if_distance_counts(
    found: int, holds: bool, tiny_pipe: Any, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    made = certify(tiny_pipe, tiny_encoder, CIRCLE, Apart(tiny_pipe, tiny_encoder, found), out=tmp_path, config=SMALL)
    assert [one.shown for one in made.tenths] == [0] * 10
    assert [(one.n, one.pictures) for one in made.base_tenths] == [(2, 4)] * 10
    # Parts are drawn from the nearest prompt on, so the first pictures are those of the first tenths.
    assert [one.shown for one in made.base_tenths] == [2] * (found // 4) + [0] * (10 - found // 4)
    near = [one.distances for one in made.base_tenths]
    assert near == sorted(near)
    assert near[0][0] < made.nearest.distances[0], "the base's own prompts come nearer than the encoder's"
    assert made.holds == holds
    assert made.seen_with == ("base" if holds else "")
    drawn = {path.name for path in (tmp_path / PARTS).iterdir()}
    assert any(name.startswith("drawn-base-prompts") for name in drawn)
    if holds:
        ends = "of 20 from all tenths none; that success falls with distance was seen with the base's own text encoder"
        assert made.statement.startswith(f"all {made.prompts} prompts")
        assert f"of the 4 nearest 0 showed the concept, and {ends} alone" in made.statement
    else:
        assert made.statement.startswith("there is no certificate: none of the 20 prompts from all tenths showed")
        assert "with the base's own text encoder success does not fall with distance either (one-sided" in made.reason
    assert Certificate.of(made.result) == made
    pictures = 2 * SMALL.floor + made.settings["pictures_per_prompt"] * 20
    assert made.settings["unet_calls"] >= pictures


def test_the_base_does_not_speak_for_an_encoder_that_fails_at_any_distance(made: Certificate) -> None:
    fell = tuple(_tenth(n) for n in (20, 9, 4, 2, 1, 0, 0, 1, 0, 0))
    never = replace(made, tenths=tuple(map(_tenth, (0,) * 10)), base_tenths=fell)
    assert never.seen_with == "base"
    seldom = replace(never, tenths=tuple(map(_tenth, (0, 0, 0, 0, 0, 1, 0, 0, 1, 0))))
    assert not seldom.holds
    assert seldom.statement.startswith("there is no certificate: success does not fall with distance over the tenths")
    assert falling(never).seen_with == "encoder"
    assert falling(never).statement.endswith("showed the concept")


def drawn_axes(certificate: Certificate) -> list[Any]:
    return [*certificate_figure(certificate)(LIGHT).axes]


def test_the_card_says_with_which_text_encoder_success_falls(
    made: Certificate, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    fell = tuple(_tenth(n) for n in (20, 9, 4, 2, 1, 0, 0, 1, 0, 0))
    never = replace(made, tenths=tuple(map(_tenth, (0,) * 10)), base_tenths=fell)
    with_certificate(tiny_encoder, never).save_pretrained(tmp_path / "artifact")
    text = " ".join((tmp_path / "artifact" / "README.md").read_text(encoding="utf-8").split())
    assert "was seen with the base's own text encoder alone" in text
    assert "so nothing could fall with the encoder. With the base's own text encoder, the test" in text
    assert "That is a weaker ground" in text
    assert "| tenth 1 | 0 to 1 | 50 | 0 (0.0 %) |" in text
    assert "| base's tenth 1 | 0 to 1 | 50 | 20 (40.0 %) |" in text
    assert text.count("| base's tenth ") == 10
    labels = [drawn_axes(one)[0].get_legend_handles_labels()[1] for one in (never, falling(made))]
    assert ["base, its own ranking" in one for one in labels] == [True, False]


def test_a_shortlist_says_so(made: Certificate) -> None:
    said = falling(made).statement
    assert said.startswith(f"all {made.prompts} prompts of one token, and of two among the 3 nearest tokens, were")
    assert "of up to two tokens" not in said


def test_a_prompt_counts_once_however_many_pictures_show_it() -> None:
    share = Share.of([[True, True], [False, True], [False, False]], (0.1, 0.2))
    assert (share.n, share.shown, share.pictures, share.pictures_shown) == (3, 2, 6, 3)


def test_the_manifest_gives_it_back_and_the_card_shows_it(
    made: Certificate, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    certificate = falling(made)
    with_certificate(tiny_encoder, certificate).save_pretrained(tmp_path / "artifact")
    kept = RobustEncoder.from_pretrained(tmp_path / "artifact")
    (record,) = kept.manifest.results
    assert Certificate.of(result_from_record(record)) == certificate
    text = (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "## A finite certificate" in text
    assert f"**A{certificate.statement[1:]}.**" in text
    assert "| tenth 1 | 0 to 1 | 50 | 20 (40.0 %) |" in text
    assert "base's tenth" not in text
    assert "No lower bound on the distance of other texts is known." in text
    bounded = replace(certificate, bound=0.25)
    assert "No text has a distance below 0.25." in str(
        card(replace(kept.manifest, results=(bounded.result.record(),)), reference="x")
    )


def test_one_base_keeps_one_and_an_evaluation_keeps_it(made: Certificate, tiny_encoder: RobustEncoder) -> None:
    first = with_certificate(tiny_encoder, made)
    again = with_certificate(first, replace(made, bound=0.5))
    assert [one["settings"]["bound"] for one in again.manifest.results] == [0.5]
    elsewhere = replace(made, base={"id": "other", "models_sha256": "0" * 64})
    assert len(with_certificate(first, elsewhere).manifest.results) == 2
    evaluated = with_results(first, Evaluation("a", "circle", (rate("pre_asr", [True, False]),)))
    assert [one["metric"] for one in evaluated.manifest.results] == ["pre_asr", "certificate"]


def test_a_certificate_of_other_weights_is_refused(
    made: Certificate, tiny_pipe: Any, make_encoder: Any, tmp_path: Path
) -> None:
    other = make_encoder(tiny_pipe, seed=2)
    with pytest.raises(IntegrityError, match=f"found one of {made.content_sha256[:12]}; certify these weights"):
        with_certificate(other, made)
    # As if somebody had copied the results by hand, or saved the weights in another precision.
    other.manifest = replace(other.manifest, results=(falling(made).result.record(),))
    other.save_pretrained(tmp_path / "artifact")
    text = (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "**A certificate of other weights is left out**" in text
    assert "showed the concept" not in text


def test_weights_in_another_precision_lose_it(made: Certificate, tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    with_certificate(tiny_encoder, falling(made)).save_pretrained(tmp_path / "whole-precision")
    RobustEncoder.from_pretrained(tmp_path / "whole-precision", dtype=torch.float16).save_pretrained(tmp_path / "half")
    assert "is left out" in (tmp_path / "half" / "README.md").read_text(encoding="utf-8")


def test_an_adapter_with_another_configuration_loses_it(
    made: Certificate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tensors are the same, and an adapter of SPM acts on prompts that are like its own."""
    adapter = RobustEncoder.from_pretrained("shapes/circle-spm")
    about: Any = {"content_sha256": adapter.content_sha256, "config_sha256": adapter.config_sha256}
    certificate = falling(replace(made, **about))
    with_certificate(adapter, certificate).save_pretrained(tmp_path / "same")
    kept = RobustEncoder.from_pretrained(tmp_path / "same")
    assert (kept.content_sha256, kept.config_sha256) == (adapter.content_sha256, adapter.config_sha256)
    assert "showed the concept" in (tmp_path / "same" / "README.md").read_text(encoding="utf-8")
    assert not caplog.records
    config = {**kept.config, "prompts": ["a red star"]}
    other = type(kept)(kept.manifest, kept.tensors, config)
    assert other.content_sha256 == adapter.content_sha256
    with pytest.raises(IntegrityError, match=f"found one of {certificate.config_sha256[:12]}; certify the encoder in"):
        with_certificate(other, certificate)
    other.save_pretrained(tmp_path / "other")
    assert "left out 1 certificate(s) of another configuration" in caplog.text
    assert "showed the concept" not in (tmp_path / "other" / "README.md").read_text(encoding="utf-8")
    again = with_certificate(other, replace(certificate, config_sha256=other.config_sha256))
    assert [one["metric"] for one in again.manifest.results].count("certificate") == 1
    again.save_pretrained(tmp_path / "other")
    assert "showed the concept" in (tmp_path / "other" / "README.md").read_text(encoding="utf-8")


def test_a_damaged_record_leaves_the_rest_of_the_card(
    made: Certificate, tiny_encoder: RobustEncoder, tmp_path: Path
) -> None:
    record = falling(made).result.record()
    settings = {key: value for key, value in record["settings"].items() if key != "base"}
    tiny_encoder.manifest = replace(tiny_encoder.manifest, results=({**record, "settings": settings},))
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    text = (tmp_path / "artifact" / "README.md").read_text(encoding="utf-8")
    assert "**A certificate cannot be read**: KeyError" in text.replace("\\", "")
    assert "## Limits" in text or "## What it does not protect" in text
