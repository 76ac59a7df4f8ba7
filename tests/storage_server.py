"""A local server that answers as Google Cloud Storage's JSON API does, as far as gcsfs reads: a folder is a bucket."""

import contextlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """Lists, describes and reads objects; `root` holds a folder for each bucket."""

    root: Path
    requests: list[str]

    def log_message(self, *arguments):
        """Print nothing."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        self.requests.append(f"{self.path} {self.headers.get('Range', '')}")
        bucket, _, name = url.path.split("/b/", 1)[1].partition("/o")
        name = urllib.parse.unquote(name.lstrip("/"))
        if not name:
            self._answer({"items": [self._about(bucket, path) for path in self._found(bucket, query)], "prefixes": []})
        elif not (self.root / bucket / name).is_file():
            self._send(404, b'{"error": {"code": 404, "message": "Not Found"}}')
        elif query.get("alt") == "media":
            self._content((self.root / bucket / name).read_bytes())
        else:
            self._answer(self._about(bucket, self.root / bucket / name))

    def _found(self, bucket: str, query: dict[str, str]) -> list[Path]:
        folder = self.root / bucket
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return [path for path in files if str(path.relative_to(folder)).startswith(query.get("prefix", ""))]

    def _about(self, bucket: str, path: Path) -> dict[str, str]:
        name = str(path.relative_to(self.root / bucket))
        about = {"kind": "storage#object", "name": name, "bucket": bucket, "size": str(path.stat().st_size)}
        return about | {"id": f"{bucket}/{name}/1", "generation": "1", "updated": "2026-11-01T00:00:00.000Z"}

    def _content(self, content: bytes) -> None:
        span = self.headers.get("Range")
        if not span:
            self._send(200, content)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        end = int(last) + 1 if last else len(content)
        self._send(206, content[int(first) : end], f"bytes {first}-{min(end, len(content)) - 1}/{len(content)}")

    def _answer(self, value: object) -> None:
        self._send(200, json.dumps(value).encode())

    def _send(self, code: int, content: bytes, span: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serve(root: Path, monkeypatch) -> Iterator[list[str]]:
    """Serve the buckets in `root`, and direct gcsfs to the server; yields the list of requests."""
    from genre_jax.data import bucket

    handler = type("Rooted", (Handler,), {"root": root, "requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    bucket._file_system.cache_clear()
    try:
        yield handler.requests
    finally:
        server.shutdown()
        server.server_close()
        bucket._file_system.cache_clear()
