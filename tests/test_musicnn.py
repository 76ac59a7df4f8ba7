"""The networks of musicnn against the package's own code (tests/golden/make_musicnn.py), and the safety of its weights."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import safetensors

from genre_jax import frontends, models
from genre_jax.console import UserError
from genre_jax.weights import musicnn, pretrained

FOLDER = Path(__file__).parent / "golden"
PARTS = ".index", ".data-00000-of-00001"


@pytest.fixture(scope="module")
def made() -> dict:
    """The functions of the golden script that make its inputs."""
    script = (FOLDER / "make_musicnn.py").read_text()
    names = {"np": np, "Path": Path}
    start, end = script.index("FRAMES ="), script.index("def patches")
    exec(script[start:end], names)  # the rest needs the package
    return names


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "musicnn.npz") as file:
        return dict(file)


def run(name: str, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[str, ...]]:
    """Tags and features of the published weights, and their labels."""
    trained = pretrained.load_trained(name)
    network = models.build(trained.config.model.name, num_classes=50)
    logits, kept = network.apply({key: trained.variables[key] for key in ("params", "batch_stats")}, jnp.asarray(x))
    return 1 / (1 + np.exp(-np.asarray(logits))), kept, trained.labels


@pytest.mark.usefixtures("published_weights")
@pytest.mark.parametrize("name", musicnn.NAMES)
def test_outputs_are_those_of_the_package(name, made, golden):
    """On log-mels: tags, embedding, pools, timbral and temporal features, and all layers, to 1e-5 of their largest number."""
    tags, kept, labels = run(name, made["log_mels"]())
    theirs = musicnn.NAMES[name]
    assert labels == tuple(golden[f"{theirs}/labels"])
    assert np.abs(tags - golden[f"{theirs}/tags"]).max() <= 1e-5
    compared = 0
    for key in set(kept) | ({"timbral", "temporal"} if "vgg" not in name else set()):
        if f"{theirs}/{key}" in golden:
            ours, expected = np.squeeze(np.asarray(kept[key])), golden[f"{theirs}/{key}"]
            if key in ("timbral", "temporal", "cnn1", "cnn2", "cnn3", "pool1", "pool2", "pool3"):
                ours = ours[:, made["FRAMES"]]
            if key in ("pool1", "pool2", "pool3"):
                ours = ours[:, :, ::7]
            assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max(), key
            compared += 1
    assert compared == (5 if "vgg" in name else 8)


@pytest.mark.usefixtures("published_weights")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "mtt" in name else []) for name in musicnn.NAMES]
)
def test_tags_of_a_waveform_are_those_of_the_package(name, made, golden):
    """Our windows begin a frame later, because they have no padding: 256 zeros before the song give the package's patches."""
    wave = np.concatenate([np.zeros(256, np.float32), made["waveform"]()])
    cuts = np.stack([wave[at : at + 188 * 256] for at in (0, 187 * 256)])
    tags, _, _ = run(name, frontends.build("musicnn_log_mel", 16_000).apply({}, cuts))
    assert np.abs(tags - golden[f"{musicnn.NAMES[name]}/waveform"]).max() <= 1e-5


def test_front_end_is_librosas_in_float32_and_the_packages_float16_overflows(made):
    """The package rounds the mel spectrogram to float16: loud music becomes infinite, and its tags are wrong."""
    wave = made["waveform"]()
    loud = wave / np.abs(wave).max()
    mel = librosa.feature.melspectrogram(y=loud, sr=16_000, hop_length=256, n_fft=512, n_mels=96, center=False).T
    ours = np.asarray(frontends.build("musicnn_log_mel", 16_000).apply({}, loud[None])[0])
    np.testing.assert_allclose(ours, np.log10(10_000 * mel.astype(np.float64) + 1), atol=1e-5)
    with np.errstate(over="ignore"):
        theirs = np.log10(10_000 * mel.astype(np.float16) + 1)
    assert np.isinf(theirs).any()
    assert np.isfinite(ours).all()


@pytest.mark.parametrize(("name", "count"), [("musicnn", 787_159), ("musicnn_vgg", 605_748)])
def test_parameters_are_as_many_as_published(name, count):
    assert models.count_parameters(name, num_classes=50) == count


