"""Publishing on the Hugging Face Hub: one commit with all files, a merged model card, error messages in plain words."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_encoders.artifact.forms import CONFIG_NAME, PICTURE_NAME, is_replaced
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.model_card import CARD_NAME, LIBRARY, card
from robust_encoders.errors import PushError
from robust_encoders.hub.download import transport_error
from robust_encoders.utils.atomic_folders import remove_abandoned, scratch
from robust_encoders.utils.home import home

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Options of a push; the names are those of ``huggingface_hub``.

    Args:
        private: Visibility of the repository: True for private, False for public. None keeps the visibility of an
            existing repository and leaves a new one to the Hub's default.
        token: Token with write permission; by default the token of the Hub login.
        revision: Branch; it is created if it does not exist.
        commit_message: Message of the commit; by default made from the manifest.
        create_pr: Switch that opens a pull request on an existing repository instead of committing.
    """

    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    commit_message: str = ""
    create_pr: bool = False


@contextmanager
def workplace() -> Iterator[Path]:
    """Make a temporary folder for an artifact that is pushed; remove the folders that killed pushes left behind.

    Yields:
        The folder.

    Raises:
        PushError: If the folder cannot be made.
    """
    with ExitStack() as cleanup:
        try:
            remove_abandoned(home(), "push")
            folder = cleanup.enter_context(scratch(home(), "push"))
        except OSError as error:
            raise PushError(
                f"expected a writable working folder at {home()}, found none: {error}; "
                "set ROBUST_ENCODERS_HOME to a writable folder"
            ) from error
        yield folder


def publish(artifact: Path, manifest: Manifest, repo: str, options: PushOptions) -> str:
    """Publish a folder that :func:`robust_encoders.artifact.writer.save` wrote, in one commit.

    Args:
        artifact: Folder of the artifact; its model card is merged with the one on the Hub.
        manifest: Manifest of the artifact.
        repo: Repository as ``org/name``; it is created if it does not exist.
        options: Visibility, branch, token and message of the push.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        PushError: If the Hub refuses the push.
        CardError: If the card on the Hub has metadata that cannot be read.
    """
    from importlib.metadata import version

    from huggingface_hub import HfApi

    api = HfApi(token=options.token, library_name=LIBRARY, library_version=version(LIBRARY))
    with in_words(repo):
        head = _head(api, repo, options)
        there = _existing_card(api, repo, head, artifact.parent)
        picture = PICTURE_NAME if (artifact / PICTURE_NAME).is_file() else ""
        text = card(manifest, reference=repo, existing=there, picture=picture)
        (artifact / CARD_NAME).write_bytes(text.encode())
        commit = api.create_commit(
            repo,
            operations=[*_additions(artifact), *_removals(api, repo, head, artifact)],
            commit_message=options.commit_message or _message(manifest),
            revision=options.revision,
            create_pr=options.create_pr,
            # The Hub refuses the commit if the branch has moved since the merge, so no other person's commit is lost.
            parent_commit=head,
        )
    url = str(commit.pr_url or commit.commit_url)
    logger.info("published %s: %s", repo, url)
    return url


def _message(manifest: Manifest) -> str:
    return f"{manifest.concept.name} erased by {manifest.method['name']}"


def _head(api: HfApi, repo: str, options: PushOptions) -> str:
    """Return the parent commit of the push; make the repository and the branch if needed and check the visibility."""
    if not options.create_pr:
        api.create_repo(repo, private=options.private, exist_ok=True)
        if options.revision is not None:
            api.create_branch(repo, branch=options.revision, exist_ok=True)
    info = api.model_info(repo, revision=options.revision)
    if options.private is not None and bool(info.private) != options.private:
        expected, found = ("private", "public") if options.private else ("public", "private")
        raise PushError(
            f"expected a {expected} repository at {repo}, found a {found} one; nothing was pushed. "
            f"Change it in its settings on the Hub, or push without private={options.private}"
        )
    return str(info.sha)


def _existing_card(api: HfApi, repo: str, head: str, beside: Path) -> str:
    from huggingface_hub import errors

    with tempfile.TemporaryDirectory(dir=beside) as cache:
        try:
            path = api.hf_hub_download(repo, CARD_NAME, revision=head, cache_dir=cache)
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError:
            return ""
        return Path(path).read_bytes().decode(errors="replace")


def _additions(artifact: Path) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in artifact.iterdir() if path.is_file())
    return [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files]


def _removals(api: HfApi, repo: str, head: str, artifact: Path) -> list[CommitOperationDelete]:
    """Return deletions of an earlier push's variants, which hold other weights and are not in the new manifest."""
    from huggingface_hub import CommitOperationDelete

    names = {path.name for path in artifact.iterdir()}
    stale = [
        name
        for name in api.list_repo_files(repo, revision=head)
        if is_replaced(name) and name != CONFIG_NAME and name not in names
    ]
    return [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in stale]


@contextmanager
def in_words(repo: str) -> Iterator[None]:
    """Turn every failure of the Hub's client inside the block into a PushError that says what to do."""
    # The client raises RuntimeError for an upload that breaks off, and ValueError for a card that the Hub refuses.
    try:
        yield
    except (transport_error(), OSError, ValueError, RuntimeError) as error:
        raise PushError(f"{_words(error, repo)} ({' '.join(str(error).split())})") from error


def _words(error: Any, repo: str) -> str:
    from huggingface_hub import errors

    # Special error types come before general ones: most are HTTP errors, and some are also ValueError or OSError.
    texts = {
        errors.HFValidationError: f"expected a repository as org/name, found {repo!r}",
        errors.OfflineModeIsEnabled: f"cannot push to {repo} while offline; unset HF_HUB_OFFLINE",
        errors.LocalTokenNotFoundError: f"pushing to {repo} needs a token; run `hf auth login`, or pass token=...",
        errors.GatedRepoError: f"{repo} is gated: accept its terms on the Hub first",
        errors.RepositoryNotFoundError: f"expected a repository at {repo}, found none that this token can see; check "
        "the spelling, or pass a token with write permission",
        errors.RevisionNotFoundError: f"expected that revision of {repo}, found none; push to a branch",
        errors.HfHubHTTPError: _refusal(error, repo),
        ValueError: f"the Hub finds fault with the model card for {repo}; correct the metadata of the card there",
        Exception: f"the connection to {repo} failed or broke off; nothing was committed, push again",
    }
    return next(text for kind, text in texts.items() if isinstance(error, kind))


def _refusal(error: Any, repo: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status in (401, 403):
        return f"this token may not write to {repo}; pass token=... with write permission, or log in with it"
    if status in (409, 412):
        return f"another commit changed {repo} during the push; nothing was pushed, push again"
    return f"the Hub refused the push to {repo}; see its answer"
