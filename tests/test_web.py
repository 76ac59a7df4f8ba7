"""The static folder of the page, its npm packages, its songs, and the server `genre_jax.serve`; without a browser."""

import dataclasses
import hashlib
import http.client
import io
import json
import re
import shutil
import signal
import socket
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import small_onnx
import soundfile
from conftest import ROOT, finish, run_module

import genre_jax
from genre_jax import serve
from genre_jax.console import UserError
from genre_jax.recommend import build
from genre_jax.recommend.index import Index, Network
from genre_jax.recommend.neighbours import Neighbours
from genre_jax.web import folder, npm, songs

pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra export)")
RUNTIME = {Path(path).name: path.encode() for package in npm.PACKAGES.values() for path in package.files}
OUTSIDE = re.compile(r"""(?:src|href)="(?:/|http)|(?:from|import\()\s*"(?:/|http)""")


@pytest.fixture
def runtime(monkeypatch):
    """Let the page be written with a runtime that cannot run, without npm."""
    monkeypatch.setattr(npm, "runtime", lambda folder=None: dict(RUNTIME))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_onnx.write(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="module")
def index(model, tmp_path_factory) -> Path:
    """An index of five songs in two folders."""
    rng, music = np.random.default_rng(0), tmp_path_factory.mktemp("music")
    tagger, paths = genre_jax.load(str(model)), []
    for number in range(5):
        paths.append(music / ("even" if number % 2 == 0 else "odd") / f"{number}.wav")
        paths[-1].parent.mkdir(exist_ok=True)
        noise = np.convolve(rng.standard_normal(20_000), rng.standard_normal(30)) / 50
        soundfile.write(paths[-1], noise, 16_000)
    found = Index(music / "index", Network.of(tagger, "runs/small"))
    build.extend(found, tagger, [str(path) for path in paths])
    return found.folder


# ---- The folder --------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_page_and_names_no_other_place(model, runtime, tmp_path):
    folder.write(model, tmp_path / "page")
    names = {path.name for path in folder.PAGE.iterdir()} | {"model.onnx", "model.json", "LICENCES.txt", "runtime"}
    assert {path.name for path in (tmp_path / "page").iterdir()} == names
    assert {path.name for path in (tmp_path / "page/runtime").iterdir()} == RUNTIME.keys() - {"LICENSE"}
    assert (tmp_path / "page/model.onnx").read_bytes() == model.read_bytes()
    described = json.loads((tmp_path / "page/model.json").read_text())
    assert described["labels"] == list(small_onnx.LABELS) and described["similar"] is None
    licences = (tmp_path / "page/LICENCES.txt").read_text()
    assert all(text in licences for text in ("The network small", "a test", "Apache", "Copyright (c) Microsoft", "LICENSE"))
    for path in folder.PAGE.iterdir():
        assert not OUTSIDE.search(path.read_text()), path
        assert "innerHTML" not in path.read_text() and "style=" not in path.read_text()


def test_the_scripts_import_files_of_the_folder(model, runtime, tmp_path):
    folder.write(model, tmp_path)
    imported = {
        name for path in tmp_path.glob("*.js") for name in re.findall(r'(?:from |import\(|URL\()"(.*?)"', path.read_text())
    }
    assert {"./audio.js", "./card.js", "worker.js", "recorder.js", "./runtime/ort.wasm.min.mjs"} <= imported
    assert [name for name in imported if name != "similar" and not (tmp_path / name).exists()] == []


def test_the_colours_are_those_of_the_report():
    variable = re.compile(r"(--[\w]+): (#\w+);")
    report = (ROOT / "genre_jax/report/style.css.j2").read_text().split("* {")[0]
    page = (folder.PAGE / "style.css").read_text().split("* {")[0]
    assert len(variable.findall(page)) == 16
    assert set(variable.findall(page)) <= set(variable.findall(report))


