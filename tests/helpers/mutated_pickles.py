"""Mutated pickles of a text encoder, and a process that converts them and measures the memory that each one takes.

``python mutated_pickles.py FOLDER FIRST COUNT`` prints one line of JSON for each seed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

CONFIG = {
    "vocab_size": 2000, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "model_type": "clip_text_model",
}  # fmt: skip
SECONDS = 60
# Outcomes of a mutation that was not refused. A pickle has no hash, so other numbers in it are read as they stand.
DONE = ("converted", "other values")
BOMB = 2**31
Members = list[tuple[str, bytes]]
Mutation = Callable[[bytes, bytes, random.Random], bytes]


def state() -> dict[str, Any]:
    """Return the tensors of a text encoder of 4.5 MB; equal in every process."""
    import torch

    from robust_encoders.clip.text_model import _shapes

    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in _shapes(CONFIG, projected=False).items()}


def saved(tensors: Any, *, new: bool) -> bytes:
    import torch

    data = BytesIO()
    torch.save(tensors, data, _use_new_zipfile_serialization=new)
    return data.getvalue()


def unzipped(data: bytes) -> Members:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def zipped(members: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    data = BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return zipped([(n, change(c) if n.endswith("data.pkl") else c) for n, c in unzipped(data)])


def flipped(data: bytes, rng: random.Random, first: int = 0, last: int | None = None) -> bytes:
    changed, last = bytearray(data), len(data) if last is None else last
    for _ in range(rng.choice((1, 1, 1, 8, 64))):
        changed[rng.randrange(first, last)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip(new: bytes, old: bytes, rng: random.Random) -> bytes:
    return flipped(rng.choice((new, old)), rng)


def cut(new: bytes, old: bytes, rng: random.Random) -> bytes:
    data = rng.choice((new, old))
    return data[: rng.randrange(len(data))]


def append(new: bytes, old: bytes, rng: random.Random) -> bytes:
    return rng.choice((new, old)) + rng.randbytes(rng.choice((1, 22, 4096)))


def opcodes(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Other bytes at random places of the pickle; hashes and sizes of the archive are right again."""
    return with_pickle(new, lambda data: flipped(data, rng))


