"""The page of `genre_jax.web` in a real browser, driven by Playwright: skipped without Playwright, a browser, or its npm packages."""

import base64
import contextlib
import csv
import functools
import http.server
import io
import json
import re
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import small_onnx
import soundfile
from conftest import ROOT

import genre_jax
from genre_jax import export, serve, tag
from genre_jax.console import UserError
from genre_jax.prepare import audio
from genre_jax.recommend import build
from genre_jax.recommend.index import Index, Network
from genre_jax.web import folder, npm

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra export)")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs the browser Chromium")
MUSIC = ROOT.parent / "shared" / "audio" / "music"
HOSTILE = "<img src=x onerror=alert(1)>.wav"
RATE = 16_000


@contextlib.contextmanager
def opened(context, server, below: str = "", ready: str = "html[data-ready]"):
    """Open the page of a server as a page of Playwright, with the addresses that it asked for, and what its console said."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    page = context.new_page()
    page.requested, page.complaints, page.origin = [], [], f"http://127.0.0.1:{server.server_address[1]}/{below}"
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(f"dialog {dialog.message}"))
    try:
        page.goto(page.origin)
        page.wait_for_selector(ready)
        yield page
    finally:
        page.close()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_onnx.write(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="module")
def site(model) -> Path:
    target = model.with_name("page")
    try:
        folder.write(model, target)
    except UserError as error:
        if "npm" not in str(error):
            raise
        pytest.skip(str(error))
    return target


@pytest.fixture(scope="module")
def context():
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = driver.chromium.launch(executable_path=BROWSER, args=options)
        context = browser.new_context(permissions=["microphone"], accept_downloads=True)
        context.set_default_timeout(30_000)
        yield context
        browser.close()


@pytest.fixture(scope="module")
def page(context, site):
    with serve.serving(site) as server, opened(context, server) as page:
        yield page


def wave(seconds: float, rate: int = RATE, seed: int = 0, channels: int = 1) -> np.ndarray:
    """Tones that change every half second, over noise: (samples, channels)."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    pitch = rng.uniform(100, 3000, int(2 * seconds) + 1)[(2 * time).astype(int)]
    tones = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return (tones[:, None] + 0.02 * rng.standard_normal((len(time), channels))).astype(np.float32)


def ended(page, number: int = -1):
    """Wait for the card `number` to be done, cancelled or failed, and return it."""
    page.wait_for_function("() => [...document.querySelectorAll('#songs .work')].every((work) => work.hidden)")
    cards = page.locator("#songs article")
    return cards.nth(number % cards.count())


def choose(page, *files: Path):
    """Choose files in an empty page, and return the card of the last one when all have ended."""
    if page.locator("#songs article").count():
        page.click("#clear")
    page.set_input_files("#files", list(files))
    return ended(page)


def drop(page, *files: Path):
    """Drop files on an empty page, and return the card of the last one when all have ended."""
    if page.locator("#songs article").count():
        page.click("#clear")
    contents = [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in files]
    page.evaluate(
        """(contents) => {
          const dataTransfer = new DataTransfer();
          for (const [name, content] of contents)
            dataTransfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
          document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
        }""",
        contents,
    )
    return ended(page)


def saved(page, button) -> str:
    """The content of the file that a button offers."""
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_text()


def result(page, card) -> dict:
    return json.loads(saved(page, card.locator(".json")))


def difference(found: dict, expected: dict) -> float:
    """The largest difference of two probabilities of the song or of a window; the windows must be the same."""
    assert [(w["start"], w["end"]) for w in found["windows"]] == [(w["start"], w["end"]) for w in expected["windows"]]
    assert found["seconds"] == expected["seconds"]
    pairs = [(found, expected), *zip(found["windows"], expected["windows"], strict=True)]
    assert all(a["labels"].keys() == b["labels"].keys() for a, b in pairs)
    return max(abs(a["labels"][label] - b["labels"][label]) for a, b in pairs for label in a["labels"])


def compare(page, card, model, path) -> float:
    return difference(result(page, card), tag.as_json(path.name, genre_jax.load(str(model)).tags(path)))