def test_a_page_is_replaced_and_other_files_are_not(model, index, runtime, tmp_path):
    folder.write(model, tmp_path / "page", index=index)
    assert json.loads((tmp_path / "page/model.json").read_text())["similar"] == "table"
    folder.write(model, tmp_path / "page")
    assert not list((tmp_path / "page").glob("index.[jb]*"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"other holds other files: choose a new or empty folder"):
        folder.write(model, tmp_path / "other")


def test_networks_that_the_page_cannot_run_are_refused(runtime, tmp_path):
    conditioned = small_onnx.write(tmp_path / "a.onnx", conditioning=["silence_mask"])
    with pytest.raises(UserError, match=r"cannot run small, .*data.conditioning=silence_mask.*: use genre-jax tag"):
        folder.write(conditioned, tmp_path / "page")
    (tmp_path / "b.onnx").write_bytes(b"no protobuf")
    with pytest.raises(UserError, match=r"b.onnx is damaged, or was not written by genre_jax.export"):
        folder.write(tmp_path / "b.onnx", tmp_path / "page")
    with pytest.raises(UserError, match=r"c.onnx does not exist"):
        folder.write(tmp_path / "c.onnx", tmp_path / "page")
    with pytest.raises(UserError, match=r"runs ONNX files, and .*d.tflite has another ending"):
        folder.write(tmp_path / "d.tflite", tmp_path / "page")
    assert not (tmp_path / "page").exists()


# ---- Songs of an index -------------------------------------------------------------------------------------------------


def test_the_table_gives_the_neighbours_of_the_index(model, index, runtime, tmp_path):
    folder.write(model, tmp_path, index=index)
    passport = json.loads((tmp_path / "index.json").read_text())
    content = (tmp_path / "index.bin").read_bytes()
    size = passport["dimensions"]
    mean, units = np.frombuffer(content[: 4 * size], "<f4"), np.frombuffer(content[4 * size :], "<f2").reshape(-1, size)
    vectors = Index.open(index).vectors()
    query = vectors[2] + 0.1 * np.random.default_rng(1).standard_normal(size).astype(np.float32)
    direction = (query - mean) / np.linalg.norm(query - mean)
    order, cosines = Neighbours(vectors).nearest(query, 5)
    np.testing.assert_allclose((units.astype(np.float32) @ direction)[order], cosines, atol=2e-3)
    assert [song["name"] for song in passport["songs"]] == [
        song.path.partition("music0/")[2] for song in Index.open(index).songs()
    ]
    assert str(index.parent) not in json.dumps(passport)
    assert all(len(song["tags"]) == 3 for song in passport["songs"])


def test_an_index_of_another_network_and_a_large_one_are_refused(model, index, runtime, tmp_path, monkeypatch):
    other = small_onnx.write(tmp_path / "other.onnx", sample_rate=8000)
    with pytest.raises(UserError, match=r"^small is not the network of the index .*: use --workdir=runs/small"):
        folder.write(other, tmp_path / "page", index=index)
    monkeypatch.setattr(songs, "MOST", 4)
    with pytest.raises(UserError, match=r"has 5 songs, and a page holds at most 4: python -m genre_jax.serve"):
        folder.write(model, tmp_path / "page", index=index)
    with pytest.raises(UserError, match=r"holds no index"):
        folder.write(model, tmp_path / "page", index=tmp_path)
    assert not (tmp_path / "page").exists()


# ---- npm ---------------------------------------------------------------------------------------------------------------


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as target:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def npm_of(monkeypatch, tmp_path):
    """A function that puts a program `npm` into the path, and another cache in the place of the user's; it counts its calls."""
    monkeypatch.setenv("GENRE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    files = {"a.js": b"let a;", "more/b.js": b"let b;"}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(npm, "PACKAGES", {"thing": npm.Package("1.2.3", 0.1, digests)})

    def make(script: str, content: dict[str, bytes] = files) -> Path:
        (tmp_path / "bin").mkdir(exist_ok=True)
        packed = archive(tmp_path / "packed.tgz", content)
        program = tmp_path / "bin/npm"
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script.format(packed=packed)}\n')
        program.chmod(0o755)
        return tmp_path / "calls"

    return make


def test_packages_are_fetched_once(npm_of, capsys, tmp_path):
    calls = npm_of("cp {packed} thing-1.2.3.tgz")
    assert npm.runtime() == {"a.js": b"let a;", "b.js": b"let b;"} == npm.runtime()
    assert calls.read_text() == "pack thing@1.2.3 --ignore-scripts --loglevel=error\n"
    assert capsys.readouterr().err == "downloading thing 1.2.3 (0.1 MB) with npm; this happens once\n"
    (tmp_path / "cache/thing-1.2.3.tgz").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"thing-1.2.3.tgz is not the package thing .*: remove .*thing-1.2.3.tgz, and run"):
        npm.runtime()


def test_a_download_that_fails_says_what_to_do(npm_of, monkeypatch):
    npm_of('echo "npm error code E404" >&2; exit 1')
    with pytest.raises(UserError, match=r"npm could not download thing@1.2.3 \(npm error code E404\): .* as --runtime$"):
        npm.runtime()
    npm_of("cp {packed} thing-1.2.3.tgz", {"a.js": b"evil", "more/b.js": b"let b;"})
    with pytest.raises(UserError, match=r"a.js of thing has sha256 \w+, and version 1.2.3 has \w+: a mirror serves another"):
        npm.runtime()
    npm_of("cp {packed} thing-1.2.3.tgz", {"a.js": b"let a;"})
    with pytest.raises(UserError, match=r"is not the package thing"):
        npm.runtime()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs the package thing, and npm is not installed: install Node.js, or run npm install"
    ):
        npm.runtime()


def test_unpacked_packages_are_read_and_checked(npm_of, tmp_path):
    for name, content in {"a.js": b"let a;", "more/b.js": b"let b;"}.items():
        path = tmp_path / "node_modules/thing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert npm.runtime(tmp_path / "node_modules") == {"a.js": b"let a;", "b.js": b"let b;"}
    path.write_bytes(b"let b = 2;")
    with pytest.raises(UserError, match=r"more/b.js of thing has sha256 .* --ignore-scripts, and give its node_modules"):
        npm.runtime(tmp_path / "node_modules")
    path.unlink()
    with pytest.raises(UserError, match=r"more/b.js is missing: make the folder of --runtime by npm install"):
        npm.runtime(tmp_path / "node_modules")


