"""The pictures that detectors were asked about, kept as PNG files in one zip archive for each part of an evaluation.

An archive lies beside its part and has the part's name. A picture is named after its case and the place of its
candidate; ``q`` marks a picture that the attack itself asked about. Its reference in a verdict is
``ARCHIVE/FILE.png``.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robust_encoders.errors import IntegrityError
from robust_encoders.utils.atomic_folders import temporary_of
from robust_encoders.utils.home import HOUR, remove_aged

from ..diffusion.sampling import unpacked
from ..types import JudgedPicture

_DIGITS = 16
_SHOWN = 3
_REMEDY = "judge the folder that the evaluation wrote, or evaluate again into an empty folder"


def pixels_sha256(pixels: Tensor) -> str:
    """Return the first 16 digits of the hash of a picture's bytes (3, H, W) and shape."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


class PictureArchive:
    """One archive, written picture by picture; it takes its place when the ``with`` block ends without an error.

    So the pictures of a part need not fit into memory, and a killed run leaves no part of an archive. Without a
    picture there is no archive. The same pictures give the same file.

    Args:
        path: Path of the archive, ``ARCHIVE.zip``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._aside = path.with_name(f".{path.name}-{token_hex(4)}")
        self._stack = ExitStack()
        self._zip: ZipFile | None = None

    def __enter__(self) -> PictureArchive:
        return self

    def add(self, name: str, pixels: Tensor) -> str:
        """Write a picture, given as bytes (3, H, W), and return its reference.

        Args:
            name: Name of the file without its ending, unique in the archive.
            pixels: Picture as bytes.
        """
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, format="PNG")
        self.add_file(f"{name}.png", file.getvalue())
        return f"{self.path.stem}/{name}.png"

    def add_file(self, name: str, png: bytes) -> None:
        """Write the bytes of a PNG file under its name in the archive."""
        if self._zip is None:
            self._zip = self._opened()
        self._zip.writestr(ZipInfo(name), png)  # a fixed date, so that equal pictures give an equal file

    def _opened(self) -> ZipFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_aged(self.path.parent, temporary_of(self.path.name), HOUR)
        self._file = self._stack.enter_context(self._aside.open("xb"))
        return self._stack.enter_context(ZipFile(self._file, "w", ZIP_STORED))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._zip is not None:
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())
        self._stack.close()
        if kind is not None or self._zip is None:
            self._aside.unlink(missing_ok=True)
        if kind is None:
            self._move()

    def _move(self) -> None:
        if self._zip is None:
            self.path.unlink(missing_ok=True)  # of an earlier run with other inputs
        else:
            os.replace(self._aside, self.path)


def missing_pictures(chunks: Path, pictures: Sequence[JudgedPicture]) -> list[str]:
    """Return the references of pictures that are not in their archives.

    Args:
        chunks: Folder of the archives.
        pictures: Pictures to look for.
    """
    return [
        f"{archive}/{name}"
        for archive, names in _by_archive(pictures).items()
        for name in names.keys() - _names(chunks / f"{archive}.zip")
    ]


def _names(path: Path) -> set[str]:
    try:
        with ZipFile(path) as archive:
            return {*archive.namelist()}
    except (OSError, BadZipFile):
        return set()


def read_pictures(chunks: Path, pictures: Sequence[JudgedPicture]) -> Tensor:
    """Return pictures (N, 3, H, W) in [0, 1] exactly as they were judged.

    Args:
        chunks: Folder of the archives.
        pictures: Pictures to read, at least one, all of one size.

    Raises:
        IntegrityError: If a picture is missing, or is another one than was judged; the message counts all of them.
    """
    reader = PictureReader(chunks)
    found = reader.read(pictures)
    reader.require()
    return found


@dataclass
class PictureReader:
    """Reader of many groups of pictures, which collects what is missing or changed.

    Args:
        chunks: Folder of the archives.
        missing: References of pictures that are missing; filled by use.
        changed: Pictures that are others than were judged; filled by use.
    """

    chunks: Path
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def read(self, pictures: Sequence[JudgedPicture]) -> Tensor:
        """Return the sound ones of some pictures of one size as a tensor (N, 3, H, W) in [0, 1]."""
        found: list[Tensor] = []
        with ExitStack() as stack:
            names = {_parts(one)[0] for one in pictures}
            archives = {name: _opened(stack, self.chunks / f"{name}.zip") for name in names}
            for one in pictures:
                archive, name = _parts(one)
                pixels = _pixels(archives[archive], name)
                if pixels is None:
                    self.missing.append(one.picture)
                elif (sha := pixels_sha256(pixels)) != one.sha256:
                    self.changed.append(f"{one.picture} with hash {sha} instead of {one.sha256}")
                else:
                    found.append(pixels)
        return unpacked(torch.stack(found)) if found else torch.zeros(0, 3, 1, 1)

    def require(self) -> None:
        """Check that no picture was missing or changed.

        Raises:
            IntegrityError: If there are some.
        """
        require_pictures(self.chunks, self.missing, self.changed)


def _parts(picture: JudgedPicture) -> tuple[str, str]:
    """Return the name of a picture's archive and of its file."""
    archive, _, name = picture.picture.rpartition("/")
    return archive, name


def _opened(stack: ExitStack, path: Path) -> ZipFile | None:
    try:
        return stack.enter_context(ZipFile(path))
    except (OSError, BadZipFile):
        return None


def _pixels(archive: ZipFile | None, name: str) -> Tensor | None:
    """Return a picture as bytes (3, H, W); None if it is missing or no picture."""
    if archive is None:
        return None
    try:
        with Image.open(io.BytesIO(archive.read(name))) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except (OSError, KeyError, BadZipFile, zlib.error):
        return None


def require_pictures(chunks: Path, missing: Sequence[str], changed: Sequence[str] = ()) -> None:
    """Check that no picture is missing or changed.

    Args:
        chunks: Folder of the archives.
        missing: References of missing pictures.
        changed: Descriptions of changed pictures.

    Raises:
        IntegrityError: If there are some.
    """
    said = [
        f"{len(rows)} {word} ({', '.join([*rows[:_SHOWN], *(['...'] if len(rows) > _SHOWN else [])])})"
        for rows, word in ((missing, "missing"), (changed, "changed"))
        if rows
    ]
    if said:
        raise IntegrityError(f"expected the judged pictures in {chunks}, found {' and '.join(said)}; {_REMEDY}")


def copy_pictures(chunks: Path, pictures: Sequence[JudgedPicture], out: Path) -> None:
    """Copy pictures into archives of the same names, so that their references stay as they are.

    Args:
        chunks: Folder of the archives that hold the pictures.
        pictures: Pictures to copy.
        out: Folder of the archives to write.

    Raises:
        IntegrityError: If pictures are missing.
    """
    require_pictures(chunks, missing_pictures(chunks, pictures))
    for name, files in _by_archive(pictures).items():
        with ZipFile(chunks / f"{name}.zip") as source, PictureArchive(out / f"{name}.zip") as archive:
            for file in files:
                archive.add_file(file, source.read(file))


def _by_archive(pictures: Sequence[JudgedPicture]) -> dict[str, dict[str, None]]:
    """Return name of an archive to the names of its files, each once and in order."""
    found: dict[str, dict[str, None]] = {}
    for one in pictures:
        archive, name = _parts(one)
        found.setdefault(archive, {})[name] = None
    return found
