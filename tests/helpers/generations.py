"""Both generations of transformers read what the other one wrote; `make test-oldest` names the other interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import StableDiffusionPipeline

from robust_encoders import RobustEncoder
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.clip.state_dict import nested_state

OTHER = os.environ["ROBUST_ENCODERS_OTHER_PYTHON"]
PROMPT = "a red circle on a white background"


def in_the_other(code: str, *arguments: Path) -> dict[str, Any]:
    """Run ``code`` with the other interpreter; it fills ``answer``, with the paths as ``paths``."""
    head = "import json, sys\nfrom pathlib import Path\npaths = [Path(a) for a in sys.argv[1:]]\nanswer = {}\n"
    tail = "\nimport transformers\nanswer['transformers'] = transformers.__version__\nprint(json.dumps(answer))"
    script = head + textwrap.dedent(code) + tail
    ran = subprocess.run([OTHER, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert answer["transformers"].split(".")[0] != transformers.__version__.split(".")[0]
    return answer


def conditioning(pipe: Any) -> torch.Tensor:
    embeds: torch.Tensor = pipe.encode_prompt(PROMPT, "cpu", 1, False)[0]
    return embeds.detach()


def test_what_this_generation_writes_the_other_loads_bit_for_bit(tiny_encoder: RobustEncoder, tmp_path: Path) -> None:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    answer = in_the_other(
        """
        from robust_encoders import RobustEncoder
        encoder = RobustEncoder.from_pretrained(paths[0])
        answer["content"] = encoder.content_sha256
        encoder.save_pretrained(paths[1])
        """,
        tmp_path / "artifact",
        tmp_path / "back",
    )
    assert answer["content"] == tiny_encoder.content_sha256
    back = RobustEncoder.from_pretrained(tmp_path / "back")
    assert back.content_sha256 == tiny_encoder.content_sha256
    assert back.manifest.concept == tiny_encoder.manifest.concept
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("artifact", "back")]
    assert weights[0] == weights[1]


def test_a_pipeline_saved_after_attach_loads_over_there_without_this_package(
    tiny_encoder: RobustEncoder, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_encoder.attach(tiny_pipe)
    tiny_pipe.save_pretrained(tmp_path / "pipeline")
    torch.save(conditioning(tiny_pipe), tmp_path / "expected.pt")
    answer = in_the_other(
        f"""
        import torch
        from diffusers import StableDiffusionPipeline
        pipe = StableDiffusionPipeline.from_pretrained(paths[0], safety_checker=None)
        found, _ = pipe.encode_prompt({PROMPT!r}, "cpu", 1, False)
        answer["apart"] = float((found - torch.load(paths[1])).abs().max())
        answer["ours"] = "robust_encoders" in sys.modules
        answer["provenance"] = pipe.text_encoder.config.robust_encoders["content_sha256"]
        """,
        tmp_path / "pipeline",
        tmp_path / "expected.pt",
    )
    assert answer["apart"] < 1e-6
    assert not answer["ours"]
    assert answer["provenance"] == tiny_encoder.content_sha256


def test_a_pipeline_saved_over_there_takes_the_encoder_here(
    tiny_encoder: RobustEncoder, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_pipe.save_pretrained(tmp_path / "here")
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    in_the_other(
        """
        from diffusers import StableDiffusionPipeline
        from robust_encoders import RobustEncoder
        pipe = StableDiffusionPipeline.from_pretrained(paths[0], safety_checker=None)
        pipe.save_pretrained(paths[2])
        RobustEncoder.from_pretrained(paths[1]).attach(pipe).save_pretrained(paths[3])
        """,
        *(tmp_path / name for name in ("here", "artifact", "there", "attached")),
    )
    # transformers 5 saves a tokenizer that 4.57 cannot read, with this package or without: the tokenizer is passed in.
    kept = {"tokenizer": tiny_pipe.tokenizer, "safety_checker": None}
    bare = StableDiffusionPipeline.from_pretrained(tmp_path / "there", **kept)
    ready = StableDiffusionPipeline.from_pretrained(tmp_path / "attached", **kept)
    assert content_sha256(nested_state(ready.text_encoder)) == tiny_encoder.content_sha256
    torch.testing.assert_close(conditioning(tiny_encoder.attach(bare)), conditioning(ready), atol=0, rtol=0)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
