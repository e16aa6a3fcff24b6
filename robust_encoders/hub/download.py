"""Downloads of single files from the Hugging Face Hub, with an error message in plain words for every failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from robust_encoders.artifact.manifest import MANIFEST_NAME
from robust_encoders.errors import DownloadError, ManifestError
from robust_encoders.hub.client import Failure, asked, cause_of_download, is_malformed, transport_error
from robust_encoders.hub.connection import unreachable
from robust_encoders.redaction import get_logger
from robust_encoders.utils.home import HOUR, remove_aged

logger = get_logger(__name__)
# Names of unfinished downloads of newer Hub clients. Each attempt uses a new name, so no attempt resumes an old file.
_UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.incomplete")
ABANDONED = 24 * HOUR
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Options of a download; the names are those of ``huggingface_hub``.

    Args:
        revision: Branch, tag or commit of the repository.
        cache_dir: Folder where downloads are kept.
        token: Token for private and gated repositories.
        local_files_only: Switch that uses the cache only, never the network.
        force_download: Switch that downloads files again even if they are in the cache.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    force_download: bool = False


def fetch_file(repo: str, name: str, *, subfolder: str, options: HubOptions) -> Path:
    """Return the local path of one file of a repository; download the file if it is not in the cache.

    Args:
        repo: Repository as ``org/name``.
        name: Name of the file.
        subfolder: Subfolder of the repository; empty for its root.
        options: Revision, cache and token for the Hub.

    Raises:
        DownloadError: If the Hub does not deliver the file.
        ManifestError: If the repository exists, but holds no ``robust_encoder.json``.
    """
    from huggingface_hub import hf_hub_download

    where = f"{repo}/{subfolder}" if subfolder else repo
    why = "" if _needs_no_network(repo, name, subfolder, options) else offline(options.token)
    if why and options.force_download:
        raise DownloadError(f"cannot fetch {name} of {where} again: the Hub cannot be reached ({why}); connect first")
    path = asked(
        lambda: hf_hub_download(
            repo,
            name,
            subfolder=subfolder or None,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            local_files_only=options.local_files_only or bool(why),
            force_download=options.force_download,
            library_name="robust-encoders",
        ),
        lambda failure: _in_words(failure, name, where, options.revision, why),
        token=options.token,
        kind=DownloadError,
        cause=cause_of_download,
        quoted=not why,
    )
    if why:
        logger.warning("the Hub cannot be reached (%s): %s of %s is the one in the cache", why, name, where)
    logger.info("using %s of %s from %s", name, repo, path)
    return Path(path)


def offline(token: str | bool | None) -> str:
    """Return why the Hub cannot be reached; empty if it can, or if a malformed token forbids to send anything."""
    return "" if is_malformed(token) else unreachable()


def _needs_no_network(repo: str, name: str, subfolder: str, options: HubOptions) -> bool:
    """Return true if the client will not ask the Hub: for a file of a commit that is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    if options.local_files_only:
        return True
    if options.force_download or not _FULL_COMMIT.fullmatch(options.revision or ""):
        return False
    path = f"{subfolder}/{name}".strip("/")
    try:
        found = try_to_load_from_cache(repo, path, cache_dir=options.cache_dir, revision=options.revision)
    except (OSError, ValueError):  # the client will say what is wrong with the cache or the name
        return True
    return isinstance(found, str)


