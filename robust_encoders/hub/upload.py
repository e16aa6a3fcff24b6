"""Publishing on the Hugging Face Hub: one commit with all files, a merged model card, error messages in plain words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from robust_encoders.artifact.forms import CONFIG_NAME, PICTURE_NAME, is_replaced
from robust_encoders.artifact.manifest import Manifest
from robust_encoders.artifact.model_card import CARD_NAME, LIBRARY, card
from robust_encoders.artifact.stated import require_stated
from robust_encoders.errors import PushError
from robust_encoders.hub.client import Failure, asked, blank_variable, transport_error
from robust_encoders.redaction import get_logger, redacted
from robust_encoders.utils.atomic_folders import remove_abandoned, scratch
from robust_encoders.utils.home import home
from robust_encoders.utils.versions import version

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

logger = get_logger(__name__)
T = TypeVar("T")


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
    token: str | bool | None = field(default=None, repr=False)
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
    require_stated(manifest)
    hub = _Repository(repo, options)
    head = hub.head()
    there = hub.existing_card(head, artifact.parent)
    picture = PICTURE_NAME if (artifact / PICTURE_NAME).is_file() else ""
    text = card(manifest, reference=repo, existing=there, picture=picture)
    (artifact / CARD_NAME).write_bytes(text.encode())
    url = redacted(hub.commit(artifact, head, options.commit_message or _message(manifest)))
    logger.info("published %s: %s", repo, url)
    return url


def _message(manifest: Manifest) -> str:
    return f"{manifest.concept.name} erased by {manifest.method['name']}"


@dataclass(frozen=True)
class _Repository:
    """A repository on the Hub that an artifact is pushed to."""

    repo: str
    options: PushOptions

    @cached_property
    def api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(token=self.options.token, library_name=LIBRARY, library_version=version(LIBRARY))

    def ask(self, call: Callable[[], T]) -> T:
        """Return the result of a call of the Hub's client; for its exceptions, raise a PushError in plain words."""
        return asked(
            call,
            lambda failure: PushError(_words(failure, self.repo)),
            token=self.options.token,
            kind=PushError,
        )

    def head(self) -> str:
        """Return the parent commit of the push; make the repository and branch if needed, and check the visibility."""
        repo, options = self.repo, self.options
        if not options.create_pr:
            self.ask(lambda: self.api.create_repo(repo, private=options.private, exist_ok=True))
        if (branch := options.revision) is not None and not options.create_pr:
            self.ask(lambda: self.api.create_branch(repo, branch=branch, exist_ok=True))
        info = self.ask(lambda: self.api.model_info(repo, revision=options.revision))
        if options.private is not None and bool(info.private) != options.private:
            expected, found = ("private", "public") if options.private else ("public", "private")
            raise PushError(
                f"expected a {expected} repository at {repo}, found a {found} one; nothing was pushed. "
                f"Change it in its settings on the Hub, or push without private={options.private}"
            )
        return str(info.sha)

    def existing_card(self, head: str, beside: Path) -> str:
        """Return the text of the card at a commit; empty if there is none."""
        with tempfile.TemporaryDirectory(dir=beside) as cache:
            path = self.ask(lambda: self._card_file(head, cache))
            return path.read_bytes().decode(errors="replace") if path else ""

    def _card_file(self, head: str, cache: str) -> Path | None:
        from huggingface_hub import errors

        try:
            return Path(self.api.hf_hub_download(self.repo, CARD_NAME, revision=head, cache_dir=cache))
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError:
            return None

    def commit(self, artifact: Path, head: str, message: str) -> str:
        """Commit all files of a folder; return the URL of the commit, or of the pull request."""
        names = self.ask(lambda: self.api.list_repo_files(self.repo, revision=head))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *_additions(artifact),
            *_removals(names, artifact),
        ]
        commit = self.ask(
            lambda: self.api.create_commit(
                self.repo,
                operations=operations,
                commit_message=message,
                revision=self.options.revision,
                create_pr=self.options.create_pr,
                # The Hub refuses the commit if the branch has moved since the merge, so that no other person's commit
                # is lost.
                parent_commit=head,
            )
        )
        return str(commit.pr_url or commit.commit_url)


def _additions(artifact: Path) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in artifact.iterdir() if path.is_file())
    return [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files]


def _removals(there: list[str], artifact: Path) -> list[CommitOperationDelete]:
    """Return deletions of an earlier push's variants, which hold other weights and are not in the new manifest."""
    from huggingface_hub import CommitOperationDelete

    names = {path.name for path in artifact.iterdir()}
    stale = [name for name in there if is_replaced(name) and name != CONFIG_NAME and name not in names]
    return [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in stale]


def _words(failure: Failure, repo: str) -> str:
    from huggingface_hub import errors

    broken = f"the connection to {repo} failed or broke off; nothing was committed, push again"
    # Special error types come before general ones: most are HTTP errors, and some are also ValueError or OSError.
    texts: dict[type[Exception], str] = {
        errors.HFValidationError: f"expected a repository as org/name, found {repo!r}",
        errors.OfflineModeIsEnabled: f"cannot push to {repo} while offline; unset HF_HUB_OFFLINE",
        errors.LocalTokenNotFoundError: f"pushing to {repo} needs a token; run `hf auth login`, or pass token=...",
        errors.GatedRepoError: f"{repo} is gated: accept its terms on the Hub first",
        errors.RepositoryNotFoundError: f"expected a repository at {repo}, found none that this token can see; check "
        "the spelling, or pass a token with write permission",
        errors.RevisionNotFoundError: f"expected that revision of {repo}, found none; push to a branch",
        errors.HfHubHTTPError: _refusal(failure, repo),
        transport_error(): broken,
        OSError: broken,
        ValueError: f"the Hub finds fault with the model card for {repo}; correct the metadata of the card there",
        RuntimeError: broken,  # the client raises it for an upload that breaks off
        Exception: f"the Hub's client failed to push to {repo}; nothing was committed. See its error, and upgrade "
        "huggingface_hub if it is old",
    }
    return failure.chosen(texts)


def _refusal(failure: Failure, repo: str) -> str:
    if failure.status in (401, 403) and not failure.token:
        blank = blank_variable()
        why = f", and {blank} is set but empty" if blank else ""
        return (
            f"a push without a token may not write to {repo}; pass token=... with write permission, set HF_TOKEN, or "
            f"run `hf auth login`: no token was found{why}"
        )
    if failure.status == 401:
        return (
            f"the Hub does not accept this token, which is wrong, expired or revoked, so it may not write to {repo}; "
            "pass token=... with write permission, or log in with it"
        )
    if failure.status == 403:
        return f"this token may not write to {repo}; pass token=... with write permission, or log in with it"
    if failure.status in (409, 412):
        return f"another commit changed {repo} during the push; nothing was pushed, push again"
    return f"the Hub refused the push to {repo}; see its answer"
