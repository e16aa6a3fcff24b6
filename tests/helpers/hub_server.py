"""A small Hub on loopback: the endpoints that the real client uses to create, commit, list and fetch.

Repositories live in memory. Large files go through git LFS and are served by a redirect, as on the Hub. Faults are
switched on by the tests: see ``Hub``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, READER = "hf_writer", "hf_reader"
PIECE = 2**13


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "", body: Any = None) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, body if body is not None else {"error": message}


@dataclass
class Commit:
    """One state of a repository: paths to contents."""

    sha: str
    files: dict[str, bytes]
    message: str = ""


@dataclass
class Repo:
    """Its branches and every commit."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], message: str, branch: str = "main") -> Commit:
        """Add a commit on top of a branch."""
        parent = self.branches.get(branch, "")
        digest = hashlib.sha1(f"{parent}{message}{len(self.commits)}".encode())
        made = Commit(digest.hexdigest(), files, message)
        self.commits[made.sha] = made
        self.branches[branch] = made.sha
        return made

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch or a full id."""
        found = self.commits.get(self.branches.get(revision, revision))
        if found is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found


@dataclass
class Hub:
    """What is stored, and what goes wrong.

    Args:
        repos: Name to repository.
        objects: Large files by sha256.
        swapped: What is sent instead of the content with that sha256, under the old ETag.
        cut_at: Send only so many bytes of a large file, then break the connection.
        reset: Break it by a reset instead of closing it.
        before: Called with method and path before every request.
        faults: Pattern of method and path to the status that answers such requests instead.
        tokens: Further tokens of readers of public repositories.
        signature: Query of the addresses of large files, as a store of another host signs them.
        pause: Seconds that every piece of a body takes, sent or received.
        busy: Threads that are answering a request.
        requests: Every method and path.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    swapped: dict[str, bytes] = field(default_factory=dict)
    cut_at: int | None = None
    reset: bool = False
    before: Callable[[str, str], None] = lambda method, path: None
    faults: dict[str, int] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    signature: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    pause: float = 0.0
    busy: set[int] = field(default_factory=set)
    url: str = ""

    def settle(self) -> None:
        """Wait until nothing that was sent, also by a client that is gone, is still to be answered."""
        seen = -1
        while self.busy or len(self.requests) != seen:
            seen = len(self.requests)
            time.sleep(0.01)

    def repo(self, name: str, token: str) -> Repo:
        """Return a repository that the holder of a token may see."""
        found = self.repos.get(name)
        if found is None or (found.private and token not in (WRITER, READER)):
            # The Hub does not tell strangers which of the two it is.
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return found


def is_large(path: str) -> bool:
    """Whether the Hub would keep a file in LFS."""
    return path.endswith((".safetensors", ".bin"))


