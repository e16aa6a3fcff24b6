"""Archives of judged pictures: exact to the byte, written as they come, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robust_encoders.errors import IntegrityError
from robust_encoders.training.diffusion.sampling import packed, unpacked
from robust_encoders.training.evaluation.judged_pictures import (
    PictureArchive,
    PictureReader,
    copy_pictures,
    missing_pictures,
    read_pictures,
)
from robust_encoders.training.evaluation.judging import PictureJudge
from robust_encoders.training.types import Candidate, Case, JudgedPicture


class Mean:
    """Finds the concept in bright pictures, and keeps what it was asked about."""

    name, version, threshold = "mean", "1", 0.5

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(images)
        return images.mean((1, 2, 3))


def written(folder: Path, n: int = 5) -> tuple[list[JudgedPicture], Tensor]:
    """Judge random pictures between the levels of a picture file; return the records and what the detector saw."""
    generator, detector = torch.Generator().manual_seed(0), Mean()
    pictures = torch.rand(n, 3, 6, 4, generator=generator) * 1.2 - 0.1
    cases = [Case(i, f"prompt {i}", i) for i in range(n)]
    with PictureArchive(folder / "attack-a-0.zip") as archive:
        judge = PictureJudge(detector, archive, lambda text: [len(text)])
        found = judge.judge(cases, [Candidate("text", case.prompt, 1) for case in cases], [0] * n, pictures)
    (seen,) = detector.asked
    assert torch.equal(seen, unpacked(packed(pictures)))
    return found, seen


def test_what_is_read_back_is_what_was_judged(tmp_path: Path) -> None:
    records, seen = written(tmp_path)
    assert torch.equal(read_pictures(tmp_path, records), seen)
    assert torch.equal(read_pictures(tmp_path, records[::-2]), seen[[4, 2, 0]])
    assert [one.margins for one in records] == [{"mean": value} for value in (seen.mean((1, 2, 3)) - 0.5).tolist()]
    assert [one.picture for one in records] == [f"attack-a-0/{i}-0.png" for i in range(5)]
    assert [one.ids for one in records] == [(8,)] * 5


def test_a_picture_lies_in_the_file_before_the_next_one_is_drawn(tmp_path: Path) -> None:
    sizes: list[int] = []
    with PictureArchive(tmp_path / "a.zip") as archive:
        for i in range(3):
            archive.add(str(i), torch.full((3, 64, 64), i, dtype=torch.uint8))
            sizes += [sum(path.stat().st_size for path in tmp_path.iterdir())]
            assert not (tmp_path / "a.zip").exists()
    assert sizes == sorted({*sizes})
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_after_an_error_the_earlier_archive_stays_and_nothing_else(tmp_path: Path) -> None:
    records, seen = written(tmp_path)
    archive = PictureArchive(tmp_path / "attack-a-0.zip")
    archive.add("other", torch.zeros(3, 2, 2, dtype=torch.uint8))
    assert len(list(tmp_path.iterdir())) == 2
    archive.__exit__(RuntimeError, RuntimeError("stop"), None)
    assert torch.equal(read_pictures(tmp_path, records), seen)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_picture_there_is_no_archive(tmp_path: Path) -> None:
    written(tmp_path)
    with PictureArchive(tmp_path / "attack-a-0.zip"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"no zip", b""], ids=["other bytes", "empty"])
def test_a_damaged_archive_counts_as_missing_pictures(tmp_path: Path, damage: bytes) -> None:
    records, _ = written(tmp_path)
    (tmp_path / "attack-a-0.zip").write_bytes(damage)
    assert sorted(missing_pictures(tmp_path, records)) == sorted(one.picture for one in records)
    with pytest.raises(IntegrityError, match=r"found 5 missing \(attack-a-0/0-0.png, .*, \.\.\.\)"):
        read_pictures(tmp_path, records)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    records, seen = written(tmp_path)
    path = tmp_path / "attack-a-0.zip"
    data = bytearray(path.read_bytes())
    place = data.index(b"IDAT") + 8  # in the first picture
    data[place] ^= 1
    path.write_bytes(data)
    reader = PictureReader(tmp_path)
    assert torch.equal(reader.read(records), seen[1:])
    assert reader.missing + reader.changed == ["attack-a-0/0-0.png"]
    with pytest.raises(IntegrityError, match="judge the folder that the evaluation wrote, or evaluate again"):
        reader.require()


def test_a_copy_holds_what_was_asked_for_under_the_same_names(tmp_path: Path) -> None:
    records, seen = written(tmp_path)
    some: Sequence[JudgedPicture] = [records[3], records[1], records[3]]
    copy_pictures(tmp_path, some, tmp_path / "copy")
    assert torch.equal(read_pictures(tmp_path / "copy", some), seen[[3, 1, 3]])
    assert {*missing_pictures(tmp_path / "copy", records)} == {records[i].picture for i in (0, 2, 4)}
    with pytest.raises(IntegrityError, match=re.escape("found 3 missing")):
        copy_pictures(tmp_path / "copy", records, tmp_path / "again")
