"""Mistakes of the authors' training code that change results, each with what would catch it here.

Numbered as they were found there: summed attack gradients, a lost last step, words counted as tokens, layers chosen
by string prefix, an integer learning rate, a default retain set that is not a choice, a retain batch that runs out,
two devices, a run that cannot be repeated, and a conditioning that the attack never rebuilds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.concepts import Concept
from robust_encoders.training.attacks.soft_prompt import SoftPrompt
from robust_encoders.training.diffusion.backbone import Backbone
from robust_encoders.training.methods import ESD, AdvUnlearn
from robust_encoders.training.objectives.config import AdversaryConfig, RetainConfig, UnlearnConfig
from robust_encoders.training.prompts.layout import PromptLayout, prompt_lengths
from robust_encoders.training.trainer.loop import TrainingConfig
from robust_encoders.training.trainer.parameters import LAYER, SelectionConfig
from robust_encoders.training.trajectories.bank import TrajectoryBank
from robust_encoders.training.trajectories.config import BankConfig
from robust_encoders.training.workspace import Workspace

START = torch.zeros(1, 1, 1)


def points_of(attack: SoftPrompt, slopes: list[float]) -> list[float]:
    """Return where the loss was evaluated, and the end, when its slope at step i is ``slopes[i]``."""
    seen: list[float] = []

    def loss(adv: Tensor) -> Tensor:
        seen.append(float(adv.detach()))
        return adv.flatten(1).sum(1) * slopes[len(seen) - 1]

    end = attack(loss, START, generator=torch.Generator())
    return [*seen, float(end)]


def test_1_gradients_of_earlier_steps_are_not_added_up() -> None:
    # Summed, the slope at the second step would still point down and the sign rule could never turn back.
    seen = points_of(SoftPrompt(steps=3, rate=1.0, rule="sign"), [100.0, -1.0, -1.0])
    assert seen == [0.0, -1.0, 0.0, 1.0]


@pytest.mark.parametrize("rule", ["adam", "sign"])
def test_2_the_last_step_counts(rule: Any) -> None:
    assert points_of(SoftPrompt(steps=1, rate=0.5, rule=rule), [1.0]) == pytest.approx([0.0, -0.5])


def test_3_every_sub_token_of_a_prompt_stays(tiny_pipe: Any) -> None:
    backbone = Backbone.from_pipeline(tiny_pipe)
    ids, eos_id = backbone.tokenize(["zebra"]), backbone.tokenizer.eos_token_id
    count = int(prompt_lengths(ids, eos_id))
    assert count > len(["zebra"])  # more tokens than words, or the test says nothing
    adv = torch.full((1, 1, 16), 7.0)
    embeds, placed = PromptLayout("prefix", 1).place(backbone.embed(ids), ids, adv, eos_id=eos_id)
    assert torch.equal(embeds[0, 1], adv[0, 0])
    assert torch.equal(embeds[0, 2 : 2 + count], backbone.embed(ids)[0, 1 : 1 + count])
    assert int(placed[0, 2 + count]) == eos_id


def test_4_layer_1_is_not_10_nor_11(make_pipe: Any) -> None:
    encoder = make_pipe(layers=12).text_encoder
    chosen = SelectionConfig(layers=(1,), final_norm=False).select(encoder)
    assert {match[1] for name in chosen if (match := LAYER.search(name))} == {"1"}


def test_5_the_learning_rate_is_a_small_number() -> None:
    assert TrainingConfig().rate == 1e-5
    assert TrainingConfig(rate=2.5e-6).rate_at(0) == 2.5e-6


def test_6_there_is_no_default_retain_set_that_fails_later() -> None:
    with pytest.raises(ValueError, match=r"give retain\.prompts"):
        RetainConfig()


def test_7_a_retain_batch_may_be_larger_than_what_is_left(tiny_pipe: Any) -> None:
    bank = TrajectoryBank.build(
        Backbone.from_pipeline(tiny_pipe), ["a star", "a ring"], BankConfig(steps=2), progress=False
    )
    generator = torch.Generator()
    assert all(len(bank.sample(5, generator).t) == 5 for _ in range(4))


def method(**overrides: Any) -> AdvUnlearn:
    fields: dict[str, Any] = {
        "retain": RetainConfig(prompts=("a star",), batch=1),
        "unlearn": UnlearnConfig(batch=1),
        "attack": SoftPrompt(steps=1, rate=0.1),
        "adversary": AdversaryConfig(warmup=0),
        "train": TrainingConfig(iterations=2, rate=1e-3),
        "bank": BankConfig(steps=2),
    }
    return AdvUnlearn(**{**fields, **overrides})


def erased(pipe: Any, eraser: AdvUnlearn | ESD, seed: int = 0) -> str:
    concept = Concept(name="circle", kind="object")
    generator = torch.Generator().manual_seed(seed)
    space = Workspace(progress=False)
    edit = eraser.erase(Backbone.from_pipeline(pipe), concept, generator=generator, workspace=space)
    return content_sha256(edit.tensors)


def test_9_a_run_is_repeated_by_its_seed_alone(tiny_pipe: Any) -> None:
    torch.manual_seed(1)
    first = erased(tiny_pipe, method())
    torch.manual_seed(2)
    assert erased(tiny_pipe, method()) == first
    assert erased(tiny_pipe, method(), seed=1) != first


def test_10_attacked_prompts_are_encoded_anew_at_every_step(tiny_pipe: Any) -> None:
    seen: list[Tensor] = []
    encode = Backbone.encode

    def spying(self: Backbone, embeds: Tensor, ids: Tensor, given: Tensor | None = None) -> Tensor:
        seen.append(embeds.detach().clone())
        cond: Tensor = encode(self, embeds, ids, given)
        return cond

    attack = SoftPrompt(steps=3, rate=0.1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Backbone, "encode", spying)
        erased(tiny_pipe, method(attack=attack, train=TrainingConfig(iterations=1)))
    attacks, final = seen[:3], seen[3][:1]
    assert len({float(embeds.sum()) for embeds in [*attacks, final]}) == 4
    assert torch.equal(attacks[0][:, 2:], final[:, 2:])
