"""The parts of the Hub's API that uploads and downloads use, on loopback: repositories, git files, LFS, xet storage.

    with Hub() as hub:
        hub.environment()   # for a subprocess that runs the real client against it
        hub.repos["me/tiny"].files   # what was committed, by name

It answers as the Hub's documentation and its client have it; xet storage takes any xorb and shard.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "secretSecretSecretSecret0123456789"


@dataclass
class Repo:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)  # by path; of an LFS file its content, of a xet file its hash
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """`refuse(method, path)` gives a status to answer with instead, or None; 0 hangs up."""

    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)  # LFS objects by SHA-256
    xorbs: dict[str, int] = field(default_factory=dict)  # xet objects: bytes received
    requests: list[str] = field(default_factory=list)
    refuse: Callable[[str, str], int | None] = lambda method, path: None
    user: str = "me"

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def uploads(self) -> list[str]:
        return [line for line in self.requests if line.startswith(("PUT /lfs/", "POST /v1/xorbs/"))]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_PUT(self) -> None:
        self._route("PUT")

    def _route(self, method: str) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{method} {path}")
        status = self.hub.refuse(method, path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        if status is not None:  # as servers do that show what they were asked
            asked = self.headers.get("Authorization", "")
            return self._answer({"error": f"refused; the request said {asked}"}, status)
        for verb, pattern, handle in _ROUTES:
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                if not pattern.startswith(("/lfs", "/v1", "/v2")) and not self._known():
                    return self._answer({"error": "Invalid username or password."}, 401)
                return handle(self, body, **match.groupdict())
        self._answer({"error": f"Not found: {method} {path}"}, 404)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content: dict | list, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # -- the repositories ------------------------------------------------------------------------------------------

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        owner = asked.get("organization") or self.hub.user
        if owner != self.hub.user:
            return self._answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
        name = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repos:
            return self._answer(url | {"error": "You already created this model repo"}, 409)
        self.hub.repos[name] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        self._answer(url)

    def info(self, body: bytes, repo: str) -> None:
        if repo not in self.hub.repos:
            return self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        found = self.hub.repos[repo]
        sha = _sha1("".join(found.commits).encode())
        siblings = [{"rfilename": name} for name in found.files]
        about = {"id": repo, "modelId": repo, "private": found.private, "sha": sha, "tags": [], "siblings": siblings}
        self._answer(about)

    def tree(self, body: bytes, repo: str) -> None:
        files = self.hub.repos[repo].files.items()
        self._answer([{"type": "file", "path": name, "size": len(data), "oid": _sha1(data)} for name, data in files])

    def resolve(self, body: bytes, repo: str, name: str) -> None:
        found = self.hub.repos.get(repo)
        if found is None or name not in found.files:
            missing = "RepoNotFound" if found is None else "EntryNotFound"
            return self._answer({"error": "not found"}, 404, {"X-Error-Code": missing, **self._commit(repo)})
        data = found.files[name]
        self.send_response(200)
        headers = {"ETag": f'"{_sha1(data)}"', "Content-Length": str(len(data)), **self._commit(repo)}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _commit(self, repo: str) -> dict[str, str]:
        found = self.hub.repos.get(repo)
        return {"X-Repo-Commit": _sha1("".join(found.commits).encode())} if found else {}

    def validate(self, body: bytes) -> None:
        self._answer({"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str) -> None:
        files = json.loads(body)["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".jpg")) else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        self._answer({"files": modes})

    def commit(self, body: bytes, repo: str) -> None:
        found = self.hub.repos[repo]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                found.commits.append(value["summary"])
            elif entry["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                found.files[value["path"]] = self.hub.stored.get(value["oid"], value["oid"].encode())
        self._answer({"commitUrl": f"{self.hub.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True})

    # -- LFS -------------------------------------------------------------------------------------------------------

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.stored:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(entry)
        self._answer({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._answer({"error": "checksum"}, 400)
        self.hub.stored[oid] = body
        self._answer({})

    # -- xet -------------------------------------------------------------------------------------------------------

    def xet_token(self, body: bytes, repo: str) -> None:
        expires = int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": self.hub.url,
            "X-Xet-Access-Token": "xet",
            "X-Xet-Token-Expiration": str(expires),
        }
        self._answer({"casUrl": self.hub.url, "accessToken": "xet", "exp": expires}, headers=headers)

    def xorb(self, body: bytes, key: str) -> None:
        new = key not in self.hub.xorbs
        self.hub.xorbs[key] = len(body)
        self._answer({"was_inserted": new})

    def shard(self, body: bytes) -> None:
        self._answer({"result": 1})


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_ROUTES = (
    ("POST", "/api/repos/create", _Handler.create),
    ("GET", f"/api/models/{_REPO}", _Handler.info),
    ("GET", f"/api/models/{_REPO}/revision/[^/]+", _Handler.info),
    ("GET", f"/api/models/{_REPO}/tree/[^/]+", _Handler.tree),
    *((verb, rf"/{_REPO}/resolve/[^/]+/(?P<name>.+)", _Handler.resolve) for verb in ("HEAD", "GET")),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"/api/models/{_REPO}/preupload/main", _Handler.preupload),
    ("POST", f"/api/models/{_REPO}/commit/main", _Handler.commit),
    ("GET", f"/api/models/{_REPO}/xet-write-token/main", _Handler.xet_token),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.store),
    ("POST", r"/v1/xorbs/(?P<key>.+)", _Handler.xorb),
    ("POST", "/v1/shards", _Handler.shard),
)