@pytest.mark.parametrize("form", ["wav", "ogg", "mp3", "flac"])
def test_a_dropped_song_at_the_rate_of_the_model_has_the_tags_of_python(page, model, tmp_path, form):
    path = tmp_path / f"song.{form}"
    soundfile.write(path, wave(4.3, seed=1), RATE, **({"format": "MP3"} if form == "mp3" else {}))
    card = drop(page, path)
    assert card.locator("h2").inner_text() == path.name
    assert compare(page, card, model, path) < 2e-3


@pytest.mark.parametrize(
    "rate, channels, form", [(44_100, 2, "wav"), (22_050, 1, "ogg"), (48_000, 2, "mp3"), (8_000, 1, "wav")]
)
def test_a_resampled_song_has_the_tags_of_python(page, model, tmp_path, rate, channels, form):
    path = tmp_path / f"song.{form}"
    soundfile.write(path, wave(3.1, rate, 2, channels), rate, **({"format": "MP3"} if form == "mp3" else {}))
    assert compare(page, choose(page, path), model, path) < 1e-2


@pytest.mark.skipif(not MUSIC.is_dir(), reason="needs ../shared/audio")
def test_a_real_song_has_the_tags_of_python(page, model, tmp_path):
    path = tmp_path / "fishing.ogg"
    shutil.copy(MUSIC / "karissa_hobbs_lets_go_fishin.ogg", path)
    assert compare(page, choose(page, path), model, path) < 1e-2


@pytest.mark.slow
@pytest.mark.skipif(not MUSIC.is_dir(), reason="needs ../shared/audio")
def test_the_published_network_has_the_tags_of_jax(context, tmp_path, published_weights):
    folder.write(export.write("musicnn", tmp_path / "musicnn.onnx").path, tmp_path / "page")
    song = audio.load(MUSIC / "brahms_hungarian_dance_5.ogg", 44_100, duration=20).samples
    paths = {RATE: tmp_path / "a.wav", 44_100: tmp_path / "b.ogg"}
    for rate, path in paths.items():
        soundfile.write(path, audio.resample(song, 44_100, rate), rate)
    tagger = genre_jax.load("musicnn")
    with serve.serving(tmp_path / "page") as server, opened(context, server) as page:
        for rate, path in paths.items():
            expected = tag.as_json(path.name, tagger.tags(path))
            assert difference(result(page, choose(page, path)), expected) < (2e-3 if rate == RATE else 1e-2)


def test_short_loud_and_exact_songs_have_the_windows_of_python(page, model, tmp_path):
    for name, samples in {"short": wave(0.3), "one": wave(1.0), "exact": wave(1.75), "loud": 3 * wave(2.0)}.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        card = choose(page, path)
        assert compare(page, card, model, path) < 1e-5
        note = card.locator(".note")
        assert note.is_visible() == (name == "short")
        assert name != "short" or note.inner_text() == "Shorter than a window of 1 s: the rest is zeros."


def coded(
    path: Path, rate: int, seconds: float = 0.5, layout: str = "stereo", codec: str | None = None, **options: str
) -> Path:
    """Write noise of quiet level in the format of the extension with FFmpeg."""
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream(codec or path.suffix[1:], rate=rate, layout=layout)
        frame = av.AudioFrame("s16", layout, round(seconds * rate))
        noise = np.random.default_rng(0).integers(-999, 999, frame.samples * len(frame.layout.channels), np.int16)
        frame.planes[0].update(noise.tobytes() + bytes(frame.planes[0].buffer_size - noise.nbytes))
        frame.sample_rate = rate
        for part in (frame, None):
            container.mux(stream.encode(part))
    return path