def inserted(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Opcodes that build containers, copy them or call for memory, at a random place of the pickle."""
    pieces = (
        *(b"]", b"}", b"(", b")", b"0", b"2", b"\x85", b"\x86", b"R", b"b", b"Q", b"h\x00", b"N", b"\x8f", b"t", b"s"),
        *(b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\xff", b"\x96" + b"\xff" * 8, b"\x8a\xff"),
    )
    piece = b"".join(rng.choices(pieces, k=rng.choice((1, 2, 8)))) * rng.choice((1, 1, 100, 10**5))

    def change(data: bytes) -> bytes:
        at = rng.randrange(2, len(data))
        return data[:at] + piece + data[at:]

    return with_pickle(new, change)


def numbers(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Shapes, strides, offsets and storage sizes in the pickle become others, up to 2**62."""
    huge = b"\x8a\x08" + struct.pack("<q", rng.choice((0, -1, 2**31, 2**40, 2**62)))
    other = rng.choice((huge, huge, b"K\x00", b"M\xff\xff", b"J\xff\xff\xff\x7f"))
    wanted = rng.choice((b"K\x80", b"M\x00\x02", b"M\xd0\x07", b"K\x01", b"K\x00", b"M\x80\x00"))

    def change(data: bytes) -> bytes:
        places = [at for at in range(len(data)) if data.startswith(wanted, at)]
        for at in sorted(rng.sample(places, min(len(places), rng.choice((1, 4)))), reverse=True):
            data = data[:at] + other + data[at + len(wanted) :]
        return data

    return with_pickle(new, change)


def directory(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Bits of the central directory and of what ends the archive."""
    return flipped(new, rng, first=new.rindex(b"PK\x05\x06") - rng.choice((22, 100, 3000)))


def entry(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """One field of one member in the central directory: method, sizes, name length, offset."""
    data = bytearray(new)
    at = rng.choice([at for at in range(len(data)) if data.startswith(b"PK\x01\x02", at)])
    place, code = rng.choice(((8, "<H"), (10, "<H"), (20, "<L"), (24, "<L"), (28, "<H"), (30, "<H"), (42, "<L")))
    most = 2 ** (8 * struct.calcsize(code)) - 1
    struct.pack_into(code, data, at + place, rng.choice((0, 1, 8, 64, most, most - 1, rng.randrange(most))))
    return bytes(data)


def end(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """The record at the end of the archive: counts, size and place of the directory, length of a comment."""
    data = bytearray(new)
    at = data.rindex(b"PK\x05\x06")
    place, code = rng.choice(((8, "<H"), (10, "<H"), (12, "<L"), (16, "<L"), (20, "<H")))
    most = 2 ** (8 * struct.calcsize(code)) - 1
    struct.pack_into(code, data, at + place, rng.choice((0, 1, most, most - 1, rng.randrange(most))))
    return bytes(data)


def zip64(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """A directory of 64 bits with absurd sizes."""
    huge = [rng.choice((0, 1, 2**32, 2**40, 2**63, 2**64 - 1)) for _ in range(4)]
    at = new.rindex(b"PK\x05\x06")
    start = rng.choice((at, 0, 2**63, 2**64 - 1))
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *huge)
    return (
        new[:at] + record + struct.pack("<4sLQL", b"PK\x06\x07", 0, start, 1) + b"PK\x05\x06" + b"\xff" * 16 + b"\0\0"
    )


def compressed(new: bytes, old: bytes, rng: random.Random) -> bytes:
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return zipped(unzipped(new)[: rng.choice((1, 5))], method)


def bomb(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """A storage of 2 GB in two megabytes of the archive; every storage of the pickle claims that size."""
    kept = [(n, c) for n, c in unzipped(new) if not n.endswith("data/0")]
    data = bytearray(zipped([*kept, ("archive/data/0", _squeezed())]))
    at = data.rindex(b"PK\x01\x02")
    here = data.rindex(b"PK\x03\x04")
    for place, code, value in ((10, "<H", 8), (24, "<L", BOMB)):
        struct.pack_into(code, data, at + place, value)
        struct.pack_into(code, data, here + place - 2, value)
    return bytes(data)


@cache
def _squeezed() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    return b"".join(packer.compress(block) for _ in range(BOMB // len(block))) + packer.flush()


def overlapping(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Two members at one place, or a thousand members whose directory entries all point to one."""
    data = bytearray(new)
    entries = [at for at in range(len(data)) if data.startswith(b"PK\x01\x02", at)]
    one, other = rng.sample(entries, 2)
    data[one + 42 : one + 46] = data[other + 42 : other + 46]
    if rng.random() < 0.5:
        data[one + 20 : one + 28] = data[other + 20 : other + 28]
    return bytes(data)


def duplicated(new: bytes, old: bytes, rng: random.Random) -> bytes:
    members = unzipped(new)
    members.insert(rng.randrange(len(members)), (rng.choice(members)[0], rng.randbytes(rng.choice((0, 10, 1000)))))
    return zipped(members)


def many(new: bytes, old: bytes, rng: random.Random) -> bytes:
    return zipped([*unzipped(new), *((f"archive/data/x{i}", b"") for i in range(rng.choice((100, 20_000))))])


def called(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """A pickle that asks a callable for gigabytes."""
    names = ["bytearray", "set", "complex"], ["Tensor", "FloatTensor", "Size", "zeros"], ["Counter", "OrderedDict"]
    module, of_module = rng.choice(list(zip(("builtins", "torch", "collections"), names, strict=True)))
    name = f"{module}\n{rng.choice(of_module)}"
    size = b"\x8a\x06" + rng.choice((2**31, 2**33, 2**40)).to_bytes(6, "little")
    argument = rng.choice((size, size + b"\x85", b"]" + size + b"a"))
    return with_pickle(
        new, lambda _: b"\x80\x02c" + name.encode() + b"\n" + argument + b"\x85" + rng.choice((b"R", b"\x81")) + b"."
    )


def copied(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """One large container that a hundred thousand opcodes copy."""
    size, times = rng.choice((100, 20_000)), rng.choice((1000, 100_000))
    pairs = b"]q\x01(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(size)) + b"e"
    table = b"}q\x01(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(size)) + b"u"
    ordered = b"ccollections\nOrderedDict\nq\x00"
    calls = {
        "ordered": ordered + b"(" + pairs + b"h\x00h\x01\x85R" * times + b"t.",
        "built": ordered + b"(" + table + b"h\x00)Rh\x01b" * times + b"t.",
        "encoded": b"c_codecs\nencode\nq\x00(X\x00\x00\x10\x00"
        + b"a" * 2**20
        + b"q\x01"
        + b"h\x00h\x01\x85R" * times
        + b"t.",
        "sized": b"ctorch\nSize\nq\x00(" + pairs + b"h\x00h\x01\x85R" * times + b"t.",
    }
    return with_pickle(new, lambda _: b"\x80\x02" + calls[rng.choice(sorted(calls))])


def repeated(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Millions of opcodes, each of which builds an object."""
    one = rng.choice((b"]", b"}", b"(", b"]q\x00", b"h\x00", b"X\x01\x00\x00\x00a", b"K\x01\x85"))
    return with_pickle(new, lambda _: b"\x80\x02]q\x00" + one * rng.choice((10**4, 10**6, 5 * 10**6)) + b".")


def views(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Tensors that share a storage, or that a stride of 0 makes of one number."""
    import torch

    tensors: dict[str, Any] = state()
    kind = rng.randrange(3)
    if kind == 0:
        tensors |= {name: torch.zeros(1).expand(value.shape) for name, value in tensors.items()}
    elif kind == 1:
        tensors |= {
            f"x{i}": tensors["text_model.embeddings.token_embedding.weight"] for i in range(rng.choice((1, 3000)))
        }
    else:
        tensors["x"] = torch.zeros(1).expand(10 ** rng.randrange(6, 13))
    return saved(tensors, new=rng.random() < 0.5)


def legacy(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """The format without an archive: bits of its pickles, and sizes of its storages."""
    first = old.index(b"storage")
    if rng.random() < 0.5:
        return flipped(old, rng, last=len(old) // 20)
    huge = b"\x8a\x08" + struct.pack("<q", rng.choice((2**31, 2**40, 2**62, -1)))
    at = old.index(b"K\x80", first)
    return old[:at] + huge + old[at + 2 :]


MUTATIONS: tuple[Mutation, ...] = (
    flip, cut, append, opcodes, opcodes, inserted, inserted, numbers, numbers, directory, entry, entry, end, zip64,
    compressed, bomb, overlapping, duplicated, many, called, copied, repeated, views, legacy, legacy,
)  # fmt: skip


def mutated(new: bytes, old: bytes, seed: int) -> tuple[str, bytes]:
    mutate = MUTATIONS[seed % len(MUTATIONS)]
    return mutate.__name__, mutate(new, old, random.Random(seed))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def attempt(path: Path, out: Path, expected: str) -> dict[str, Any]:
    """Convert a file; return what came of it, and the memory and the time that it took.

    ``expected`` is the hash of the tensors of the file without a mutation.
    """
    from robust_encoders import IntegrityError
    from robust_encoders.conversion.convert import convert

    before, started = resident(), time.process_time()
    try:
        manifest = convert(path, out, config=path.with_name("config.json"))
        outcome = "converted" if manifest.files["model.safetensors"].content_sha256 == expected else "other values"
    except IntegrityError as error:
        outcome = "refused" if len(str(error)) < 10**5 else "an endless message"
    except BaseException as error:  # noqa: BLE001  # whatever it is, the study reports it
        outcome = f"{type(error).__name__}: {error}"[:300]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"outcome": outcome, "grown": max(peak - before, 0), "seconds": time.process_time() - started}


def in_a_child(path: Path, out: Path, expected: str) -> dict[str, Any]:
    """Call :func:`attempt` in a copy of this process, whose peak begins at what it holds now."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        with os.fdopen(writer, "w") as pipe:
            json.dump(attempt(path, out, expected), pipe)
            pipe.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        return {"outcome": f"the process ended with status {status}", "grown": 0, "seconds": 0.0}
    found: dict[str, Any] = json.loads(text)
    return found


def main(folder: Path, first: int, count: int) -> None:
    from robust_encoders.artifact.fingerprint import content_sha256

    new, old = saved(state(), new=True), saved(state(), new=False)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    path, out = folder / "mutated.pt", folder / "out"
    expected = content_sha256(state())
    path.write_bytes(new)
    assert attempt(path, out, expected)["outcome"] == "converted"  # and imports and caches
    for seed in range(first, first + count):
        shutil.rmtree(out, ignore_errors=True)
        name, data = mutated(new, old, seed)
        path.write_bytes(data)
        found = in_a_child(path, out, expected)
        left = out.exists() and found["outcome"] not in DONE
        print(json.dumps({"seed": seed, "mutation": name, "size": len(data), "left": left, **found}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
