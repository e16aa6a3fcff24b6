"""Walks along the remedies of errors: a command ends in its error, then what the error says is done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tiny_models import make_text_encoder, make_tokenizer, make_unet, make_vae

from robust_encoders.cli.main import main
from robust_encoders.training.trainer import checkpoint, loop

# As little as each method can do; methods without a setting leave it out.
TINY = {
    "esd": {"--train.iterations": "2", "--bank.steps": "2"},
    "advunlearn": {"--train.iterations": "2", "--bank.steps": "2", "--attack.steps": "1"},
    "race": {
        "--train.iterations": "1",
        "--start.train.iterations": "1",
        "--start.bank.steps": "2",
        "--attack.steps": "1",
    },
    "receler": {"--train.iterations": "1", "--attack.steps": "1", "--bank.steps": "2"},
}


def tiny_base(folder: Path) -> Path:
    """Write a tiny random pipeline."""
    tokenizer = make_tokenizer(folder / "tokenizer-files", max_length=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {"text_encoder": make_text_encoder(tokenizer), "unet": make_unet(), "vae": make_vae()}
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    pipe: Any = StableDiffusionPipeline(
        **parts, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "base")
    return folder / "base"


@dataclass(frozen=True)
class Walk:
    """A folder, a base, and what the command line writes.

    Args:
        base: Folder of the base pipeline.
        folder: Folder of the walk.
        capsys: What the commands write.
    """

    base: Path
    folder: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def out(self) -> Path:
        """Folder of the artifact."""
        return self.folder / "trained"

    def training(self, method: str, **others: Any) -> list[str]:
        """Return a command that trains on the base, as little as the method can; ``tiny=False`` leaves that out."""
        tiny = others.pop("tiny", True)
        (self.folder / "with.txt").write_text("a red circle\na circle\n")
        (self.folder / "without.txt").write_text("a blue square\na green star\n")
        options = {
            "--out": str(self.out),
            "--base": str(self.base),
            "--concept": "circle",
            "--family": "a-family",
            "--kind": "object",
            "--prompts": str(self.folder / "with.txt"),
            "--retain-prompts": str(self.folder / "without.txt"),
            **(TINY.get(method, {}) if tiny else {}),
            **others,
        }
        if method == "race":  # its start trains the UNet without a retain term
            del options["--retain-prompts"]
        return ["train", method, *(part for pair in options.items() for part in pair)]

    def refused(self, code: int, fragment: str, *command: str) -> str:
        """Run a command that fails; return its message, which contains a fragment."""
        self.capsys.readouterr()
        ended: object
        try:
            ended = main(command)
        except SystemExit as stopped:  # the parser of the settings wraps the message in a box
            ended = stopped.code
        out, err = self.capsys.readouterr()
        assert (ended, out, "Traceback" in err) == (code, "", False)
        told = err.partition("robust-encoders: ")[2] or " ".join(re.sub(r"[│╭╮╰╯─]", " ", err).split())
        assert fragment in told, told
        return told

    def stop_after_checkpoint(self, patch: pytest.MonkeyPatch) -> None:
        """Stop the next training after its first checkpoint, as Ctrl-C does."""

        def stop(*values: Any, **named: Any) -> Any:
            saved(*values, **named)
            raise KeyboardInterrupt

        saved = checkpoint.save_checkpoint
        patch.setattr(loop, "save_checkpoint", stop)