def _in_words(failure: Failure, name: str, where: str, revision: str | None, why: str) -> DownloadError | ManifestError:
    from huggingface_hub import errors

    absent = isinstance(failure.error, errors.EntryNotFoundError)
    if absent and not isinstance(failure.error, errors.LocalEntryNotFoundError):
        return _absent(name, where)
    # Special error types come before general ones: GatedRepoError derives from RepositoryNotFoundError, and both are
    # HTTP errors.
    texts: dict[type[Exception], str] = {
        errors.LocalTokenNotFoundError: f"expected a token for {where}, because token=True was passed, found none; run "
        "`hf auth login`, set HF_TOKEN, or pass token=...",
        errors.GatedRepoError: f"{where} is gated: accept its terms on the Hub and pass token=...",
        errors.RepositoryNotFoundError: f"expected a repository at {where}, found none; check the spelling, or pass "
        "token=... if it is private",
        errors.RevisionNotFoundError: f"expected revision {revision!r} of {where}, found none; use a branch, a tag "
        "or a full commit id",
        errors.LocalEntryNotFoundError: f"{name} of {where} is not in the cache and cannot be fetched: "
        f"{f'the Hub cannot be reached ({why})' if why else 'offline, or local_files_only=True'}; connect once, or "
        "pass a local folder instead",
        errors.HFValidationError: f"expected a repository as org/name, found {where!r}",
        errors.OfflineModeIsEnabled: f"cannot fetch {name} of {where} again while offline; unset HF_HUB_OFFLINE, or "
        "leave out force_download",
        errors.HfHubHTTPError: _refusal(failure, name, where),
        # Clients of version 0.x pass an answer on as it is, after their last try.
        transport_error(): _refusal(failure, name, where) if failure.status else _broken(name, where),
        OSError: _broken(name, where),
        ValueError: f"the Hub's client refused to fetch {name} of {where}; if force_download and local_files_only are "
        "both set, leave one out",
        Exception: f"the Hub's client failed to fetch {name} of {where}; see its error, and upgrade huggingface_hub if "
        "it is old",
    }
    return DownloadError(failure.chosen(texts))


def _broken(name: str, where: str) -> str:
    return (
        f"the download of {name} of {where} broke off; check connection and disk space, then try again: files that are "
        "already complete are kept"
    )


def _refusal(failure: Failure, name: str, where: str) -> str:
    if failure.status == 401:
        found = "one that is wrong, expired or revoked" if failure.token else "none"
        return (
            f"expected a token that the Hub accepts for {where}, found {found}; pass token=... or run `hf auth login`"
        )
    if failure.status == 403:
        return f"the Hub forbids {name} of {where}; try again, or pass token=... of somebody who may read it"
    return f"the Hub refused {name} of {where}; try again later"


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
    """Return the commit that a folder of the Hub's cache holds; empty for any other folder.

    Args:
        folder: Folder of a snapshot, or a folder inside one.
    """
    found = _COMMIT.search(folder.as_posix())
    return found[1] if found else ""


def fetch_artifact(
    repo: str, first: str, others: Callable[[Path], tuple[str, ...]], *, subfolder: str, options: HubOptions
) -> Path:
    """Return the local folder with the named files of a repository, all from one commit; download missing files.

    Unfinished files of the repository's downloads that are older than a day are removed from the cache.

    Args:
        repo: Repository as ``org/name``.
        first: Name of the file that is fetched first and determines the commit of a branch.
        others: Function that takes the folder with the first file and returns the names of the other files.
        subfolder: Subfolder of the repository; empty for its root.
        options: Revision, cache and token for the Hub.

    Raises:
        DownloadError: If a file is not delivered, or not all of them come from one commit.
        ManifestError: If there is no ``robust_encoder.json``.
    """
    folder = fetch_file(repo, first, subfolder=subfolder, options=options).parent
    # A branch may move between two downloads, so the other files are fetched from the commit of the first one.
    options = replace(options, revision=commit_of(folder) or options.revision)
    names = others(folder)
    folders = {folder, *(fetch_file(repo, name, subfolder=subfolder, options=options).parent for name in names)}
    if len(folders) != 1:
        raise DownloadError(
            f"expected all files of {repo} from one commit, found several commits: the branch was updated during the "
            "download; try again"
        )
    _remove_unfinished(folder)
    return folder


def _remove_unfinished(folder: Path) -> None:
    for parent in folder.parents:
        if parent.name == "snapshots":
            remove_aged(parent.with_name("blobs"), _UNFINISHED, ABANDONED)
