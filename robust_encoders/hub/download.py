"""Files from the Hugging Face Hub: only the named ones, and every failure in words."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.errors import DownloadError, ManifestError
from robust_encoders.utils.home import HOUR, remove_aged

logger = logging.getLogger(__name__)
# How newer clients name what they have not received yet: anew for each attempt, so nothing goes on with one.
_UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.incomplete")
ABANDONED = 24 * HOUR
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How files are fetched; the names are those of ``huggingface_hub``.

    Args:
        revision: Branch, tag or commit.
        cache_dir: Folder where downloads are kept.
        token: Token for private and gated repositories.
        local_files_only: Use what is in the cache, never the network.
        force_download: Fetch again what is in the cache.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False


def fetch_file(repo: str, name: str, *, subfolder: str, options: HubOptions) -> Path:
    """Return the local path of one file of a repository, downloading it if need be.

    Args:
        repo: ``org/name``.
        name: Name of the file.
        subfolder: Subfolder of the repository; empty for its root.
        options: Revision, cache and token for the Hub.

    Raises:
        DownloadError: If the Hub does not deliver it.
        ManifestError: If the repository is there, but holds no ``robust_encoder.json``.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        path = hf_hub_download(
            repo,
            name,
            subfolder=subfolder or None,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            local_files_only=options.local_files_only,
            force_download=options.force_download,
            library_name="robust-encoders",
        )
    except (errors.EntryNotFoundError, transport_error(), OSError, ValueError) as error:
        where = f"{repo}/{subfolder}" if subfolder else repo
        raise _in_words(error, name, where, options.revision) from error
    logger.info("using %s of %s from %s", name, repo, path)
    return Path(path)


def transport_error() -> type[Exception]:
    """Return what a connection that breaks off raises, beside OSError, in the installed version of the Hub's client.

    It is the HTTP library's own error, and the library changes with the version: requests', httpx' or httpx2's, the
    base class of ``HfHubHTTPError`` in each of them.
    """
    from huggingface_hub import errors

    return cast(type[Exception], errors.HfHubHTTPError.__bases__[0])


def _in_words(error: Exception, name: str, where: str, revision: str | None) -> DownloadError | ManifestError:
    from huggingface_hub import errors

    if type(error) is ValueError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # force_download hides what went wrong
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return _absent(name, where)
    # From the special to the general: a gated repository is also one that was not found, and all are HTTP errors.
    texts = {
        errors.GatedRepoError: f"{where} is gated: accept its terms on the Hub and pass token=...",
        errors.RepositoryNotFoundError: f"expected a repository at {where}, found none; check the spelling, or pass "
        "token=... if it is private",
        errors.RevisionNotFoundError: f"expected revision {revision!r} of {where}, found none; use a branch, a tag "
        "or a full commit id",
        errors.LocalEntryNotFoundError: f"{name} of {where} is not in the cache and cannot be fetched: offline, or "
        "local_files_only=True; connect once, or pass a local folder instead",
        errors.HFValidationError: f"expected a repository as org/name, found {where!r}",
        errors.OfflineModeIsEnabled: f"cannot fetch {name} of {where} again while offline; unset HF_HUB_OFFLINE, or "
        "leave out force_download",
        errors.HfHubHTTPError: f"the Hub refused {name} of {where}; try again later",
        ValueError: f"the Hub's client refused to fetch {name} of {where}; if force_download and local_files_only are "
        "both set, leave one out",
        Exception: f"the download of {name} of {where} broke off; check connection and disk space, then try again: "
        "what was fetched is kept",
    }
    text = next(text for kind, text in texts.items() if isinstance(error, kind))
    return DownloadError(f"{text} ({error})")


def _absent(name: str, where: str) -> DownloadError | ManifestError:
    if name == MANIFEST_NAME:
        return ManifestError(
            f"expected {MANIFEST_NAME} in {where} on the Hub, found none: this is no robust_encoders artifact; "
            "load plain weights with transformers.CLIPTextModel instead"
        )
    return DownloadError(
        f"expected {name} in {where}, found none: the artifact there is incomplete; tell its publisher"
    )


def commit_of(folder: Path) -> str:
    """Return the commit that a folder of the Hub's cache holds, empty for any other folder.

    Args:
        folder: Folder of a snapshot, or inside one.
    """
    found = _COMMIT.search(folder.as_posix())
    return found[1] if found else ""


def fetch_artifact(
    repo: str, first: str, others: Callable[[Path], tuple[str, ...]], *, subfolder: str, options: HubOptions
) -> Path:
    """Return the local folder that holds the named files of one commit of a repository.

    What downloads of the repository that were killed more than a day ago left in the cache is removed.

    Args:
        repo: ``org/name``.
        first: Name of the file that decides which commit a branch stands for.
        others: Gives the names of the others, from the folder with the first one.
        subfolder: Subfolder of the repository; empty for its root.
        options: Revision, cache and token for the Hub.

    Raises:
        DownloadError: If a file is not delivered, or not all of them come from one commit.
        ManifestError: If there is no ``robust_encoder.json``.
    """
    folder = fetch_file(repo, first, subfolder=subfolder, options=options).parent
    # A branch may move between two files; the commit of the first one does not.
    options = replace(options, revision=commit_of(folder) or options.revision)
    names = others(folder)
    folders = {folder, *(fetch_file(repo, name, subfolder=subfolder, options=options).parent for name in names)}
    if len(folders) != 1:
        raise DownloadError(
            f"expected all files of {repo} from one commit, found several: it moved just now; try again"
        )
    _remove_unfinished(folder)
    return folder


def _remove_unfinished(folder: Path) -> None:
    for parent in folder.parents:
        if parent.name == "snapshots":
            remove_aged(parent.with_name("blobs"), _UNFINISHED, ABANDONED)
