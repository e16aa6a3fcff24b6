"""A pickle takes no more memory than its file; one that would is refused before it takes any."""

from __future__ import annotations

import struct
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_encoders import IntegrityError
from robust_encoders.conversion.convert import convert
from robust_encoders.conversion.pickle_calls import RefusedError, View
from robust_encoders.conversion.pickle_listing import listing
from robust_encoders.conversion.pickle_machine import MOST_STEPS
from robust_encoders.conversion.pickles import read_pickle

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
HUGE = b"\x8a\x05" + (10**10).to_bytes(5, "little")


def saved(content: Any, *, new: bool = True) -> bytes:
    data = BytesIO()
    torch.save(content, data, _use_new_zipfile_serialization=new)
    return data.getvalue()


def archive(
    pickle: bytes | None = None, *, method: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None
) -> bytes:
    """Return an archive of torch.save, with another pickle, another compression or more members."""
    data = BytesIO()
    with zipfile.ZipFile(BytesIO(saved(TENSORS))) as source, zipfile.ZipFile(data, "w", method) as target:
        for info in source.infolist():
            own = pickle is not None and info.filename.endswith("data.pkl")
            target.writestr(info.filename, pickle if own and pickle is not None else source.read(info))
        for name, content in (more or {}).items():
            target.writestr(name, content)
    return data.getvalue()


