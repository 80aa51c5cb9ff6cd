"""A Hub on this machine, in memory: what the Hugging Face libraries ask of the real one to push and to load.

It shows the clients' flow, not the real Hub's rules: there are no quotas, and cards are not validated.

    with LoopbackHub() as hub:
        hub.run("from huggingface_hub import HfApi; print(HfApi().whoami()['name'])", home=tmp_path)
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from interpreters import run_apart

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_loopback"
USER = "tester"
DATE = "2024-01-01T00:00:00.000Z"
# What the Hub stores as large files whatever their size.
LARGE_FILE = re.compile(r"\.(safetensors|parquet|png|bin|pt|pkl|zip)$")

_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPOSITORY}"
_SITE = rf"/(?:(?P<kind>datasets)/)?{_REPOSITORY}"


@dataclass
class StoredFile:
    """The content of one file in one commit."""

    content: bytes
    is_large: bool

    @property
    def blob_id(self):
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self):
        return self.sha256 if self.is_large else self.blob_id

    def describe(self, path):
        described = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_id}
        if self.is_large:
            described["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return described


@dataclass
class Commit:
    """All files at one moment."""

    files: dict
    message: str
    parent: str = ""

    @property
    def commit_id(self):
        listing = [(path, file.etag) for path, file in sorted(self.files.items())]
        return hashlib.sha1(repr((listing, self.message, self.parent)).encode()).hexdigest()


@dataclass
class Repository:
    """Branches and pull requests of a repository; each name is a list of commits, the newest last."""

    is_private: bool = False
    is_gated: bool = False
    branches: dict = field(default_factory=lambda: {"main": [Commit({}, "initial commit")]})

    def find(self, revision):
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for branch in self.branches.values() for commit in branch]
        return next((commit for commit in commits if commit.commit_id == revision), None)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=""):
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """Serves until the end of the `with` block.

    Attributes:
        endpoint: Address, for HF_ENDPOINT.
        requests: Every request as (method, path).
    """

    def __init__(self):
        self.repositories, self.large_files, self.requests = {}, {}, []
        self.lock = threading.RLock()
        self.dies_at = None  # a pattern: the connection of a request with such a path is closed without an answer
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def files(self, repository, kind="models", revision="main"):
        """Contents by path."""
        commit = self.repositories[kind, repository].find(revision)
        return {path: file.content for path, file in commit.files.items()}

    def environment(self, home, **changes):
        """Environment variables of a process that knows this Hub only, with its caches in `home`."""
        kept = {
            name: value for name, value in os.environ.items() if not re.match(r"(HF_|HUGGING|.*_proxy$)", name, re.I)
        }
        ours = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return {**kept, **ours, **changes}

    def run(self, code, home, **changes):
        """Run Python code in a process of its own, which sees the Hub's address before it imports transformers.

        Returns:
            What the code wrote.

        Raises:
            AssertionError: It failed; the message is what it wrote.
        """
        return run_apart(code, home, self.environment(home, **changes))

    # What is asked of the Hub, by method and path. Each takes the match of the path and the request.

    def control(self, match, request):
        """Change how the Hub fails from now on; a test asks for it from the process that it runs."""
        command, files = match["command"], {path: file for path, file in self._newest_files()}
        self.dies_at = {"die": "/commit/", "live": None}.get(command, self.dies_at)
        if command == "corrupt":
            files["model.safetensors"].content = files["model.safetensors"].content[:-1] + b"!"
        if command == "gate":
            for repository in self.repositories.values():
                repository.is_gated = True
        return {}

    def _newest_files(self):
        for repository in self.repositories.values():
            yield from repository.branches["main"][-1].files.items()

    def whoami(self, match, request):
        request.require_token()
        return {"name": USER, "type": "user", "fullname": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create_repository(self, match, request):
        request.require_token()
        wanted = request.json()
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        kind = f"{wanted.get('type') or 'model'}s"
        url = f"{self.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"
        is_private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        with self.lock:
            if (kind, name) in self.repositories:
                raise Refusal(409, json.dumps({"error": "You already created this repo", "url": url}))
            self.repositories[kind, name] = Repository(is_private)
        return {"url": url, "name": name}

    def validate_card(self, match, request):
        return {"errors": [], "warnings": []}

    def preupload(self, match, request):
        request.require_token()
        files = self._commit(match, request).files
        answers = []
        for file in request.json()["files"]:
            is_large = file["size"] > 10_000_000 or bool(LARGE_FILE.search(file["path"]))
            known = files.get(file["path"])
            answer = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            answers.append({**answer, "oid": known and known.etag})
        return {"files": answers}

    def large_file_batch(self, match, request):
        request.require_token()
        objects = []
        for wanted in request.json()["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.large_files:
                answer["actions"] = {"upload": {"href": f"{self.endpoint}/large/{wanted['oid']}"}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def upload_large_file(self, match, request):
        content = request.body
        if hashlib.sha256(content).hexdigest() != match["oid"]:
            raise Refusal(400, "The content is not what its hash says.")
        self.large_files[match["oid"]] = content
        return {}

    def create_branch(self, match, request):
        request.require_token()
        repository, branch = self._repository(match, request), unquote(match["revision"])
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = [repository.branches["main"][-1]]
        return {}

    def commit(self, match, request):
        request.require_token()
        repository, revision = self._repository(match, request), unquote(match["revision"])
        with self.lock:
            parent = self._commit(match, request)
            files, message = dict(parent.files), ""
            for line in request.body.splitlines():
                item = json.loads(line)
                message = item["value"].get("summary", message)
                self._apply(files, item["key"], item["value"])
            made = Commit(files, message, parent.commit_id)
            is_request = "create_pr=1" in request.query
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
            branch = f"refs/pr/{number}" if is_request else revision
            repository.branches.setdefault(branch, []).append(made)
        site = f"{self.endpoint}/{'datasets/' if match['kind'] == 'datasets' else ''}{match['repository']}"
        answer = {"success": True, "commitOid": made.commit_id, "commitUrl": f"{site}/commit/{made.commit_id}"}
        return {**answer, "pullRequestUrl": f"{site}/discussions/{number}"} if is_request else answer

    def _apply(self, files, key, value):
        path = value.get("path")
        if key == "file":
            files[path] = StoredFile(base64.b64decode(value["content"]), is_large=False)
        elif key == "lfsFile":
            if value["oid"] not in self.large_files:
                raise Refusal(400, f"The large file {path} was not uploaded.")
            files[path] = StoredFile(self.large_files[value["oid"]], is_large=True)
        elif key == "deletedFile":
            files.pop(path, None)
        elif key == "deletedFolder":
            for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[inside]

    def information(self, match, request):
        commit = self._commit(match, request)
        return {
            "id": match["repository"],
            "sha": commit.commit_id,
            "private": self._repository(match, request).is_private,
            "gated": False,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            "lastModified": DATE,
            "createdAt": DATE,
        }

    def tree(self, match, request):
        commit = self._commit(match, request)
        folder = unquote(match["path"] or "").strip("/")
        prefix = f"{folder}/" if folder else ""
        is_recursive = re.search(r"recursive=(true|1)", request.query, re.I)
        inside = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, f"No folder {folder}", "EntryNotFound")
        folders = {path[: index.start()] for path in inside for index in re.finditer("/", path)} - {folder, ""}
        entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        entries += [file.describe(path) for path, file in sorted(inside.items())]
        return [entry for entry in entries if is_recursive or "/" not in entry["path"].removeprefix(prefix)]

    def paths_information(self, match, request):
        commit, body = self._commit(match, request), request.body.decode()
        wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        return [commit.files[path].describe(path) for path in wanted if path in commit.files]

    def resolve(self, match, request):
        commit, path = self._commit(match, request), unquote(match["path"])
        headers = {"X-Repo-Commit": commit.commit_id}
        if path not in commit.files:
            raise Refusal(404, f"No file {path}", "EntryNotFound")
        file = commit.files[path]
        headers["ETag"] = f'"{file.etag}"'
        if file.is_large:
            headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
        return request.send_content(file.content, headers)

    def _repository(self, match, request):
        found = self.repositories.get((match["kind"] or "models", match["repository"]))
        if found is None or (found.is_private and not request.has_token()):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if found.is_gated and not request.has_token():
            raise Refusal(401, "Access to this repository is restricted", "GatedRepo")
        return found

    def _commit(self, match, request):
        revision = unquote(match.groupdict().get("revision") or "main")
        commit = self._repository(match, request).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


ROUTES = [
    (method, re.compile(path), action)
    for method, path, action in (
        ("GET", r"/control/(?P<command>\w+)", LoopbackHub.control),
        ("GET", r"/api/whoami-v2", LoopbackHub.whoami),
        ("POST", r"/api/repos/create", LoopbackHub.create_repository),
        ("POST", r"/api/validate-yaml", LoopbackHub.validate_card),
        ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", LoopbackHub.preupload),
        ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", LoopbackHub.commit),
        ("POST", rf"{_API}/branch/(?P<revision>[^/]+)", LoopbackHub.create_branch),
        ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", LoopbackHub.paths_information),
        ("GET", rf"{_API}/revision/(?P<revision>[^/]+)", LoopbackHub.information),
        ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", LoopbackHub.tree),
        ("GET", _API, LoopbackHub.information),
        ("POST", rf"{_SITE}\.git/info/lfs/objects/batch", LoopbackHub.large_file_batch),
        ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", LoopbackHub.upload_large_file),
        ("GET", rf"{_SITE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", LoopbackHub.resolve),
    )
]


class _Handler(BaseHTTPRequestHandler):
    """One connection; `hub` is set by LoopbackHub."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Stay silent."""

    def answer(self):
        method = "GET" if self.command == "HEAD" else self.command
        parts = urlsplit(self.path)
        self.query, self.body = parts.query, self._read_body()
        self.hub.requests.append((self.command, self.path))
        if self.hub.dies_at and re.search(self.hub.dies_at, self.path):
            self.close_connection = True
            return
        try:
            for wanted, pattern, action in ROUTES:
                match = pattern.fullmatch(parts.path) if wanted == method else None
                if match:
                    answered = action(self.hub, match, self)
                    if answered is not None:
                        self.send_content(json.dumps(answered).encode(), {"Content-Type": "application/json"})
                    return
            raise Refusal(404, f"No such address: {method} {parts.path}")
        except Refusal as refusal:
            content = str(refusal).encode()
            if not content.startswith(b"{"):
                content = json.dumps({"error": str(refusal)}).encode()
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)} if refusal.code else {}
            self.send_content(content, headers, refusal.status)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send_content(self, content, headers, status=200):
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span and status == 200:
            start, stop = int(span[1]), min(int(span[2] or len(content) - 1) + 1, len(content))
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            content, status = content[start:stop], 206
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def json(self):
        return json.loads(self.body)

    def has_token(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def require_token(self):
        if not self.has_token():
            raise Refusal(401, "Invalid username or password.")
