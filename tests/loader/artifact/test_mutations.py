"""No mutated artifact is loaded as something else, crashes the loader, or costs much time or memory."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from robust_encoders import RobustEncoder, RobustEncodersError
from robust_encoders.artifact.fingerprint import content_sha256

WEIGHTS, CONFIG, MANIFEST = "model.safetensors", "config.json", "robust_encoder.json"
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, "", "..", "../../etc/passwd", "/etc/passwd", "\ud800", "\0", [], {}, [[]], [{}],
    [10**400], {"..": {}}, {"/a": None}, "a" * 10**5,
)  # fmt: skip
Files = dict[str, bytes]
Mutation = Callable[[Files, random.Random], None]


def flip(files: Files, rng: random.Random) -> None:
    name = rng.choice(sorted(files))
    data = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 1, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)


def cut(files: Files, rng: random.Random) -> None:
    name = rng.choice(sorted(files))
    files[name] = files[name][: rng.randrange(len(files[name]))]


def append(files: Files, rng: random.Random) -> None:
    name = rng.choice((WEIGHTS, CONFIG))
    files[name] += rng.randbytes(rng.choice((1, 8, 4096)))


def seal(files: Files, *, contents: str | None = None) -> None:
    """Correct the hashes, as a careful forger would."""
    body = json.loads(files[MANIFEST])
    for name in (WEIGHTS, CONFIG):
        record = body["files"][name]
        record.update(sha256=hashlib.sha256(files[name]).hexdigest(), size=len(files[name]))
    if contents is not None:
        body["files"][WEIGHTS]["content_sha256"] = contents
    files[MANIFEST] = sealed(body)


def sealed(body: dict[str, Any]) -> bytes:
    kept = {name: value for name, value in body.items() if name != "manifest_sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps({**kept, "manifest_sha256": digest}).encode()


def header_of(files: Files) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", files[WEIGHTS][:8])
    return json.loads(files[WEIGHTS][8 : 8 + length]), files[WEIGHTS][8 + length :]


def put_header(files: Files, text: bytes, body: bytes, length: int | None = None) -> None:
    files[WEIGHTS] = struct.pack("<Q", len(text) if length is None else length) + text + body
    seal(files)


def header_length(files: Files, rng: random.Random) -> None:
    header, body = header_of(files)
    text = json.dumps(header).encode()
    put_header(files, text, body, rng.choice((0, 1, len(text) - 1, len(text) + 1, 2**31, 2**63, 2**64 - 1)))


def duplicate(files: Files, rng: random.Random) -> None:
    header, body = header_of(files)
    name = rng.choice([name for name in header if name != "__metadata__"])
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}" + "}"
    put_header(files, text.encode(), body)


def overlap(files: Files, rng: random.Random) -> None:
    header, body = header_of(files)
    one, other = rng.sample([name for name in header if name != "__metadata__"], 2)
    header[one]["data_offsets"] = header[other]["data_offsets"]
    put_header(files, json.dumps(header).encode(), body)


def entry(files: Files, rng: random.Random) -> None:
    header, body = header_of(files)
    name = rng.choice([name for name in header if name != "__metadata__"])
    key = rng.choice(("dtype", "shape", "data_offsets"))
    wrong = (*STRANGE, "F16", "I64", "F8_E4M3", [2**62, 2**62], [1], [0, 2**63], [-1, 4])
    header[name][key] = rng.choice([value for value in wrong if value != header[name][key]])
    put_header(files, json.dumps(header).encode(), body)


def values(files: Files, rng: random.Random) -> None:
    tensors = safetensors.torch.load(files[WEIGHTS])
    tensor = tensors[rng.choice(sorted(tensors))].view(-1)
    tensor[rng.randrange(tensor.numel())] = rng.choice((float("nan"), float("inf"), float("-inf")))
    rewrite(files, tensors)


def tensors_changed(files: Files, rng: random.Random) -> None:
    tensors = safetensors.torch.load(files[WEIGHTS])
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    change = rng.randrange(4)
    if change == 0:
        tensors[name] = tensor.to(rng.choice((torch.float16, torch.int64, torch.bool)))
    elif change == 1:
        tensors[name] = tensor[:-1].clone()
    elif change == 2:
        tensors[f"{name}.more"] = tensor
    rewrite(files, tensors)


def rewrite(files: Files, tensors: dict[str, torch.Tensor]) -> None:
    files[WEIGHTS] = safetensors.torch.save(tensors, metadata={"format": "pt"})
    seal(files, contents=content_sha256(tensors))


def another_format(files: Files, rng: random.Random) -> None:
    data = BytesIO()
    if rng.random() < 0.5:
        torch.save(safetensors.torch.load(files[WEIGHTS]), data)
    else:
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("../data.pkl", rng.randbytes(100))
    files[WEIGHTS] = data.getvalue()
    seal(files)


def manifest_field(files: Files, rng: random.Random) -> None:
    """Drop a field of the manifest, add one, or put something else there; its own hash is right again."""
    body = json.loads(files[MANIFEST])
    place = body
    while True:
        key = rng.choice(sorted(place))
        if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    change = rng.randrange(3)
    if change == 0:
        del place[key]
    elif change == 1:
        place[rng.choice(("strange", "../strange", "/strange"))] = rng.choice(STRANGE)
    else:
        place[key] = rng.choice(STRANGE)
    files[MANIFEST] = sealed(body)


def config_field(files: Files, rng: random.Random) -> None:
    config = json.loads(files[CONFIG])
    key = rng.choice(("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act"))
    config[key] = rng.choice((*STRANGE, 3, 10**9, 2**63, 1.5, "quick", "gelu\n"))
    files[CONFIG] = json.dumps(config).encode()
    seal(files)


def nest(files: Files, rng: random.Random) -> None:
    name = rng.choice((MANIFEST, CONFIG))
    files[name] = b"[" * 10**5
    if name == CONFIG:
        seal(files)


MUTATIONS: tuple[Mutation, ...] = (
    flip, cut, append, header_length, duplicate, overlap, entry, values, tensors_changed, another_format,
    manifest_field, config_field, nest,
)  # fmt: skip


@pytest.fixture
def artifact(tiny_encoder: RobustEncoder, tmp_path: Path) -> Path:
    tiny_encoder.save_pretrained(tmp_path / "artifact")
    return tmp_path / "artifact"


def attempt(folder: Path, files: Files) -> tuple[str, str]:
    """Load and build what is there; return the hash of its tensors, or the error in words."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        encoder = RobustEncoder.from_pretrained(folder)
        assert isinstance(encoder, RobustEncoder)
        encoder.text_encoder()
    except RobustEncodersError as error:
        return "", str(error)
    return encoder.content_sha256, ""


