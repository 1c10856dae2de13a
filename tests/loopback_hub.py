"""A Hugging Face Hub on loopback, for tests: the part of the Hub's protocol that `huggingface_hub`, `transformers`,
`timm` and `datasets` use to create repositories, push to them and load from them. Nothing in the clients is replaced:
they run in processes of their own with `Hub.environment`.

The clients choose Xet storage by themselves where `hf_xet` is installed, whatever a server answers, so the environment
turns it off and files go through Git LFS. As on the real Hub, large files are uploaded to and downloaded from another
origin (a second port, paths `/cdn/...`) without the user's token.
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".npy", ".npz", ".parquet", ".pt", ".pth", ".safetensors", ".tar", ".zip")
LFS_SIZE = 10_000_000  # a file of any name is LFS's above this
REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Request(NamedTuple):
    """What a client sent, and the answer's status: 0 where no answer was sent. The path is unquoted, with no query."""

    method: str
    path: str
    status: int
    headers: Message


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class HubError(Exception):
    """An error as the Hub words it: status, message, and the code by which the clients choose their exception."""

    def __init__(self, status: int, message: str, code: str = "", **fields: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = as_json({"error": message, **fields}, status, headers)


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: str | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob(self) -> bytes:
        """What Git keeps: of a large file, only the pointer."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return pointer.encode() if self.lfs else self.data

    @cached_property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.blob) + self.blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.blob_id}
        if self.lfs:
            size, pointer_size = len(self.data), len(self.blob)
            entry["lfs"] = {"oid": self.sha256, "sha256": self.sha256, "size": size, "pointerSize": pointer_size}
        return entry


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    message: str
    author: str
    date: str
    parent: "Commit | None"
    files: dict[str, File]

    def history(self) -> "list[Commit]":
        return [self, *(self.parent.history() if self.parent else [])]

    def entry(self) -> dict[str, Any]:
        entry = {"id": self.sha, "title": self.title, "message": self.message, "date": self.date}
        return entry | {"authors": [{"user": self.author}]}

    def entries(self) -> dict[str, dict[str, Any]]:
        """Files and folders by path."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        entries = {path: {"type": "directory", "path": path, "size": 0, "oid": git_id(path)} for path in folders}
        return entries | {path: file.entry(path) for path, file in self.files.items()}


@dataclass
class Repo:
    id: str
    repo_type: str
    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.id if self.repo_type == "model" else f"{self.repo_type}s/{self.id}"

    def at(self, revision: str) -> Commit:
        found = self.branches.get(revision) or self.commits.get(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def commit(self, branch: str, files: dict[str, File], title: str, message: str, author: str) -> Commit:
        date, parent = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), self.branches.get(branch)
        sha = git_id(self.address, branch, title, date, str(len(self.commits)))
        self.branches[branch] = self.commits[sha] = Commit(sha, title, message, author, date, parent, files)
        return self.branches[branch]

    def store(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise HubError(400, f"The content sent is not that of {oid}")
        self.objects[oid] = data


Cut = Literal["request", "answer"]
Access = Literal["read", "write", "signed", "none"]
Endpoint = Callable[..., Answer]


@dataclass
class Fault:
    method: str
    path: re.Pattern[str]
    times: int
    answer: Answer | None = None
    cut: Cut | None = None
    after_bytes: int = 0
    reset: bool = False


def git_id(*parts: str) -> str:
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()


def part_etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def as_json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def as_file(call: Call, data: bytes, headers: dict[str, str]) -> Answer:
    """The content, or the range of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if wanted is None:
        return Answer(200, data, headers)
    first, last = wanted.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= end:
        return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


ROUTES: list[tuple[tuple[str, ...], re.Pattern[str], Access, Endpoint]] = []


def route(methods: str, pattern: str, access: Access = "read") -> Callable[[Endpoint], Endpoint]:
    """Registers an endpoint. In the pattern, which the still quoted path has to match, `{api}` is a repository in the
    API's addresses, `{web}` one in those of its files, and other names are parts of the path. Who reaches a repository
    by a signed URL has been let in before."""
    repo_id = "(?P<repo_id>[^/]+(?:/[^/]+)??)"
    pattern = pattern.replace("{api}", f"(?P<kind>{'|'.join(REPO_TYPES)})/{repo_id}")
    pattern = pattern.replace("{web}", f"(?:(?P<kind>datasets|spaces)/)?{repo_id}")
    pattern = re.sub(r"\{([a-z]+)\}", r"(?P<\1>[^/]+)", pattern.replace("{oid}", "(?P<oid>[0-9a-f]{64})"))

    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES.append((tuple(methods.split()), re.compile(pattern), access, endpoint))
        return endpoint

    return register


class Hub:
    """The server, running inside `with`. `users` maps tokens to names; who owns a namespace bears its name. Listings
    come in pages of `page_size` entries, and what is larger than `part_size` bytes is uploaded in parts of that."""

    def __init__(self, users: Mapping[str, str], *, page_size: int = 1000, part_size: int = 100_000_000) -> None:
        self.users, self.page_size, self.part_size = dict(users), page_size, part_size
        self.requests: list[Request] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._servers = [Server(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "Hub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, token: str | None, home: Path | str) -> dict[str, str]:
        """Variables for a client's process: this one's, without any that concern the Hub, and those of this server."""
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        kept |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        kept |= dict.fromkeys(("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"), "1")
        return kept | ({"HF_TOKEN": token} if token else {})

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        return {path: file.data for path, file in self.repos[repo_type, repo_id].at(revision).files.items()}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[Commit]:
        """Newest first; the last one is that of the repository's creation."""
        return self.repos[repo_type, repo_id].at(revision).history()

    def seen(self, method: str, path_regex: str) -> list[Request]:
        """The requests so far of this method whose path the expression finds."""
        return [one for one in self.requests if one.method == method and re.search(path_regex, one.path)]

    def fail_next(
        self,
        method: str,
        path_regex: str,
        status: int,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        """The next such requests are answered with this status, and nothing else is done about them."""
        answer = as_json({"error": f"Armed failure {status}"}, status, headers)
        answer = answer if body is None else answer._replace(body=body)
        self._faults.append(Fault(method, re.compile(path_regex), times, answer))

    def cut_next(
        self,
        method: str,
        path_regex: str,
        after_bytes: int = 0,
        times: int = 1,
        cut: Cut | None = None,
        reset: bool = False,
    ) -> None:
        """The connection of the next such requests is closed after so many bytes of the body: of the request's for PUT
        and POST, else of the answer's; after 0 bytes of an answer, its head is not sent either. A cut answer was
        nevertheless acted upon. `reset` makes the close an error (a TCP reset) rather than an end."""
        cut = cut or ("request" if method in ("PUT", "POST") else "answer")
        self._faults.append(Fault(method, re.compile(path_regex), times, None, cut, after_bytes, reset))

    def disarm(self) -> None:
        self._faults.clear()

    def fault(self, method: str, path: str) -> Fault | None:
        """Takes one armed fault that concerns the request."""
        with self._lock:
            for fault in self._faults:
                if fault.times and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, call: Call) -> Answer:
        with self._lock:
            try:
                return self._dispatch(call)
            except HubError as error:
                return error.answer

    def _dispatch(self, call: Call) -> Answer:
        authorization = call.headers.get("Authorization", "")
        if authorization and call.path.startswith("/cdn/"):
            raise HubError(400, "Only one auth mechanism allowed")
        if authorization:
            call.user = self.users.get(authorization.removeprefix("Bearer "))
            if call.user is None:
                raise HubError(401, "Invalid credentials in Authorization header")
        for methods, pattern, access, endpoint in ROUTES:
            if call.method in methods and (match := pattern.fullmatch(call.path)):
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if access == "none":
                    return endpoint(self, call, **parts)
                repo_type = REPO_TYPES[parts.pop("kind", "models")]
                return endpoint(self, call, self._repo(call, repo_type, parts.pop("repo_id"), access), **parts)
        raise HubError(404, f"No such endpoint: {call.method} {call.path}")

    def _repo(self, call: Call, repo_type: str, repo_id: str, access: Access) -> Repo:
        repo, owner = self.repos.get((repo_type, repo_id)), repo_id.split("/")[0]
        if repo is None or (repo.private and call.user != owner and access != "signed"):
            self._user(call)
            raise HubError(404, "Repository not found", "RepoNotFound")
        if access == "write":
            self._require_owner(call, owner)
        return repo

    def _user(self, call: Call) -> str:
        # The clients take any 401 of an https endpoint for a missing repository; of an http one, only with this code.
        if call.user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return call.user

    def _require_owner(self, call: Call, owner: str) -> None:
        if self._user(call) != owner:
            raise HubError(403, f"You don't have the rights to write under the namespace {owner}")

    @route("GET", "/api/whoami-v2", "none")
    def _whoami(self, call: Call) -> Answer:
        if call.user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        return as_json({"type": "user", "name": call.user, "fullname": call.user, "orgs": [], "auth": token})

    @route("POST", "/api/validate-yaml", "none")
    def _validate_yaml(self, call: Call) -> Answer:
        return as_json({"errors": [], "warnings": []})

    @route("POST DELETE", "/api/repos/(?:create|delete)", "none")
    def _create_or_delete(self, call: Call) -> Answer:
        asked = call.json
        owner, repo_type = asked.get("organization") or self._user(call), asked.get("type") or "model"
        repo_id = f"{owner}/{asked['name']}"
        if call.method == "DELETE":
            repo = self._repo(call, repo_type, repo_id, "write")
            del self.repos[repo_type, repo_id]
            return as_json({})
        self._require_owner(call, owner)
        repo = Repo(repo_id, repo_type, asked.get("visibility") == "private" or bool(asked.get("private")))
        url = f"{self.url}/{repo.address}"
        if (repo_type, repo_id) in self.repos:
            raise HubError(409, f"You already created this {repo_type} repo", url=url)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repo.commit("main", {".gitattributes": File(attributes.encode(), lfs=False)}, "initial commit", "", owner)
        self.repos[repo_type, repo_id] = repo
        return as_json({"url": url, "name": repo_id})

    @route("GET", "/api/{api}(?:/revision/{revision})?")
    def _info(self, call: Call, repo: Repo, revision: str = "main") -> Answer:
        commit = repo.at(revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
        for sibling in siblings if "blobs" in call.query else []:
            entry = commit.files[sibling["rfilename"]].entry("")
            sibling |= {"size": entry["size"], "blobId": entry["oid"], "lfs": entry.get("lfs")}
        info = {"id": repo.id, "author": repo.id.split("/")[0], "sha": commit.sha, "lastModified": commit.date}
        state = {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        return as_json(info | state | {"createdAt": commit.history()[-1].date, "siblings": siblings})

    @route("GET", "/api/{api}/tree/{revision}(?:/{path})?")
    def _tree(self, call: Call, repo: Repo, revision: str, path: str = "") -> Answer:
        entries = repo.at(revision).entries()
        recursive = call.query.get("recursive", [""])[0].lower() == "true"
        inside = path.rstrip("/") + "/" if path else ""
        found = [entries[one] for one in sorted(entries) if one.startswith(inside)]
        if path and not found:
            raise HubError(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        found = [one for one in found if recursive or "/" not in one["path"][len(inside) :]]
        start = int(call.query.get("cursor", ["0"])[0])
        end = start + self.page_size
        following = urlencode(call.query | {"cursor": [str(end)]}, doseq=True)
        link = {"Link": f'<{self.url}{call.path}?{following}>; rel="next"'} if end < len(found) else {}
        return as_json(found[start:end], headers=link)

    @route("POST", "/api/{api}/paths-info/{revision}")
    def _paths_info(self, call: Call, repo: Repo, revision: str) -> Answer:
        entries = repo.at(revision).entries()
        asked = parse_qs(call.body.decode()).get("paths", [])
        return as_json([entries[path.rstrip("/")] for path in asked if path.rstrip("/") in entries])

    @route("GET", "/api/{api}/refs")
    def _refs(self, call: Call, repo: Repo) -> Answer:
        heads = {name: commit.sha for name, commit in repo.branches.items()}
        branches = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": sha} for one, sha in heads.items()]
        return as_json({"branches": branches, "converts": [], "tags": [], "pullRequests": []})

    @route("POST", "/api/{api}/branch/{branch}", "write")
    def _branch(self, call: Call, repo: Repo, branch: str) -> Answer:
        if branch in repo.branches:
            raise HubError(409, "Reference already exists")
        repo.branches[branch] = repo.at(call.json.get("startingPoint", "main"))
        return as_json({})

    @route("GET", "/api/{api}/commits/{revision}")
    def _commits(self, call: Call, repo: Repo, revision: str) -> Answer:
        return as_json([commit.entry() for commit in repo.at(revision).history()])

    @route("POST", "/api/{api}/preupload/{revision}", "write")
    def _preupload(self, call: Call, repo: Repo, revision: str) -> Answer:
        present = repo.at(revision).files
        answers = []
        for asked in call.json["files"]:
            lfs = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > LFS_SIZE
            answer = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            answers.append(answer | ({"oid": present[asked["path"]].etag} if asked["path"] in present else {}))
        return as_json({"files": answers})

    @route("POST", "/{web}.git/info/lfs/objects/batch", "write")
    def _lfs_batch(self, call: Call, repo: Repo) -> Answer:
        objects, kind = [], f"{repo.repo_type}s"
        for asked in call.json["objects"]:
            oid, size = asked["oid"], asked["size"]
            upload: dict[str, Any] = {"href": f"{self.cdn_url}/cdn/{kind}/{repo.id}/{oid}"}
            if size > self.part_size:
                count = -(-size // self.part_size)
                header = {str(part): f"{upload['href']}/{part}" for part in range(1, count + 1)}
                header["chunk_size"] = str(self.part_size)
                upload = {"href": f"{self.url}/api/lfs-complete/{kind}/{repo.id}/{oid}", "header": header}
            actions = {"upload": upload, "verify": {"href": f"{self.url}/{repo.address}.git/info/lfs/verify"}}
            objects.append({"oid": oid, "size": size} | ({} if oid in repo.objects else {"actions": actions}))
        return as_json({"transfer": "basic", "objects": objects})

    @route("PUT", "/cdn/{api}/{oid}(?:/{part})?", "signed")
    def _lfs_put(self, call: Call, repo: Repo, oid: str, part: str | None = None) -> Answer:
        if part is None:
            repo.store(oid, call.body)
        else:
            repo.parts[oid, int(part)] = call.body
        return Answer(200, b"", {"ETag": part_etag(call.body)})

    @route("POST", "/api/lfs-complete/{api}/{oid}", "signed")
    def _lfs_complete(self, call: Call, repo: Repo, oid: str) -> Answer:
        parts = [repo.parts.get((oid, part["partNumber"]), b"") for part in call.json["parts"]]
        if [part["etag"] for part in call.json["parts"]] != [part_etag(part) for part in parts]:
            raise HubError(400, "The parts sent are not those listed")
        repo.store(oid, b"".join(parts))
        return as_json({})

    @route("POST", "/{web}.git/info/lfs/verify", "write")
    def _lfs_verify(self, call: Call, repo: Repo) -> Answer:
        if len(repo.objects.get(call.json["oid"], b"")) != call.json["size"]:
            raise HubError(404, "No such object of this size")
        return as_json({})

    @route("POST", "/api/{api}/commit/{revision}", "write")
    def _commit(self, call: Call, repo: Repo, revision: str) -> Answer:
        head = repo.at(revision)
        if revision not in repo.branches or "create_pr" in call.query:
            raise HubError(400, "Commits go to branches here, not to pull requests")
        operations = [(line["key"], line["value"]) for line in map(json.loads, call.body.splitlines())]
        files, header = dict(head.files), operations[0][1]
        if header.get("parentCommit", head.sha) != head.sha:
            raise HubError(412, "The parent commit is not the head of the branch")
        for key, value in operations[1:]:
            path = value["path"]
            if key == "file":
                files[path] = File(base64.b64decode(value["content"]), lfs=False)
            elif key == "lfsFile" and value["oid"] in repo.objects:
                files[path] = File(repo.objects[value["oid"]], lfs=True)
            elif key == "lfsFile":
                raise HubError(400, f"LFS object {value['oid']} of {path} was not uploaded")
            else:
                inside = path.rstrip("/") + "/"
                gone = {one for one in files if (one.startswith(inside) if key == "deletedFolder" else one == path)}
                if not gone:
                    raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                files = {one: file for one, file in files.items() if one not in gone}
        commit = repo.commit(revision, files, header["summary"], header.get("description", ""), self._user(call))
        url = f"{self.url}/{repo.address}/commit/{commit.sha}"
        return as_json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    @route("GET HEAD", "/{web}/resolve/{revision}/(?P<path>.+)")
    def _resolve(self, call: Call, repo: Repo, revision: str, path: str) -> Answer:
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            refused = HubError(404, "Entry not found", "EntryNotFound").answer
            return refused._replace(headers=refused.headers | headers)
        file = commit.files[path]
        if not file.lfs:
            return as_file(call, file.data, headers | {"ETag": f'"{file.etag}"'})
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        return Answer(302, b"", headers | {"Location": f"{self.cdn_url}/cdn/{repo.repo_type}s/{repo.id}/{file.etag}"})

    @route("GET HEAD", "/cdn/{api}/{oid}", "signed")
    def _lfs_get(self, call: Call, repo: Repo, oid: str) -> Answer:
        if oid not in repo.objects:
            raise HubError(404, "No such object")
        return as_file(call, repo.objects[oid], {"ETag": f'"{oid}"'})


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # the default of 5 is less than a snapshot's downloads, and delays the rest by a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def serve(self) -> None:
        target = urlsplit(self.path)
        path = unquote(target.path)
        fault = self.hub.fault(self.command, path) or Fault(self.command, re.compile(""), 0)
        cut_request = fault.cut == "request"
        # The clients know the length of all that they send: none of it comes in chunks.
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(min(length, fault.after_bytes) if cut_request else length)
        call = Call(self.command, target.path, parse_qs(target.query), self.headers, body)
        answer = fault.answer or (None if cut_request else self.hub.answer(call))
        if answer is None or (fault.cut and not fault.after_bytes):
            self.hub.requests.append(Request(self.command, path, 0, self.headers))
            self.hang_up(fault.reset)
            return
        self.hub.requests.append(Request(self.command, path, answer.status, self.headers))
        self.send_response(answer.status)
        for key, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: fault.after_bytes] if fault.cut else answer.body)
        if fault.cut:
            self.hang_up(fault.reset)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

    def hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