# ---- The server --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Client:
    port: int

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host="Host" in headers)
        if body is not None:
            headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        answer.content = answer.read()
        connection.close()
        return answer

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def site(model, runtime, tmp_path) -> Path:
    folder.write(model, tmp_path / "site")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "site/link.txt").symlink_to(tmp_path / "secret.txt")
    return tmp_path / "site"


@pytest.fixture
def client(site, index):
    with serve.serving(site, index) as server:
        assert server.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Client(server.server_address[1])
        server.shutdown()
        thread.join()


def test_files_of_the_folder_are_served_and_no_others(client, site):
    for path, kind in {
        "/": "text/html; charset=utf-8", "/app.js?v=1": "text/javascript; charset=utf-8", "/style.css": "text/css; charset=utf-8",
        "/runtime/ort-wasm-simd-threaded.wasm": "application/wasm", "/runtime/ort.wasm.min.mjs": "text/javascript; charset=utf-8",
        "/model.onnx": "application/octet-stream",
    }.items():  # fmt: skip
        answer = client.ask("GET", path)
        file = path.partition("?")[0].lstrip("/") or "index.html"
        assert answer.status == 200 and answer.headers["Content-Type"] == kind
        assert answer.content == (site / file).read_bytes()
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "default-src 'none'" in client.ask("GET", "/worker.js").headers["Content-Security-Policy"]
    assert client.ask("HEAD", "/app.js").content == b""
    for path in ("/runtime", "/runtime/", "/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "//etc/passwd", "/similar"):
        answer = client.ask("GET", path)
        assert (answer.status, answer.content) == (404, b"Not Found\n"), path


def test_other_names_of_the_address_get_nothing(client):
    for name in ("evil.example", f"evil.example:{client.port}", "127.0.0.1", f"127.0.0.1:{client.port + 1}"):
        assert client.ask("GET", "/", Host=name).status == 403
    assert client.ask("GET", "/", Host=f"localhost:{client.port}").status == 200


def test_similar_songs_come_from_the_index(client, index):
    vectors = Index.open(index).vectors()
    body = json.dumps({"embedding": vectors[3].tolist(), "k": 2}).encode()
    answer = client.ask("POST", "/similar", body, Origin=client.origin)
    order, cosines = Neighbours(vectors).nearest(vectors[3], 2)
    found = json.loads(answer.content)["similar"]
    assert [song["name"] for song in found] == [Index.open(index).songs()[n].path.partition("music0/")[2] for n in order]
    assert [song["similarity"] for song in found] == [round(float(cosine), 4) for cosine in cosines]
    assert json.loads(client.ask("GET", "/model.json").content)["similar"] == "server"


def test_requests_that_are_not_of_the_page_are_refused(client):
    good = json.dumps({"embedding": [0.0] * small_onnx.DIMENSIONS}).encode()
    post = lambda body, path="/similar", **headers: client.ask("POST", path, body, **headers).status  # noqa: E731
    assert post(good, Origin=client.origin) == 200
    assert post(good) == post(good, Origin="https://evil.example") == post(good, Origin="null") == 403
    assert post(good, Origin=client.origin, Host="evil.example") == 403
    assert post(good, "/other", Origin=client.origin) == 404
    assert post(b"", Origin=client.origin, **{"Content-Length": str(serve.LARGEST + 1)}) == 413
    assert post(b"", Origin=client.origin, **{"Content-Length": "9" * 5000}) == 413
    assert post(b"", Origin=client.origin, **{"Content-Length": "-1"}) == 411
    for body in (b"no", b"[]", b"[" * 100_000, b'{"embedding": [1]}', good.replace(b"0.0", b"NaN"), good[:-1] + b', "k": 101}'):
        assert post(body, Origin=client.origin) == 400, body[:50]


def test_folders_and_ports_that_cannot_be_served_are_refused(site, tmp_path, model):
    with (
        pytest.raises(UserError, match=r"holds no page: make it by python -m genre_jax.export --format=web"),
        serve.serving(tmp_path),
    ):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=rf"the port {port} cannot be used .*: choose another --port"),
            serve.serving(site, port=port),
        ):
            pass


def test_the_command_serves_until_ctrl_c(site):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would hand down that it is ignored
    process = run_module("genre_jax.serve", f"--workdir={site}", "--noopen")
    signal.signal(signal.SIGINT, before)
    line = process.stdout.readline()
    found = re.match(r"the page is at http://127.0.0.1:(\d+)/ \(for this machine only\)", line)
    assert found, line + process.stderr.read()
    assert Client(int(found[1])).ask("GET", "/").status == 200
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert (out, err) == ("the server has ended\n", "")
