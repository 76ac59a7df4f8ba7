"""A local server that stands for the Hugging Face Hub, as far as huggingface_hub creates, writes, lists and reads repositories."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

COMMIT = "1" * 40
TOKEN = "hf_test"


class Handler(http.server.BaseHTTPRequestHandler):
    """Repositories are folders below `root`, OWNER/NAME; `private` holds the names of the private ones."""

    protocol_version = "HTTP/1.1"
    root: Path
    private: set[str]
    requests: list[str]

    def log_message(self, *arguments):
        """Print nothing."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            file = self.root / match[1] / match[3]
            if file.is_file():
                content = file.read_bytes()
                self._send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound" if file.parent.exists() else "RepoNotFound"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/main(/.*)?", path):
            files = [file for file in sorted((self.root / match[1]).rglob("*")) if file.is_file()]
            names = [str(file.relative_to(self.root / match[1])) for file in files]
            self._answer([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            about = {"id": match[1], "private": match[1] in self.private, "sha": COMMIT, "siblings": [], "tags": []}
            self._answer(about, 200 if (self.root / match[1]).exists() else 404)
        else:
            self._send(404, b"")

    def do_POST(self):
        path = urllib.parse.urlsplit(self.path).path
        self.requests.append(f"POST {path}")
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid user token."}, 401)
        elif path == "/api/repos/create":
            self._create(json.loads(content))
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(content)["files"]
            ]
            self._answer({"files": files})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(self.root / match[1], [json.loads(line) for line in content.splitlines()])
            url = f"http://{self.headers['Host']}/{match[1]}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        else:
            self._send(404, b"")

    def _create(self, wish: dict) -> None:
        name = f"{wish['organization']}/{wish['name']}"
        there = (self.root / name).exists()
        if not there:
            (self.root / name).mkdir(parents=True)
            self.private.update({name} if wish.get("private") or wish.get("visibility") == "private" else ())
        url = f"http://{self.headers['Host']}/{name}"
        self._answer({"url": url} | ({"error": "You already created this model repo"} if there else {}), 409 if there else 200)

    def _commit(self, folder: Path, operations: list[dict]) -> None:
        for operation in sorted(operations, key=lambda operation: operation["key"] == "file"):  # deletions first
            path = folder / operation["value"].get("path", "")
            if operation["key"] == "deletedFile":
                path.unlink()
            elif operation["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(operation["value"]["content"]))

    def _answer(self, value: object, code: int = 200) -> None:
        self._send(code, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serve(root: Path, monkeypatch) -> Iterator[type[Handler]]:
    """Serve the repositories in `root` / hub, and direct huggingface_hub to the server; its cache is `root` / cache."""
    import huggingface_hub
    from huggingface_hub import constants

    handler = type("Rooted", (Handler,), {"root": root / "hub", "private": set(), "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(root / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield handler
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
