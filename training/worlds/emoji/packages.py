"""The packages that the emoji world is built from, their hashes, and reading of their files.

They are needed to build the base, not to use it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_encoders.errors import IntegrityError


@dataclass(frozen=True)
class Package:
    """A file of a package registry.

    Args:
        name: Name in the registry.
        version: Exact version.
        integrity: Hash of the file, as registries write it: ``sha512-`` or ``sha256-``, then base64.
        licence: SPDX name of the licence, as the package states it.
        file: Name of the file.
    """

    name: str
    version: str
    integrity: str
    licence: str
    file: str

    @property
    def spec(self) -> str:
        """Name and version, as npm writes them."""
        return f"{self.name}@{self.version}"


def npm(name: str, version: str, integrity: str, licence: str) -> Package:
    """Return a package of npm; ``npm pack`` chooses the name of its file."""
    return Package(name, version, integrity, licence, f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz")


@dataclass(frozen=True)
class Sources:
    """The packages that a world of emoji is made from.

    Args:
        icon_sets: Icon sets by drawing style, in the order of the labels.
        emojilib: Package with keywords by emoji.
        emojibase: Package with labels, tags and groups.
        clip: Wheel with the vocabulary of CLIP.
    """

    icon_sets: Mapping[str, Package]
    emojilib: Package
    emojibase: Package
    clip: Package

    @property
    def packages(self) -> tuple[Package, ...]:
        """All packages."""
        return (*self.icon_sets.values(), self.emojilib, self.emojibase, self.clip)


# `npm view NAME@VERSION dist.integrity` prints the hashes of npm.
SOURCES = Sources(
    icon_sets={
        "noto": npm(
            "@iconify-json/noto",
            "1.2.9",
            "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
            "Apache-2.0",
        ),
        "twemoji": npm(
            "@iconify-json/twemoji",
            "1.2.5",
            "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
            "CC-BY-4.0",
        ),
        "fluent": npm(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
            "MIT",
        ),
        "line art": npm(
            "@iconify-json/fluent-emoji-high-contrast",
            "1.2.6",
            "sha512-esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
            "MIT",
        ),
    },
    emojilib=npm(
        "emojilib",
        "4.0.3",
        "sha512-KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
        "MIT",
    ),
    emojibase=npm(
        "emojibase-data",
        "17.0.0",
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        "MIT",
    ),
    # A wheel of PyPI. It ships the vocabulary of CLIP (https://github.com/openai/CLIP) as a file of its own.
    clip=Package(
        "clip-anytorch",
        "2.6.0",
        "sha256-68Cv7SQ4UbncfharivtmUjfopYOJhul82Z8SOuTOlM4=",
        "MIT",
        "clip_anytorch-2.6.0-py3-none-any.whl",
    ),
)


def integrity_of(data: bytes, algorithm: str = "sha512") -> str:
    """Return the hash of bytes, as registries write it."""
    return f"{algorithm}-{base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def is_whole(folder: Path, package: Package) -> bool:
    """Return true if the file of a package lies in a folder and has its hash."""
    path = folder / package.file
    algorithm = package.integrity.partition("-")[0]
    return path.is_file() and integrity_of(path.read_bytes(), algorithm) == package.integrity


def require_packages(folder: Path, packages: Iterable[Package]) -> None:
    """Check that the files of packages lie in a folder and have their hashes.

    Raises:
        IntegrityError: If some are missing or differ; the message names all of them.
    """
    wrong = [package.file for package in packages if not is_whole(folder, package)]
    if wrong:
        raise IntegrityError(
            f"expected the packages of the emoji world in {folder}, found none with the right hash for "
            f"{', '.join(wrong)}; fetch them by `robust-encoders emoji fetch --out {folder}`"
        )


def read_json(folder: Path, package: Package, member: str) -> Any:
    """Return the content of a JSON file of an npm package."""
    return json.loads(read_member(folder, package, member))


def read_member(folder: Path, package: Package, member: str) -> bytes:
    """Return a file of an npm package or of a wheel.

    Raises:
        KeyError: If the package has no such file.
    """
    path = folder / package.file
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(member)
    with tarfile.open(path) as archive:
        found = archive.extractfile(f"package/{member}")
        if found is None:
            raise KeyError(member)
        return found.read()
