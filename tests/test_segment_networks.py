"""Slid networks give the frames of the whole recording, and of windows with their true left context."""

import jax
import numpy as np
import pytest
import segment_runs
from segment_runs import LABELS, RATE, signal

from genre_jax import forward, metrics, models
from genre_jax.console import UserError
from genre_jax.prepare import audio
from genre_jax.segment import networks
from genre_jax.segment.slider import Options, Slider
from genre_jax.weights import pretrained

CONFIGS = {
    "slim": "swishnet.py",
    "wide": "swishnet.py:wide",
    "snn": "swishnet.py:snn",
    "gmm": "gmm.py",
    "standardised": "swishnet.py:demo",
    "mobilenet": "swishnet.py:teacher",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function of a name in CONFIGS → the file of such a network, which is written once."""
    folder = tmp_path_factory.mktemp("networks")

    def file(name: str):
        path = folder / f"{name}.safetensors"
        if not path.exists():
            gain = 1.0 if name in ("gmm", "mobilenet") else 2.0
            extra = {"model__components": 4} if name == "gmm" else {}
            segment_runs.write(path, CONFIGS[name], gain=gain, **extra)
        return path

    return file


def slid(network, wave: np.ndarray, sizes: list[int], options: Options | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and silence of all frames."""
    slider = Slider(network, options or Options())
    rows = [slider.push(block) for block in segment_runs.split(wave, sizes)]
    rows.append(slider.finish())
    assert [row.first for row in rows] == np.cumsum([0, *(len(row.silent) for row in rows[:-1])]).tolist()
    return np.concatenate([row.probabilities for row in rows]), np.concatenate([row.silent for row in rows])


RAW = Options(lookahead=0.0, median=0)
BLOCK = 333  # frames: several blocks make a recording


# ---------------------------------------------------------------- the context of a network


@pytest.mark.parametrize("name", ["swishnet_slim", "swishnet_wide"])
def test_receptive_field_is_202_frames_as_the_gradient_says(name):
    model = models.build(name, num_classes=3, readout="frames")
    x = jax.random.normal(jax.random.key(1), (1, 300, 20))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)[1]["frame_logits"][0, 250].sum()))(x)
    seen = np.flatnonzero(np.abs(gradient[0]).sum(-1))
    assert seen[-1] == 250 and 1 + 250 - seen[0] == 202 == 1 + model.left_context


@pytest.mark.parametrize("name", ["snn", "gmm"])
def test_framewise_networks_see_one_frame(name):
    model = models.build(name, num_classes=3, **({"components": 4} if name == "gmm" else {}))
    x = jax.random.normal(jax.random.key(1), (1, 9, 60))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: model.apply(variables, x)[1]["frame_logits"][0, 5].sum()))(x)
    assert np.flatnonzero(np.abs(gradient[0]).sum(-1)).tolist() == [5] and model.left_context == 0


# ---------------------------------------------------------------- slid = windows = whole


@pytest.mark.parametrize("name", ["slim", "wide", "standardised"])
def test_slid_frames_are_those_of_windows_with_their_true_left_context(files, name):
    # One frame more than the receptive field: pre-emphasis treats the first sample of a window as the first of a recording.
    context = 203
    wave = signal(8.0)
    network = networks.SlidNetwork(pretrained.load_trained(files(name)), BLOCK)
    found, _ = slid(network, wave, [len(wave)], RAW)
    pcm, ends = audio.to_pcm(wave, 1.0), np.arange(context, len(found) - 2, 23)
    starts = (ends + 1 - context) * 160
    windows = np.stack([pcm[start : start + (context - 1) * 160 + 400] for start in starts])
    classify = networks.classifier(network)
    wanted = metrics.softmax(classify(windows))
    np.testing.assert_allclose(found[ends], wanted, rtol=0, atol=1e-5)
    assert wanted.std(0).min() > 1e-2
    # Frames that lack half of the context are others: the equality says something.
    short = metrics.softmax(classify(windows[:, 100 * 160 :]))
    assert np.abs(short - wanted).max() > 1e-3


def of_the_whole(file, wave: np.ndarray) -> np.ndarray:
    """Probabilities of the frames of a recording, whose last frame is completed with zeros, in one call."""
    trained = pretrained.load_trained(file)
    network = forward.build(networks.with_readout_of_frames(trained.config), len(LABELS))
    pcm = audio.to_pcm(np.pad(wave, (0, max(400 - len(wave), (80 - len(wave)) % 160))), 1.0)[None]
    _, intermediates = jax.jit(network)(trained.variables, {"audio": pcm})
    return metrics.softmax(np.asarray(intermediates["frame_logits"][0]))