def study(artifact: Path, count: int) -> tuple[int, float]:
    """Load mutated artifacts; return how many were refused, and the longest time of one in seconds."""
    # The model card beside them is prose, which nothing is decided by.
    original = {path.name: path.read_bytes() for path in artifact.iterdir() if path.name != "README.md"}
    expected, _ = attempt(artifact.with_name("mutated"), original)
    refused, longest = 0, 0.0
    for seed in range(count):
        rng = random.Random(seed)
        mutate = MUTATIONS[seed % len(MUTATIONS)]
        files = dict(original)
        mutate(files, rng)
        started = time.process_time()
        found, error = attempt(artifact.with_name("mutated"), files)
        longest = max(longest, time.process_time() - started)
        assert found in ("", expected), f"{mutate.__name__}, seed {seed}: loaded other tensors"
        assert len(error) < 10**5, f"{mutate.__name__}, seed {seed}: an error of {len(error)} characters"
        # What a forger may change without being refused is what the manifest tells, never the tensors.
        told = mutate in (manifest_field, config_field) or files == original
        assert error or told, f"{mutate.__name__}, seed {seed}: nothing was noticed"
        refused += bool(error)
    return refused, longest


def test_an_untouched_artifact_is_loaded(artifact: Path) -> None:
    files = {path.name: path.read_bytes() for path in artifact.iterdir()}
    found, error = attempt(artifact.with_name("again"), files)
    assert (found, error) == (RobustEncoder.from_pretrained(artifact).content_sha256, "")
    seal(files)
    assert attempt(artifact.with_name("again"), files) == (found, ""), "what the mutations seal is sealed well"


def test_mutated_artifacts_are_refused_in_words(artifact: Path) -> None:
    refused, longest = study(artifact, 260)
    assert refused > 200
    assert longest < 1.0


@pytest.mark.slow
def test_ten_thousand_mutated_artifacts_are_refused(artifact: Path) -> None:
    study(artifact, 130)  # imports and caches
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refused, longest = study(artifact, 10_000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = time.perf_counter() - started
    sys.stderr.write(f"{refused} of 10000 refused in {seconds:.0f} s, longest {longest:.3f} s, +{grown:.0f} MiB\n")
    assert refused > 8_000
    assert (longest < 1.0, grown < 100.0) == (True, True)