def test_any_length_is_legal_for_musicnn_alone():
    network = models.build("musicnn", num_classes=3, timbral=4, temporal=2, middle=4, hidden=5)
    for frames in (20, 187, 311):
        x = jnp.ones((1, frames, 96))
        variables = network.init(jax.random.key(0), x)
        assert network.apply(variables, x)[1]["timbral"].shape == (1, frames, 8)


# ---------------------------------------------------------------- the wheel


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("GENRE_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_wheel_with_another_hash_is_refused(cache, monkeypatch):
    def download(command, **_):
        Path(command[command.index("--dest") + 1], musicnn.WHEEL).write_bytes(b"another file")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(
        UserError, match=r"musicnn-0.1.0-py3-none-any.whl has sha256 \w{64}, and f38a4890\w+ is required: a mirror"
    ):
        musicnn.path("musicnn")
    assert files_in(cache) == []


def test_a_wheel_that_was_changed_in_the_cache_is_refused(cache):
    cache.mkdir()
    (cache / musicnn.WHEEL).write_bytes(b"changed")
    with pytest.raises(UserError, match="is required: remove .*, and run the command again"):
        musicnn.path("musicnn-vgg")
    assert files_in(cache) == [musicnn.WHEEL]


def test_without_network_there_is_one_sentence(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution for musicnn==0.1.0\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        UserError, match=r"pip could not download .* \(ERROR: No matching distribution .*\): put this file into"
    ):
        musicnn.path("musicnn")
    assert files_in(cache) == []


@pytest.mark.usefixtures("published_weights")
def test_the_cache_serves_without_network_and_pip(published_weights, cache, monkeypatch, capsys):
    cache.mkdir()
    shutil.copy(published_weights.parent / musicnn.WHEEL, cache)
    monkeypatch.setattr(musicnn, "subprocess", None)
    target = musicnn.path("musicnn-vgg")
    assert target.parent == cache
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("converting the weights musicnn-vgg")  # tag prints JSON and CSV
    (cache / musicnn.WHEEL).unlink()
    trained = pretrained.load_trained("musicnn-vgg")
    assert (trained.config.data.sample_rate, trained.config.model.name) == (16_000, "musicnn_vgg")
    with safetensors.safe_open(target, framework="numpy") as file:
        metadata = file.metadata()
    assert "ISC" in metadata["licence"]
    assert {"config", "labels", "sample_rate", "frontend", "source", "sha256"} <= metadata.keys()


@pytest.mark.usefixtures("published_weights")
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda name, data: data[: len(data) // 2] if name.endswith("00001") else data, "its checkpoint is damaged"),
        (lambda name, data: data[:100] if name.endswith(".index") else data, "its checkpoint is damaged"),
        (lambda name, data: b"MSD_LABELS = open('/etc/passwd')" if name.endswith(".py") else data, "malformed node"),
        (lambda name, data: b"OTHER = []" if name.endswith(".py") else data, "defines no MSD_LABELS"),
        (lambda name, data: None if name.endswith(".index") else data, "There is no item named"),
        (lambda name, data: b"MSD_LABELS = ['a\\x1b[2J', 'b']" if name.endswith(".py") else data, "control characters"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence_and_writes_nothing(published_weights, cache, tmp_path, damage, sentence):
    wheel = tmp_path / "wheel.zip"
    with zipfile.ZipFile(published_weights.parent / musicnn.WHEEL) as whole, zipfile.ZipFile(wheel, "w") as archive:
        for name in ("musicnn/configuration.py", *(f"musicnn/MSD_vgg/{part}" for part in PARTS)):
            if (data := damage(name, whole.read(name))) is not None:
                archive.writestr(name, data)
    with pytest.raises(UserError, match=sentence):
        musicnn.convert(wheel, "musicnn-vgg", cache / "target.safetensors")
    assert files_in(cache) == []


def test_a_file_that_is_no_zip_is_one_sentence(cache, tmp_path):
    (tmp_path / "wheel.whl").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="does not hold the weights musicnn: File is not a zip file"):
        musicnn.convert(tmp_path / "wheel.whl", "musicnn", cache / "target.safetensors")