@pytest.mark.parametrize("name", ["slim", "standardised", "snn", "gmm"])
def test_slid_frames_are_those_of_the_whole_recording_for_any_blocks(files, name):
    wave = signal(8.0)[: 8 * RATE + 77]
    wanted, trained = of_the_whole(files(name), wave), pretrained.load_trained(files(name))
    assert wanted.std(0).max() > 1e-2
    for block in (BLOCK, networks.LIVE_BLOCK):
        of_block = networks.SlidNetwork(trained, block)
        assert of_block.frames < len(wanted)  # several calls
        for sizes in ([len(wave)], [1_600, 1, 333]):
            found, _ = slid(of_block, wave, sizes, RAW)
            # Programs of different shapes round differently, and the steep random weights of two networks enlarge this.
            np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-5 if name in ("snn", "gmm") else 1e-5)


@pytest.mark.parametrize("count", [1, 400, 401, 5_000])
def test_short_recordings_are_those_of_the_whole(files, count):
    wave, trained = signal(8.0)[:count], pretrained.load_trained(files("slim"))
    wanted = of_the_whole(files("slim"), wave)
    for block in (BLOCK, networks.LIVE_BLOCK):
        found, silent = slid(networks.SlidNetwork(trained, block), wave, [count], RAW)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        assert len(silent) == len(wanted)


def test_deltas_need_nine_frames(files):
    network = networks.load(files("snn"))
    assert len(slid(network, signal(8.0)[: 400 + 8 * 160], [160], RAW)[0]) == 9
    with pytest.raises(UserError, match="deltas need 9 frames of 0.01 s, and it has 8"):
        slid(network, signal(8.0)[: 400 + 7 * 160], [160], RAW)


# ---------------------------------------------------------------- live = files


@pytest.mark.parametrize("conditioning", [[], ["remove_silence", "equalise_loudness"]])
def test_a_live_stream_decides_as_for_a_file_and_within_two_seconds(tmp_path, conditioning):
    path = segment_runs.write(tmp_path / "x.safetensors", data__conditioning=conditioning)
    wave = signal(8.0)
    wanted, silent = slid(networks.SlidNetwork(pretrained.load_trained(path), BLOCK), wave, [len(wave)])
    assert silent.sum() >= 15 and wanted.std(0).max() > 1e-3
    for sizes in ([160], [4_000, 3, 1_111]):
        found, quiet = slid(networks.load(path, live=True), wave, sizes)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(quiet, silent)
    slider = Slider(networks.load(path, live=True), Options())
    done = 0
    for number, block in enumerate(segment_runs.split(wave, [160])):
        done += len(slider.push(block).silent)
        heard = (number + 1) * 0.01
        # All frames that began 2 s ago, or earlier, are decided; and so are those that began `delay` ago.
        assert done >= (heard - slider.delay) / 0.01 - 2
    assert done > 600 and slider.delay <= 2.0 - 0.02


# ---------------------------------------------------------------- which networks are slid, and what is refused


def test_networks_that_need_the_whole_clip_are_not_slid(tmp_path):
    changes = {
        "a statistic of the clip": {"frontend__scale": "z_score"},
        "loudness over the clip": {"frontend__conditioning": ["equalise_loudness"]},
        "the largest sample of the clip": {"augment__gain_cap": 0.7},
    }
    assert isinstance(networks.load(segment_runs.write(tmp_path / "slid.safetensors")), networks.SlidNetwork)
    for name, change in changes.items():
        path = segment_runs.write(tmp_path / "x.safetensors", **change)
        assert isinstance(networks.load(path), networks.WindowNetwork), name


def test_several_labels_a_clip_are_refused(tmp_path):
    path = segment_runs.write(tmp_path / "x.safetensors", loss__name="sigmoid")
    with pytest.raises(UserError, match="predicts several labels at once, and a segment has one"):
        networks.load(path)


def test_options_out_of_range_are_refused(files):
    with pytest.raises(UserError, match=r"--hop must be a positive number of seconds, and was given 0$"):
        networks.load(files("mobilenet"), hop=0.0)
    with pytest.raises(UserError, match=r"--lookahead must be at most 2.015 s, the length of the windows, and was given 3$"):
        networks.load(files("mobilenet"), lookahead=3.0)
    for options in (Options(median=-1), Options(lookahead=-0.1), Options(least_silence=-1)):
        with pytest.raises(UserError, match="must be 0 or more"):
            Slider(networks.load(files("slim")), options)


def test_samples_and_logits_that_are_not_finite_are_refused(files, tmp_path):
    slider = Slider(networks.load(files("slim")), Options())
    with pytest.raises(UserError, match="samples that are not finite"):
        slider.push(np.array([0, np.nan], np.float32))
    with pytest.raises(UserError, match="holds no samples"):
        slider.finish()
    trained = pretrained.load_trained(files("slim"))
    trained.variables["params"]["fc"]["bias"] = np.full(3, np.inf, np.float32)
    with pytest.raises(UserError, match="the network computes NaN or infinity"):
        slid(networks.SlidNetwork(trained, 100), signal(8.0), [16_000], RAW)