def test_the_header_tells_the_rate_of_a_file(page, tmp_path):
    soundfile.write(tmp_path / "a.ogg", wave(0.5, 22_050, channels=2), 22_050)
    files = {
        tmp_path / "a.ogg": [22_050, 2, None],
        coded(tmp_path / "a.wav", 8_000, codec="pcm_s24le"): [8_000, 2, 0.5],
        coded(tmp_path / "a.flac", 44_056, layout="mono"): [44_056, 1, 0.5],
        coded(tmp_path / "a.opus", 48_000, codec="libopus"): [48_000, 2, None],
        coded(tmp_path / "a.mp3", 24_000, codec="mp3", layout="mono"): [24_000, 1, None],
        coded(tmp_path / "b.mp3", 44_100, codec="mp3", id3v2_version="0"): [44_100, 2, None],
        coded(tmp_path / "a.m4a", 44_100, codec="aac"): [44_100, 2, None],
        coded(tmp_path / "a.aac", 32_000, layout="mono"): [32_000, 1, None],
        coded(tmp_path / "a.webm", 48_000, codec="libopus"): [None, None, None],
    }
    code = """async (contents) => {
      const { inspect } = await import("./audio.js");
      const found = contents.map((text) => inspect(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "a")));
      return (await Promise.all(found)).map(({ rate, channels, seconds }) => [rate ?? null, channels ?? null, seconds ?? null]);
    }"""
    found = page.evaluate(code, [base64.b64encode(path.read_bytes()).decode() for path in files])
    assert dict(zip(files, found, strict=True)) == files


def test_a_long_compressed_file_is_refused_before_it_is_decoded(page, tmp_path):
    ten = coded(tmp_path / "ten.mp3", 44_100, seconds=10, codec="mp3", write_xing="0", id3v2_version="0", b="32k")
    path = tmp_path / "long.mp3"
    path.write_bytes(300 * ten.read_bytes())
    message = choose(page, path).locator(".message").inner_text()
    assert re.match(r"The file is (49|5\d):\d\d long, and this page can decode at most 1.0 GB, which is 47:14 of", message)