def refused(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(IntegrityError, match=words) as caught:
        convert(path, tmp_path / "out")
    assert time.process_time() - started < 5
    assert "nothing in it was run" in str(caught.value) or "names and plain tensors" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("new", [True, False])
def test_plain_containers_and_tensors_are_read(tmp_path: Path, new: bool) -> None:
    shared = torch.arange(8.0)
    content: dict[str, Any] = {
        "model": TENSORS, "views": [shared[:4], shared[4:]], "step": 3, "rate": 1e-4, "name": "x", "none": None,
        "flags": (True, False), "tags": {"a", "b"}, "size": torch.Size([2]), "device": torch.device("cpu"),
        "dtype": torch.float16, "parameter": torch.nn.Parameter(torch.zeros(2)),
    }  # fmt: skip
    if new:  # torch itself cannot read float8 in its old format
        content["f8"] = torch.zeros(3, dtype=torch.float8_e5m2)
    (tmp_path / "a.pt").write_bytes(saved(content, new=new))
    found = read_pickle(tmp_path / "a.pt")
    assert found.keys() == content.keys()
    assert torch.equal(found["model"]["a"], TENSORS["a"])
    assert torch.equal(found["views"][1], shared[4:])
    assert (found["tags"], found["dtype"], found["size"]) == (content["tags"], torch.float16, torch.Size([2]))


def test_the_listing_knows_sizes_and_shapes_without_any_tensor() -> None:
    with zipfile.ZipFile(BytesIO(saved(TENSORS))) as source:
        found = listing(BytesIO(source.read("archive/data.pkl")))
    view = found.root["a"]
    assert isinstance(view, View)
    assert (view.shape, view.size, view.storage.size) == ((2, 3), 24, 24)
    assert sorted(storage.size for storage in found.storages.values()) == [8, 24]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(tmp_path: Path, method: int) -> None:
    refused(tmp_path, archive(method=method, more={"archive/data/x": bytes(10**6)}), "compressed member")


def test_an_archive_that_another_tool_stored_uncompressed_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(archive())
    assert torch.equal(read_pickle(tmp_path / "a.pt")["a"], TENSORS["a"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_readers_could_disagree_on_is_refused(tmp_path: Path) -> None:
    plain = archive()
    refused(tmp_path, archive(more={"archive/data.pkl": b"\x80\x02}."}), "names a member twice")
    refused(tmp_path, archive(more={"elsewhere/data/0": b""}), "torch.save did not write")
    refused(tmp_path, plain + b"\0" * 30, "behind its directory")
    refused(tmp_path, b"PK\x03\x04" + bytes(40) + plain, "not where it says")
    refused(tmp_path, plain[: len(plain) // 2], "cut off .*download the file again")
    refused(tmp_path, archive(more={f"archive/{i}": b"" for i in range(17_000)}), "17008 members, where 16384")
    refused(tmp_path, archive(more={"archive/constants.pkl": b""}), "TorchScript")


@pytest.mark.parametrize(
    ("place", "code", "value", "words"),
    [
        (10, "<H", 8, "compressed member"),  # a method that the local header does not name
        (8, "<H", 1, "encrypted member"),
        (20, "<L", 2**31, "compressed member"),  # two sizes that differ
        (42, "<L", 0, "overlaps|two headers"),
        (42, "<L", 10**6, "damaged|two headers"),
    ],
)
def test_a_wrong_central_directory_is_refused(tmp_path: Path, place: int, code: str, value: int, words: str) -> None:
    data = bytearray(archive())
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into(code, data, at + place, value)
    refused(tmp_path, bytes(data), words)


def test_two_members_at_one_place_are_refused(tmp_path: Path) -> None:
    data = bytearray(archive())
    first, last = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    data[last + 42 : last + 46] = data[first + 42 : first + 46]
    refused(tmp_path, bytes(data), "overlaps another member|two headers")


@pytest.mark.parametrize("sizes", [(2**62, 2**62, 2**62, 2**62), (0, 0, 0, 0), (2**64 - 1,) * 4])
def test_absurd_sizes_of_64_bits_are_refused(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    data = archive()
    at = data.rindex(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *sizes)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    refused(
        tmp_path, data[:at] + record + locator + b"PK\x05\x06" + b"\xff" * 16 + b"\0\0", "not where it says|damaged"
    )


@pytest.mark.parametrize(
    ("pickle", "words"),
    [
        (b"cbuiltins\nbytearray\n" + HUGE + b"\x85R.", "asks for builtins.bytearray"),
        (b"c__builtin__\nbytearray\n" + HUGE + b"\x85R.", "asks for builtins.bytearray"),
        (b"ctorch\nTensor\n" + HUGE + b"\x85R.", r"asks for torch\.Tensor"),
        (b"ctorch\nFloatStorage\n" + HUGE + b"\x85R.", "calls what is no function"),
        (b"ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"]" * (MOST_STEPS + 1) + b".", "steps, which no text encoder needs"),
        (b"(" * (MOST_STEPS + 1) + b".", "steps"),
        (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff.", "damaged|opcode LONG4"),
        (b"X\xff\xff\xff\xffabc.", "damaged"),
        (b"]r\xff\xff\xff\x7fh\x01.", "damaged"),
        (b"}(X\x01\0\0\0aNX\x01\0\0\0aNu.", "names 'a' twice"),
        (b"}(" + b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(1, 90)) + b"u.",
         "a int as the key"),
        (b"}(G?\xf0\0\0\0\0\0\0Nu.", "a float as the key"),
        (b"]}N\x86b.", "sets attributes|damaged"),
        (b"N}X\x01\0\0\0aNs", "damaged"),
        (b"}" + b"r\x00\x00\x00\x7f" + b".", "no text encoder|expected a CLIP"),
    ],
)  # fmt: skip
def test_a_pickle_that_asks_for_memory_or_code_is_refused(tmp_path: Path, pickle: bytes, words: str) -> None:
    if words.startswith("no text"):
        (tmp_path / "a.pt").write_bytes(archive(b"\x80\x02" + pickle))
        assert read_pickle(tmp_path / "a.pt") == {}, "a place in the memo is only a number"
        return
    refused(tmp_path, archive(b"\x80\x02" + pickle), words)


@pytest.mark.parametrize("kind", ["ordered", "built", "sized"])
def test_a_large_container_is_not_copied_a_thousand_times(tmp_path: Path, kind: str) -> None:
    pairs = b"]q\x01(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(10_000)) + b"e"
    table = b"}q\x01(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(10_000)) + b"u"
    pickle = {
        "ordered": b"ccollections\nOrderedDict\nq\x00(" + pairs + b"h\x00h\x01\x85R" * 10_000 + b"t.",
        "built": b"ccollections\nOrderedDict\nq\x00(" + table + b"h\x00)Rh\x01b" * 10_000 + b"t.",
        "sized": b"ctorch\nSize\nq\x00(" + pairs + b"h\x00h\x01\x85R" * 10_000 + b"t.",
    }[kind]
    refused(tmp_path, archive(b"\x80\x02" + pickle), "steps, which no text encoder needs")


def test_containers_that_hold_themselves_end(tmp_path: Path) -> None:
    tower = b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e"
    (tmp_path / "a.pt").write_bytes(archive(b"\x80\x02" + tower + b"."))
    with pytest.raises(IntegrityError, match="found a list"):
        convert(tmp_path / "a.pt", tmp_path / "out")


@pytest.mark.parametrize("new", [True, False])
def test_a_storage_that_claims_more_than_the_file_has_is_refused(tmp_path: Path, new: bool) -> None:
    data = saved({"a": torch.zeros(77)}, new=new)
    huge = b"J" + struct.pack("<i", 2**31 - 1)
    if new:
        with zipfile.ZipFile(BytesIO(data)) as source:
            pickle = source.read("archive/data.pkl").replace(b"K\x4d", huge)
        refused(tmp_path, archive(pickle), "claims 8589934588 bytes for the storage '0', which has 24 bytes")
    else:
        # The old format names a storage by its address in memory, so the length of the file varies by its digits.
        changed = data.replace(b"K\x4d", huge)
        claimed = len(changed) - 4 * 77 + 4 * (2**31 - 1)
        refused(tmp_path, changed, f"claims {claimed} bytes in a file of {len(changed)}")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(saved(TENSORS))) as source:
        pickle = source.read("archive/data.pkl")
    refused(
        tmp_path, archive(pickle.replace(b"K\x02K\x03\x86", b"M\xff\xffK\x03\x86", 1)), r"shape \(65535, 3\), but 24"
    )
    many = b"(" + b"K\x02" * 17 + b"t"
    refused(tmp_path, archive(pickle.replace(b"K\x02K\x03\x86", many, 1)), "impossible shape")


def test_a_stride_of_zero_makes_no_gigabytes(tmp_path: Path) -> None:
    refused(tmp_path, saved({"a": torch.zeros(1).expand(10**9)}), r"'a': shape \(1000000000,\), but 4 bytes")
    refused(tmp_path, saved({"a": [torch.zeros(1).expand(10**9)]}), r"'a': shape \(1000000000,\)")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_programs_and_embeddings_are_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(IntegrityError, match=r"a program of TorchScript; load it by torch\.jit\.load"):
        convert(tmp_path / "a.pt", tmp_path / "out")
    torch.save({"string_to_param": {"*": torch.zeros(1, 8)}, "name": "x"}, tmp_path / "b.pt")
    with pytest.raises(IntegrityError, match="an embedding of a textual inversion; load it by"):
        convert(tmp_path / "b.pt", tmp_path / "out")


def test_a_plain_pickle_or_another_protocol_is_named(tmp_path: Path) -> None:
    refused(tmp_path, b"\x80\x02}q\0.", "damaged one|torch.save did not write")
    data = BytesIO()
    torch.save(TENSORS, data, pickle_protocol=4)
    refused(tmp_path, data.getvalue(), "opcode FRAME, which torch.save with its default protocol")


def test_a_refusal_is_an_integrity_error() -> None:
    assert issubclass(RefusedError, IntegrityError)
    with pytest.raises(RefusedError, match="damaged"):
        listing(BytesIO(b""))