def etag(path: str, data: bytes) -> str:
    """Return what the Hub knows a file by: sha256 of large ones, git's id of small ones."""
    if is_large(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def need_writer(token: str) -> None:
    """Refuse all tokens but the one that may write."""
    if token != WRITER:
        raise Refused(403 if token else 401, message="You don't have the rights to do this")


class Handler(BaseHTTPRequestHandler):
    """Routes requests to the functions below."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    @property
    def token(self) -> str:
        """Of the request; empty for strangers."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    @property
    def query(self) -> dict[str, list[str]]:
        """Of the request's URL."""
        return parse_qs(urlsplit(self.path).query)

    def handle_one(self) -> None:
        """Answer one request."""
        self.hub.busy.add(threading.get_ident())
        try:
            self.answer(unquote(urlsplit(self.path).path))
        except ConnectionError:
            self.close_connection = True  # the client is gone
        finally:
            self.hub.busy.discard(threading.get_ident())

    def answer(self, path: str) -> None:
        """Answer a request for ``path``."""
        body = self.receive(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        self.hub.before(self.command, path)
        try:
            self.refuse(path)
            for method, pattern, answer in ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    answer(self, body, *match.groups())
                    return
            raise Refused(404, message=f"no route for {self.command} {path}")
        except Refused as refused:
            told = {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
            self.send_json(refused.body, refused.status, {name: value for name, value in told.items() if value})

    def refuse(self, path: str) -> None:
        """Refuse requests with a token that nobody has, and those that the test lets fail."""
        for pattern, status in self.hub.faults.items():
            if re.search(pattern, f"{self.command} {path}"):
                raise Refused(status, message=f"refused, token {self.token}")
        if self.token not in ("", WRITER, READER, *self.hub.tokens):
            raise Refused(401, message="Invalid credentials in Authorization header")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def receive(self, size: int) -> bytes:
        """Return the body of the request."""
        pieces = []
        for start in range(0, size, PIECE):
            time.sleep(self.hub.pause)
            pieces.append(self.rfile.read(min(PIECE, size - start)))
        if len(body := b"".join(pieces)) < size:
            raise ConnectionError("the client is gone")
        return body

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer in JSON."""
        self.send_bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with a body, which HEAD leaves out."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(data) if self.command != "HEAD" else 0, PIECE):
            time.sleep(self.hub.pause)
            self.wfile.write(data[start : start + PIECE])

    def send_cut(self, data: bytes, headers: dict[str, str], at: int) -> None:
        """Promise a body, send a part of it, and break the connection."""
        self.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:at])
        self.wfile.flush()
        if self.hub.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True


def create_repo(request: Handler, body: bytes) -> None:
    asked = json.loads(body)
    need_writer(request.token)
    name = f"{asked['organization']}/{asked['name']}"
    url = f"{request.hub.url}/{name}"
    if name in request.hub.repos:
        raise Refused(409, body={"error": "You already created this model repo", "url": url})
    private = asked.get("visibility") == "private" or asked.get("private") is True
    request.hub.repos[name] = Repo(private=private)
    request.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
    request.send_json({"url": url, "name": name})


def create_branch(request: Handler, body: bytes, name: str, branch: str) -> None:
    repo = request.hub.repo(name, request.token)
    need_writer(request.token)
    if branch in repo.branches:
        raise Refused(409, message="Reference already exists")
    repo.branches[branch] = repo.at(json.loads(body).get("startingPoint") or "main").sha
    request.send_json({})


def model_info(request: Handler, body: bytes, name: str, revision: str | None) -> None:
    repo = request.hub.repo(name, request.token)
    commit = repo.at(revision or "main")
    siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(commit.files.items())]
    request.send_json({"id": name, "sha": commit.sha, "private": repo.private, "siblings": siblings, "tags": []})


def tree(request: Handler, body: bytes, name: str, revision: str) -> None:
    files = request.hub.repo(name, request.token).at(revision).files
    request.send_json(
        [{"type": "file", "path": p, "size": len(data), "oid": etag(p, data)} for p, data in sorted(files.items())]
    )


def validate_yaml(request: Handler, body: bytes) -> None:
    found = re.match(r"\s*---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    values = {name: (data or {}).get(name, "") for name in ("license", "language")}
    errors = [{"message": f'"{name}" must be a string'} for name, value in values.items() if not isinstance(value, str)]
    request.send_json({"errors": errors, "warnings": []}, 400 if errors else 200)


def preupload(request: Handler, body: bytes, name: str, revision: str) -> None:
    there = request.hub.repo(name, request.token).at(revision).files
    need_writer(request.token)
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if is_large(file["path"]) else "regular",
            "shouldIgnore": False,
            "oid": etag(file["path"], there[file["path"]]) if file["path"] in there else None,
        }
        for file in json.loads(body)["files"]
    ]
    request.send_json({"files": files})


def lfs_batch(request: Handler, body: bytes, name: str) -> None:
    request.hub.repo(name, request.token)
    need_writer(request.token)
    objects = json.loads(body)["objects"]
    for item in objects:
        if item["oid"] not in request.hub.objects:
            item["actions"] = {
                "upload": {"href": f"{request.hub.url}/lfs/{item['oid']}{request.hub.signature}"},
                "verify": {"href": f"{request.hub.url}/lfs/verify"},
            }
    request.send_json({"transfer": "basic", "objects": objects})


def lfs_put(request: Handler, body: bytes, oid: str) -> None:
    if hashlib.sha256(body).hexdigest() != oid:
        raise Refused(400, message="the content has another hash")
    request.hub.objects[oid] = body
    request.send_json({})


def lfs_verify(request: Handler, body: bytes) -> None:
    asked = json.loads(body)
    if len(request.hub.objects.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(404, message="no such object")
    request.send_json({})


def commit(request: Handler, body: bytes, name: str, revision: str) -> None:
    repo = request.hub.repo(name, request.token)
    need_writer(request.token)
    header, *operations = [json.loads(line) for line in body.splitlines()]
    parent = repo.at(revision)
    if header["value"].get("parentCommit", parent.sha) != parent.sha:
        raise Refused(412, message="A commit has happened since")
    files = dict(parent.files)
    for operation in operations:
        apply(operation["key"], operation["value"], files, request.hub)
    pull = "create_pr" in request.query
    branch = f"refs/pr/{len(repo.branches)}" if pull else revision
    if pull:
        repo.branches[branch] = parent.sha
    made = repo.commit(files, header["value"]["summary"], branch)
    answer: dict[str, Any] = {"commitUrl": f"{request.hub.url}/{name}/commit/{made.sha}", "commitOid": made.sha}
    if pull:
        answer["pullRequestUrl"] = f"{request.hub.url}/{name}/discussions/{branch.rpartition('/')[2]}"
    request.send_json(answer)


def apply(key: str, value: dict[str, Any], files: dict[str, bytes], hub: Hub) -> None:
    """Apply one operation of a commit to the files."""
    if key == "file":
        files[value["path"]] = base64.b64decode(value["content"])
    elif key == "lfsFile":
        files[value["path"]] = hub.objects[value["oid"]]
    elif key == "deletedFile":
        if value["path"] not in files:
            raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
        del files[value["path"]]
    else:
        raise Refused(400, message=f"unknown operation {key}")


def resolve(request: Handler, body: bytes, name: str, revision: str, path: str) -> None:
    repo = request.hub.repo(name, request.token)
    if repo.gated and request.token != WRITER:
        raise Refused(403 if request.token else 401, "GatedRepo", "Access to this model is restricted")
    found = repo.at(revision)
    if path not in found.files:
        raise Refused(404, "EntryNotFound", "Entry not found")
    data = found.files[path]
    headers = {"X-Repo-Commit": found.sha, "ETag": f'"{etag(path, data)}"'}
    if not is_large(path):
        request.send_bytes(data, 200, headers)
        return
    linked = {"X-Linked-ETag": f'"{etag(path, data)}"', "X-Linked-Size": str(len(data))}
    # Another host: the client must neither send its token there nor look for the repository's headers.
    place = f"{request.hub.url.replace('127.0.0.1', 'localhost')}/cdn/{etag(path, data)}{request.hub.signature}"
    request.hub.objects.setdefault(etag(path, data), data)
    request.send_bytes(b"", 302, {**headers, **linked, "Location": place})


def cdn(request: Handler, body: bytes, oid: str) -> None:
    if request.token:
        raise Refused(400, message="a token was sent to another host")
    data = request.hub.swapped.get(oid, request.hub.objects[oid])
    headers = {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    start = int(asked[1]) if asked else 0
    if request.hub.cut_at is not None and request.command == "GET":
        request.send_cut(data, headers, 0 if start else request.hub.cut_at)
    elif asked:
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        request.send_bytes(data[start:], 206, {**headers, **span})
    else:
        request.send_bytes(data, 200, headers)


REPO = r"([\w.-]+/[\w.-]+?)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", "/api/repos/create", create_repo),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", f"/api/models/{REPO}/branch/(.+)", create_branch),
    ("POST", f"/api/models/{REPO}/preupload/(.+)", preupload),
    ("POST", f"/api/models/{REPO}/commit/(.+)", commit),
    ("GET", f"/api/models/{REPO}/tree/(.+)", tree),
    ("GET", f"/api/models/{REPO}(?:/revision/(.+))?", model_info),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", lfs_put),
    ("POST", "/lfs/verify", lfs_verify),
    ("GET", "/cdn/([0-9a-f]{64})", cdn),
    ("HEAD", "/cdn/([0-9a-f]{64})", cdn),
    ("GET", f"/{REPO}/resolve/([^/]+)/(.+)", resolve),
    ("HEAD", f"/{REPO}/resolve/([^/]+)/(.+)", resolve),
    ("GET", f"/datasets/{REPO}/resolve/([^/]+)/(.+)", resolve),
    ("HEAD", f"/datasets/{REPO}/resolve/([^/]+)/(.+)", resolve),
)


class Server(ThreadingHTTPServer):
    """One that is used to clients which go without a word."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that broke."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve an empty Hub on a free port of loopback until the block ends."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