def test_any_server_can_serve_the_folder_below_any_address(context, site, tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, wave(1.5), RATE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
        with opened(context, server, f"{site.name}/") as page:
            assert page.locator("#status").inner_text() == "The network is ready, with one thread."
            assert result(page, choose(page, path))["seconds"] == 1.5
            assert page.complaints == []
            assert all(url.startswith((page.origin, "blob:")) for url in page.requested)


@pytest.mark.parametrize("damaged", ["runtime/ort-wasm-simd-threaded.wasm", "model.onnx", "worker.js"])
def test_a_damaged_page_says_so_and_refuses_songs(context, site, tmp_path, damaged):
    shutil.copytree(site, tmp_path / "page")
    file = tmp_path / "page" / damaged
    file.write_bytes(file.read_bytes()[:1000]) if damaged == "model.onnx" else file.unlink()
    soundfile.write(tmp_path / "song.wav", wave(1.5), RATE)
    with serve.serving(tmp_path / "page") as server, opened(context, server, ready="#status.bad") as page:
        told = page.locator("#status").inner_text()
        card = choose(page, tmp_path / "song.wav")
        assert page.locator("#status").inner_text() == told and page.locator("#status.bad").count() == 1
        message = card.locator(".message").inner_text()
        assert message.startswith("The network cannot be loaded: ") and re.search(r"[^.]\.$", message)
        assert told == f"{message} Load the page again. If the error stays, a file of the page is missing or damaged."
        assert card.locator("h2").inner_text() == "song.wav"


def test_songs_chosen_before_the_network_fails_get_an_error(context, site, tmp_path):
    soundfile.write(tmp_path / "song.wav", wave(1.5), RATE)
    held = []
    context.route("**/model.onnx", lambda route: held.append(route))
    with serve.serving(site) as server, opened(context, server, ready="#drop") as page:
        page.set_input_files("#files", [tmp_path / "song.wav"])
        page.wait_for_function("() => document.getElementById('status').textContent.includes('as soon as it is ready')")
        while not held:
            page.wait_for_timeout(20)
        held[0].abort()
        page.wait_for_selector("#songs article")
        assert ended(page).locator(".message").inner_text().startswith("The network cannot be loaded: ")
    context.unroute("**/model.onnx")


def test_a_network_with_classes_is_described_so(context, site, tmp_path):
    shutil.copytree(site, tmp_path / "page")
    described = json.loads((tmp_path / "page/model.json").read_text())
    (tmp_path / "page/model.json").write_text(json.dumps(described | {"task": "single"}))
    soundfile.write(tmp_path / "song.wav", wave(1.5), RATE)
    with serve.serving(tmp_path / "page") as server, opened(context, server) as page:
        card = choose(page, tmp_path / "song.wav", tmp_path / "song.wav")
        assert page.locator("#about").inner_text().startswith("Network: small, with 12 classes. ")
        assert card.locator("summary").inner_text() == "All 12 classes"
        assert page.locator("#compared").inner_text() == "The strongest 5 classes of each song, over the whole song."


def test_print_is_light_and_has_the_scale_but_no_time_of_the_player(page, tmp_path):
    soundfile.write(tmp_path / "song.wav", wave(0.4), RATE)
    card = choose(page, tmp_path / "song.wav")
    card.locator("canvas[role=slider]").focus()
    bad = "getComputedStyle(document.documentElement).getPropertyValue('--bad')"
    weak = "document.querySelector('canvas[role=slider]').getContext('2d').getImageData(5, 300, 1, 1).data[0]"  # of the map
    page.emulate_media(color_scheme="light")
    light = page.evaluate(bad)
    page.emulate_media(color_scheme="dark")
    try:
        page.wait_for_function(f"() => {weak} < 128")
        page.evaluate(f"() => addEventListener('beforeprint', () => (window.printed = {weak}), {{ once: true }})")
        page.pdf()
        assert page.evaluate("window.printed") > 128 > page.evaluate(weak)
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate(bad) == light
        assert card.locator(".scale").is_visible() and not card.locator(".chosen-cell").is_visible()
        assert not card.locator(".time").is_visible()
    finally:
        page.emulate_media(media="null", color_scheme="null")


def test_songs_may_be_chosen_before_the_network_is_ready(context, site, tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, wave(1.5), RATE)
    held = []
    context.route("**/model.onnx", lambda route: held.append(route))
    with serve.serving(site) as server, opened(context, server, ready="#drop") as page:
        page.set_input_files("#files", [path])
        page.wait_for_function("() => document.getElementById('status').textContent.includes('as soon as it is ready')")
        while not held:
            page.wait_for_timeout(20)
        held[0].continue_()
        page.wait_for_selector("#songs article")
        assert result(page, ended(page))["seconds"] == 1.5
    context.unroute("**/model.onnx")


def test_resampling_is_as_exact_as_soxr(page):
    """The signal has nothing near the lower Nyquist frequency, where the two filters differ by design."""
    signal = np.fft.rfft(np.random.default_rng(0).standard_normal(44_100))
    signal[7000:] = 0
    wide = np.fft.irfft(signal, 44_100).astype(np.float32)
    code = """async ([wave, from, to]) => {
      const { resample } = await import("./audio.js");
      const steps = resample(Float32Array.from(wave), from, to);
      let step;
      do step = steps.next(); while (!step.done);
      return [...step.value];
    }"""
    exact = np.fft.irfft(signal[:8001], 16_000) * 16_000 / 44_100
    found = np.array(page.evaluate(code, [wide.tolist(), 44_100, RATE]))
    inner = slice(500, -500)  # the Fourier series is periodic, and the filter sees zeros outside
    ours, soxr = (np.abs(x - exact)[inner].max() for x in (found, audio.resample(wide, 44_100, RATE)))
    assert len(found) == RATE and ours < 1e-6 * np.abs(exact).max() and ours < soxr
    sine = np.sin(2 * np.pi * 8_100 / 44_100 * np.arange(22_050))
    assert np.abs(page.evaluate(code, [sine.tolist(), 44_100, RATE]))[500:-500].max() < 1e-5  # -100 dB


def test_csv_has_the_fields_of_tag(page, model, tmp_path):
    path = tmp_path / 'a "b", c.wav'
    soundfile.write(path, wave(2.2), RATE)
    rows = list(csv.reader(io.StringIO(saved(page, choose(page, path).locator(".csv")))))
    tags = genre_jax.load(str(model)).tags(path)
    assert rows[0] == ["file", "seconds", *tags.labels]
    assert rows[1][:2] == [path.name, str(round(tags.seconds, 3))]
    np.testing.assert_allclose([float(cell) for cell in rows[1][2:]], tags.probabilities.mean(0), atol=1e-5)
    choose(page, path, path)
    both = list(csv.reader(io.StringIO(saved(page, page.locator("#csv")))))
    assert both == [*rows, rows[1]]
    assert page.locator("#json").inner_text() == "All results as JSON lines"
    assert [json.loads(line)["file"] for line in saved(page, page.locator("#json")).splitlines()] == [path.name] * 2


def test_songs_that_cannot_be_tagged_are_told_in_a_sentence_and_the_next_is_tagged(page, tmp_path):
    good = wave(1.5)
    paths = {name: tmp_path / f"{name}.wav" for name in ("empty", "silent", "cancelled", "long", "corrupt")}
    paths["empty"].write_bytes(b"")
    soundfile.write(paths["silent"], 0 * good, RATE)
    soundfile.write(paths["cancelled"], np.hstack([good, -good]), RATE)
    paths["corrupt"].write_bytes(np.random.default_rng(0).bytes(3000))
    hours = 3 * 3600 * 44_100 * 4
    header = io.BytesIO()
    soundfile.write(header, np.zeros((1, 2)), 44_100, format="WAV")
    with open(paths["long"], "wb") as file:  # sparse: three hours of stereo
        file.write(header.getvalue()[:40] + hours.to_bytes(4, "little"))
        file.truncate(44 + hours)
    page.click("#clear") if page.locator("#songs article").count() else None
    # Playwright sends files of up to 50 MB through its connection, and larger ones by their paths.
    page.set_input_files("#files", [paths["long"]])
    page.set_input_files("#files", [paths[name] for name in ("empty", "silent", "cancelled", "corrupt")])
    last = tmp_path / HOSTILE
    soundfile.write(last, good, RATE)
    page.set_input_files("#files", [last])
    card = ended(page)
    messages = page.locator(".message").all_inner_texts()
    assert messages[:5] == [
        "The file is 3:00:00 long, and this page can decode at most 1.0 GB, which is 47:14 of this format: "
        "use genre-jax tag, which has no limit.",
        "The file has zero bytes.",
        "The mono mix is silent: no sample exceeds 0.0001 of full scale.",
        "The mono mix is silent, but the channels are not: they cancel each other.",
        "The file cannot be decoded: it is damaged, has no sound, or has a format that this browser does not know.",
    ]
    assert card.locator("h2").inner_text() == HOSTILE
    assert result(page, card)["file"] == HOSTILE
    assert page.locator("img").count() == 0


def test_results_are_shown_and_read_by_keyboard_and_pointer(page, model, tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, wave(5.2, seed=3), RATE)
    card = choose(page, path)
    tags = genre_jax.load(str(model)).tags(path)
    order = list(tags.overall())
    assert card.locator(".facts").inner_text() == f"0:05, {len(tags.starts)} windows of 1 s"
    assert card.locator(".tags span").all_inner_texts() == order[:10]
    largest = tags.probabilities[:, [tags.labels.index(label) for label in order[:10]]].max()
    hint = re.fullmatch(
        r"The strongest colour stands for ([\d.]+) %\. Point at a cell to read its value; click to move the player there\.",
        card.locator(".readout").inner_text(),
    )
    assert hint and abs(float(hint[1]) / 100 - largest) < 6e-3
    heat = card.locator("canvas[role=slider]")
    heat.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        heat.press(key)
    value = tags.probabilities[2, tags.labels.index(order[1])]
    read = card.locator(".readout").inner_text()
    assert read.startswith(f"0:02 to 0:03: {order[1]} ") and abs(float(read.split()[-2]) / 100 - value) < 6e-3
    assert heat.get_attribute("aria-valuetext") == read
    heat.press("Enter")
    assert card.locator(".time").inner_text() == "0:02 / 0:05"  # the player is there too: 1.5 s
    page.mouse.move(1, 1)
    assert card.locator(".readout").inner_text() == read  # it stays as long as the map has the focus
    box = heat.bounding_box()
    heat.hover(position={"x": 1, "y": 40})
    assert card.locator(".readout").inner_text().startswith(f"0:00 to 0:01: {order[1]} ")
    heat.click(position={"x": box["width"] * 0.77, "y": 5})
    assert card.locator(".time").inner_text() == "0:04 / 0:05"
    card.locator(".play").click()
    page.wait_for_selector("article.playing")
    card.locator(".play").click()
    page.wait_for_selector("article:not(.playing)")


def test_two_songs_are_compared(page, tmp_path):
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for seed, path in enumerate(paths):
        soundfile.write(path, wave(2.0, seed=seed), RATE)
    choose(page, paths[0])
    assert not page.locator("#comparison").is_visible()
    choose(page, *paths)
    table = page.locator("#comparison")
    assert table.locator("thead th").all_inner_texts() == ["", "a.wav", "b.wav"]
    assert table.locator("tbody tr").count() >= 5


def test_a_song_can_be_cancelled_and_removed(page, tmp_path):
    paths = [tmp_path / f"{name}.wav" for name in ("a", "b", "c")]
    for path in paths:
        soundfile.write(path, wave(40.0, 44_100), 44_100)
    page.click("#clear") if page.locator("#songs article").count() else None
    page.set_input_files("#files", paths)
    cards = page.locator("#songs article")
    cards.nth(1).locator(".cancel").click()
    cards.nth(0).locator(".cancel").click()
    cards.nth(2).locator(".remove").click()
    ended(page)
    assert [text.split()[0].rstrip(".") for text in page.locator(".message").all_inner_texts()] == ["Cancelled", "Cancelled"]


def test_a_recording_of_the_microphone_is_tagged(page):
    if page.locator("#songs article").count():
        page.click("#clear")
    page.click("#record")
    page.wait_for_function("() => document.getElementById('record').textContent.includes('0:02')")
    page.click("#record")
    found = result(page, ended(page))
    assert found["file"].startswith("recording ") and found["seconds"] > 1.4


def test_the_policy_is_strict_and_nothing_leaves_the_origin(page, tmp_path):
    path = tmp_path / "song.wav"
    soundfile.write(path, wave(1.5), RATE)
    choose(page, path)
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["connect-src"] == "'self'" and "unsafe-inline" not in policy and "http" not in policy and "*" not in policy
    blocked = """() => Promise.allSettled([
      fetch("https://example.org/"), new Promise((yes, no) => { const i = new Image(); i.onload = yes; i.onerror = no; i.src = "https://example.org/i.png"; })
    ]).then((all) => all.map((one) => one.status))"""
    assert page.complaints == []
    assert page.evaluate(blocked) == ["rejected", "rejected"]
    page.complaints.clear()
    outside = [url for url in page.requested if not url.startswith((page.origin, f"blob:{page.origin}"))]
    assert [url for url in outside if "example.org" not in url] == []
    assert any(url.endswith("model.onnx") for url in page.requested)


def test_the_page_shows_the_nearest_songs_of_an_index(context, model, site, tmp_path):
    songs = [tmp_path / "music" / f"{seed}.wav" for seed in range(8)]
    songs[0].parent.mkdir()
    for seed, song in enumerate(songs):
        soundfile.write(song, wave(2.5, seed=seed), RATE)
    tagger = genre_jax.load(str(model))
    index = Index(tmp_path / "index", Network.of(tagger, str(model)))
    build.extend(index, tagger, [str(song) for song in songs])
    runtime = tmp_path / "node_modules"
    for name, package in npm.PACKAGES.items():
        for path in package.files:
            source = site / "runtime" / Path(path).name
            (runtime / name / path).parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                shutil.copy(source, runtime / name / path)
    (runtime / "wavesurfer.js" / "LICENSE").write_bytes(npm.runtime()["LICENSE"])
    folder.write(model, tmp_path / "with_songs", index=index.folder, runtime=runtime)
    assert serve._page(str(model), None, runtime, tmp_path / "served") == tmp_path / "served"
    assert (tmp_path / "served/model.onnx").read_bytes() == model.read_bytes()
    lists = []
    for folder_, of_server in ((tmp_path / "with_songs", None), (site, index.folder)):
        with serve.serving(folder_, of_server) as server, opened(context, server) as page:
            card = choose(page, songs[3])
            lists.append(card.locator(".similar li").all_inner_texts())
            assert page.complaints == []
    assert lists[0] == lists[1] and len(lists[0]) == 8
    assert lists[0][0].startswith("3.wav similarity 1.00 · 0:03 · ")
