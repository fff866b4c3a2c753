"""A stand-in for the Hugging Face Hub: the requests that huggingface_hub sends to fetch, upload,
branch, tag and list models.

Commits and references live in memory, contents under their SHA-256 in one folder. Files of text
come in the commit itself, all others by Git LFS
(https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), where what arrives is checked as
the real store does. It has no Xet: set HF_HUB_DISABLE_XET=1."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 1 << 20
TEXT = (".json", ".md", ".txt")


@dataclass
class Commit:
    title: str
    files: dict[str, str]  # SHA-256 by path
    parent: str | None = None


@dataclass
class Repository:
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, str], parent: str | None) -> str:
        oid = hashlib.sha1(
            json.dumps([title, files, parent, branch], sort_keys=True).encode()
        ).hexdigest()
        self.commits[oid] = Commit(title, files, parent)
        self.branches[branch] = oid
        return oid

    def at(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None


class Hub(ThreadingHTTPServer):
    """The server and all that it holds. `token`: what a request that changes anything has to
    show."""

    daemon_threads = True

    def __init__(self, folder: Path, token: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.token = folder, token
        self.repositories: dict[str, Repository] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()

    def put(self, data: bytes) -> str:
        oid = hashlib.sha256(data).hexdigest()
        (self.folder / oid).write_bytes(data)
        return oid

    def add(self, name: str, commit: str, source: Path) -> None:
        """A repository of one commit, with the files of a folder."""
        files = {path.name: self.put(path.read_bytes()) for path in source.iterdir()}
        self.repositories[name] = Repository({commit: Commit("first", files)}, {"main": commit})


@contextlib.contextmanager
def running(folder: Path, token: str = "") -> Iterator[Hub]:
    """The server in a thread of its own, on a free port."""
    folder.mkdir(parents=True, exist_ok=True)
    hub = Hub(folder, token)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def _route(self) -> None:
        url = urlsplit(self.path)
        path, self.query = url.path, parse_qs(url.query)
        self.body = (
            b""
            if self.command == "PUT"
            else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        )
        changes = self.command not in ("GET", "HEAD")
        if (
            changes
            and self.server.token
            and self.headers.get("Authorization") != f"Bearer {self.server.token}"
            and self.command != "PUT"
        ):
            return self._send({"error": "Invalid username or password."}, 401)
        for method, pattern, answer in ROUTES:
            if self.command in method.split() and (found := re.fullmatch(pattern, path)):
                with (
                    self.server.lock
                    if self.command not in ("PUT", "GET", "HEAD")
                    else contextlib.nullcontext()
                ):
                    return answer(self, *(unquote(part) for part in found.groups() if part))
        return self._send({"error": f"{self.command} {path}: not known to this stand-in"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _route

    def log_message(self, *args: object) -> None:
        del args

    def _send(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _at(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit; answers itself if either is not there, in the words that
        the library looks for."""
        repository = self.server.repositories.get(name)
        oid = repository.at(revision) if repository else None
        if repository is None or oid is None:
            code = "RevisionNotFound" if repository else "RepoNotFound"
            self._send({"error": code}, 404, {"X-Error-Code": code})
            return None
        return repository, oid

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self._send(
                {
                    "error": "You already created this model repo",
                    "url": f"{self.server.url}/{name}",
                },
                409,
            )
        repository = self.server.repositories[name] = Repository()
        repository.commit(
            "main",
            "initial commit",
            {".gitattributes": self.server.put(b"*.safetensors filter=lfs\n")},
            None,
        )
        return self._send({"url": f"{self.server.url}/{name}"})

    def _models(self) -> None:
        author = self.query.get("author", [""])[0]
        self._send(
            [
                {"id": name, "private": True}
                for name in self.server.repositories
                if name.startswith(f"{author}/")
            ]
        )

    def _info(self, name: str, revision: str = "main") -> None:
        if at := self._at(name, revision):
            files = at[0].commits[at[1]].files
            siblings = [{"rfilename": path} for path in files]
            counts: Counter[str] = Counter()
            for path, oid in files.items():
                counts.update(
                    _values(self.server.folder / oid) if path.endswith(".safetensors") else {}
                )
            weights = (
                {"safetensors": {"parameters": counts, "total": counts.total()}} if counts else {}
            )
            self._send(
                {"id": name, "sha": at[1], "siblings": siblings, "private": False, **weights}
            )

    def _refs(self, name: str) -> None:
        if at := self._at(name, "main"):
            kinds = {
                "branches": ("heads", at[0].branches),
                "tags": ("tags", at[0].tags),
                "converts": ("convert", {}),
            }
            self._send(
                {
                    kind: [
                        {"name": each, "ref": f"refs/{where}/{each}", "targetCommit": oid}
                        for each, oid in refs.items()
                    ]
                    for kind, (where, refs) in kinds.items()
                }
            )

    def _branch(self, name: str, branch: str) -> None:
        if at := self._at(name, "main"):
            if self.command == "DELETE":
                at[0].branches.pop(branch, None)
            elif branch in at[0].branches:
                return self._send({"error": "Reference already exists"}, 409)
            else:
                at[0].branches[branch] = at[1]
            self._send({})

    def _tag(self, name: str, revision: str) -> None:
        if at := self._at(name, revision):
            tag = json.loads(self.body)["tag"]
            if tag in at[0].tags:
                return self._send({"error": "Tag reference exists already"}, 409)
            at[0].tags[tag] = at[1]
            self._send({})

    def _commits(self, name: str, revision: str) -> None:
        if at := self._at(name, revision):
            oid: str | None = at[1]
            found = []
            while oid:
                commit = at[0].commits[oid]
                about = {
                    "message": "",
                    "date": "2026-01-01T00:00:00.000Z",
                    "authors": [{"user": "tester"}],
                }
                found.append({"id": oid, "title": commit.title, **about})
                oid = commit.parent
            self._send(found)

    def _tree(self, name: str, revision: str, folder: str = "") -> None:
        if at := self._at(name, revision):
            files = at[0].commits[at[1]].files
            self._send(
                [
                    {
                        "type": "file",
                        "path": path,
                        "size": (self.server.folder / oid).stat().st_size,
                        "oid": oid[:40],
                        **(
                            {}
                            if path.endswith(TEXT)
                            else {"lfs": {"oid": oid, "size": 1, "pointerSize": 1}}
                        ),
                    }
                    for path, oid in files.items()
                    if path.startswith(folder.lstrip("/"))
                ]
            )

    def _preupload(self, name: str, revision: str) -> None:
        """Whether each file comes in the commit or by LFS, and what stands there: LFS by SHA-256,
        text by git's hash."""
        if at := self._at(name, revision):
            files = at[0].commits[at[1]].files
            answers = []
            for file in json.loads(self.body)["files"]:
                path, text = file["path"], file["path"].endswith(TEXT)
                stands = files.get(path)
                oid = (
                    _git_hash((self.server.folder / stands).read_bytes())
                    if stands and text
                    else stands
                )
                answers.append(
                    {
                        "path": path,
                        "uploadMode": "regular" if text else "lfs",
                        "shouldIgnore": False,
                        **({"oid": oid} if oid else {}),
                    }
                )
            self._send({"files": answers})

    def _commit(self, name: str, branch: str) -> None:
        if not (at := self._at(name, branch)):
            return None
        repository, parent = at
        files, title = dict(repository.commits[parent].files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                title = value["summary"]
            elif item["key"] == "deletedFile":
                files.pop(value["path"])
            elif item["key"] == "file":
                files[value["path"]] = self.server.put(base64.b64decode(value["content"]))
            elif (self.server.folder / value["oid"]).is_file():
                files[value["path"]] = value["oid"]
            else:
                return self._send({"error": f"LFS object {value['oid']} was never uploaded"}, 400)
        oid = repository.commit(branch, title, files, parent)
        return self._send({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid})

    def _batch(self, name: str) -> None:
        del name
        objects = []
        for asked in json.loads(self.body)["objects"]:
            there = (self.server.folder / asked["oid"]).is_file()
            upload = {
                "actions": {
                    "upload": {"href": f"{self.server.url}/lfs/{asked['oid']}", "header": {}}
                }
            }
            objects.append({**asked, **({} if there else upload)})
        self._send({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.server.folder, prefix=".part-") as stream:
            while left and (chunk := self.rfile.read(min(CHUNK, left))):
                stream.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
            stream.flush()
            if left or digest.hexdigest() != oid:
                return self._send({"error": "not the object that was announced"}, 400)
            target = self.server.folder / oid
            target.unlink(missing_ok=True)
            target.hardlink_to(stream.name)
        return self._send({})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        if not (at := self._at(name, revision)):
            return
        oid = at[0].commits[at[1]].files.get(path)
        if oid is None:
            return self._send({"error": "EntryNotFound"}, 404, {"X-Error-Code": "EntryNotFound"})
        file = self.server.folder / oid
        self.send_response(200)
        for key, value in {
            "Content-Length": file.stat().st_size,
            "X-Repo-Commit": at[1],
            "ETag": f'"{oid}"',
        }.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            with file.open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    self.wfile.write(chunk)


def _values(path: Path) -> Counter[str]:
    """How many of each type are in a file, by its header alone
    (https://huggingface.co/docs/safetensors, "Format")."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        if name != "__metadata__":
            counts[tensor["dtype"]] += math.prod(tensor["shape"])
    return counts


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


NAME = "([^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", lambda handler: handler._send({})),
    ("GET", "/api/models", _Handler._models),
    ("GET HEAD", f"/api/models/{NAME}", _Handler._info),
    ("GET", f"/api/models/{NAME}/revision/([^/]+)", _Handler._info),
    ("GET", f"/api/models/{NAME}/refs", _Handler._refs),
    ("POST DELETE", f"/api/models/{NAME}/branch/([^/]+)", _Handler._branch),
    ("POST", f"/api/models/{NAME}/tag/([^/]+)", _Handler._tag),
    ("GET", f"/api/models/{NAME}/commits/([^/]+)", _Handler._commits),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)(/.*)?", _Handler._tree),
    ("POST", f"/api/models/{NAME}/preupload/([^/]+)", _Handler._preupload),
    ("POST", f"/api/models/{NAME}/commit/([^/]+)", _Handler._commit),
    ("POST", f"/{NAME}\\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", "/lfs/([0-9a-f]{64})", _Handler._store),
    ("GET HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", _Handler._resolve),
)
