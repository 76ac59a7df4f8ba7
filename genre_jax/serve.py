"""Open the page in which a song tags itself: `python -m genre_jax.serve [--workdir=NETWORK] [--index=DIR] [--port=0]`.

--workdir takes what `genre_jax.load` takes, an ONNX file of `genre_jax.export`, or the folder of a page; without it, the
network of the index, or the published taggers. --index adds the most similar songs of an index of any size. The server answers
only to programs on this machine, and ends with Ctrl-C. Songs stay in the browser; the server gets the embedding of a song if
--index is set. The browser gets the headers that it needs to compute with several threads.
"""

import contextlib
import functools
import http
import json
import tempfile
import webbrowser
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import genre_jax
from genre_jax import console
from genre_jax.atomic import read_json
from genre_jax.console import UserError
from genre_jax.recommend.index import Index
from genre_jax.web import folder as pages
from genre_jax.web.songs import Songs

ADDRESS = "127.0.0.1"
LARGEST = 1 << 20  # bytes of a request
MOST = 100  # songs of an answer
_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".json": "application/json", ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml", ".wasm": "application/wasm",
}  # fmt: skip
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # these two let WebAssembly use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page has this policy in a meta element, which does not hold for its worker.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Handler(BaseHTTPRequestHandler):
    """Answers for the files of a folder, and for `POST /similar`."""

    server: ThreadingHTTPServer
    timeout = 60  # seconds after which a connection without a request ends
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, files: dict[str, Path], description: bytes, songs: Songs | None):
        """Answer a request.

        Args:
          arguments: those of the base class.
          files: path of the address → file.
          description: content of model.json, which says whether there are similar songs.
          songs: the songs that `POST /similar` searches; None: none.
        """
        self._files, self._description, self._songs = files, description, songs
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Send a file of the folder."""
        path = self.path.partition("?")[0]
        if not self._of_this_machine():
            self._refuse(http.HTTPStatus.FORBIDDEN)
        elif path == f"/{pages.DESCRIPTION}":
            self._send(self._description, ".json")
        elif path in self._files:
            self._send(self._files[path].read_bytes(), self._files[path].suffix)
        else:
            self._refuse(http.HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Send the songs nearest to the embedding in the body: `{"embedding": [numbers], "k": 10}`."""
        length = self.headers.get("Content-Length", "")
        if not self._of_this_machine() or self.headers.get("Origin") not in self._origins():
            self._refuse(http.HTTPStatus.FORBIDDEN)
        elif self.path != "/similar" or self._songs is None:
            self._refuse(http.HTTPStatus.NOT_FOUND)
        elif not (length.isascii() and length.isdigit()):
            self._refuse(http.HTTPStatus.LENGTH_REQUIRED)
        elif len(length) > len(str(LARGEST)) or int(length) > LARGEST:
            self._refuse(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            try:
                embedding, k = _question(self.rfile.read(int(length)), self._songs.dimensions)
            except (ValueError, TypeError, KeyError, RecursionError):
                self._refuse(http.HTTPStatus.BAD_REQUEST)
            else:
                self._send(json.dumps({"similar": self._songs.nearest(embedding, k)}).encode(), ".json")

    def _origins(self) -> list[str]:
        port = self.server.server_port
        return [f"http://{name}:{port}" for name in (ADDRESS, "localhost")]

    def _of_this_machine(self) -> bool:
        """Whether the browser asked for this address: a page of another name that leads here (DNS rebinding) gets nothing."""
        return f"http://{self.headers.get('Host')}" in self._origins()

    def _send(self, content: bytes, suffix: str, status: http.HTTPStatus = http.HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            if name != "Content-Security-Policy" or suffix != ".html":  # the page has its policy in itself
                self.send_header(name, value)
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: http.HTTPStatus) -> None:
        self.close_connection = True  # the body of the request was not read
        self._send(f"{status.phrase}\n".encode(), ".txt", status)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing: the page shows what fails."""


def _question(body: bytes, dimensions: int) -> tuple[np.ndarray, int]:
    """Returns embedding and number of songs of a request. Raises `ValueError`, `TypeError` or `KeyError` if it is malformed."""
    values = json.loads(body)
    embedding, k = np.array(values["embedding"], np.float32), values.get("k", 10)
    if embedding.shape != (dimensions,) or not np.isfinite(embedding).all() or type(k) is not int or not 0 < k <= MOST:
        raise ValueError(f"an embedding has {dimensions} finite numbers, and k is 1 to {MOST}")
    return embedding, k


@contextlib.contextmanager
def serving(folder: Path, index: Path | None = None, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Bind a server of a page to 127.0.0.1, and close it at the end of the block. `serve_forever` answers the requests.

    Args:
      folder: the folder that `web.folder.write` wrote.
      index: an index of songs, of any size; None: the page has the songs that it was exported with, if any.
      port: its port; 0: a free one. `server_port` of the server has it.

    Raises `UserError` if the folder holds no page, if the index does not fit its network, or if the port is taken.
    """
    if not (folder / pages.DESCRIPTION).is_file():
        raise UserError(f"{folder} holds no page: make it by python -m genre_jax.export --format=web --output={folder}")
    description = read_json(folder / pages.DESCRIPTION, dict)
    songs = None
    if index:
        model = str(folder / "model.onnx")
        songs = Songs(index, genre_jax.load(model), description["name"])
        description["similar"] = "server"
    root = folder.resolve()
    found = [path for path in root.rglob("*") if path.is_file() and path.resolve().is_relative_to(root)]
    files = {f"/{path.relative_to(root).as_posix()}": path for path in found}
    files["/"] = root / "index.html"
    handler = functools.partial(Handler, files=files, description=json.dumps(description).encode(), songs=songs)
    try:
        server = ThreadingHTTPServer((ADDRESS, port), handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"the port {port} cannot be used ({error}): choose another --port, or 0 for a free one") from error
    with server:
        yield server


def _page(workdir: str | None, index: Path | None, runtime: Path | None, folder: Path) -> Path:
    """Returns the folder of a page: `workdir` itself if it is one, otherwise `folder`, into which the network is exported."""
    if workdir and (Path(workdir) / pages.DESCRIPTION).is_file():
        return Path(workdir)
    pages.export(workdir or (Index.open(index).network.source if index else None), folder, runtime=runtime)
    return folder


def define_flags() -> None:
    """Define the flags of this command. Not at import, because `tag` has flags of the same names."""
    flags.DEFINE_string("workdir", None, "Trained run, published weights, ONNX file, or folder of a page; default: musicnn.")
    flags.DEFINE_string("index", None, "Folder of an index of songs: the page shows the most similar ones.")
    flags.DEFINE_string("runtime", None, "Folder with the npm packages of the page, such as node_modules; default: fetched.")
    flags.DEFINE_integer("port", 0, "Port of the server; 0: a free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_bool("open", True, "Open the page in the browser; --noopen only prints its address.")


def main(argv: list[str]) -> int:
    """Serve the page until Ctrl-C."""
    args = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}: a network is given as --workdir=NETWORK")
    index, runtime = (Path(value) if value else None for value in (args.index, args.runtime))
    with tempfile.TemporaryDirectory() as temporary:
        folder = _page(args.workdir, index, runtime, Path(temporary) / "page")
        with serving(folder, index, args.port) as server:
            url = f"http://{ADDRESS}:{server.server_port}/"
            console.say(f"the page is at {url} (for this machine only); Ctrl-C ends it")
            if args.open:
                webbrowser.open(url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.say("the server has ended")
    return 0


if __name__ == "__main__":
    define_flags()
    console.run(main, console.parse_flags)
