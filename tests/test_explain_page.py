"""The command and the page of explanations: what it writes, and one sentence for each wrong input."""

import dataclasses
import json
import wave

import jax
import numpy as np
import pytest
import soundfile
from absl import flags
from conftest import ROOT, finish, run_module
from report_runs import Page

from genre_jax import config as configs
from genre_jax import forward
from genre_jax.console import UserError
from genre_jax.explain import __main__ as command
from genre_jax.explain import chords, kernels
from genre_jax.explain.network import Explained
from genre_jax.report import page
from genre_jax.weights import pretrained

for package in page.NEEDED:
    pytest.importorskip(package)

pytestmark = pytest.mark.usefixtures("nothing_rendered")
RATE = 8_000
LABELS = ("rock & roll", "<b>jazz</b>")
NETWORKS = {
    "choi": {
        "frontend": ("choi_stft", {"n_fft": 128, "hop_length": 64}),
        "model": ("choi_cnn", {"layers": 2, "maps": 3, "hidden": 4}),
    },
    "mfcc": {"frontend": ("mfcc", {"n_mfcc": 12, "n_mels": 20, "n_fft": 256}), "model": ("snn", {"hidden": [8]})},
}


def trained(folder, name, deaf=None):
    """Write a network with random weights as a file of `save_pretrained`. The filter `deaf` of Choi's conv2 has weights 0."""
    config = configs.load(str(ROOT / "configs/choi.py"))
    for kind, (component, options) in NETWORKS[name].items():
        configs.choose(config, kind, component, **options)
    config.data.update(sample_rate=RATE, samples=4_000)
    network = forward.build(config, len(LABELS))
    variables = jax.device_get(network.init(jax.random.key(1), config.data.samples))
    if deaf is not None:
        kernel = variables["params"]["conv2"]["kernel"].copy()
        kernel[..., deaf] = 0
        variables["params"]["conv2"]["kernel"] = kernel
    return str(pretrained.write(pretrained.Trained(config, LABELS, variables), folder / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {name: trained(folder, name) for name in NETWORKS}


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A second of a tone, silence, and a louder tone."""
    path, time = tmp_path_factory.mktemp("songs") / "song & dance.wav", np.arange(RATE) / RATE
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 700 * time) * (0.1 + (time > 0.5)), RATE)
    return str(path)


@pytest.fixture
def explain(monkeypatch):
    """A function of the arguments of the command, which runs in this process with flags of its own."""
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    command.define_flags(flags.FLAGS)
    return lambda *arguments: command.main(flags.FLAGS(["explain", *arguments]))


def test_the_page(explain, networks, song, tmp_path, capsys):
    out = tmp_path / "page"
    assert (
        explain(f"--workdir={networks['choi']}", "--filters=2", "--patches=3", f"--class={LABELS[1]}", f"--output={out}", song)
        == 0
    )
    assert f"{out}/index.html: open it in a browser" in capsys.readouterr().out
    shown = Page(out / "index.html")
    shown.check_files()
    sounds = [name for name in shown.files if name.endswith(".wav")]
    assert len(sounds) == 3 + 2 * 2 * 2 and all(not name.startswith(("/", "http", "file")) for name in shown.files)
    for name in sounds:  # the players load them
        with wave.open(str(out / name)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, 4_000)
    for text in (
        "song & dance.wav",
        "“<b>jazz</b>”",
        "Layer conv1",
        "32 frequencies × 31 frames × 3 filters",
        "Table I of Choi",
        "Responses to chords",
    ):
        assert text in shown.text
    facts = json.loads((out / "explain.json").read_text())
    assert facts["start"] == 0.5 and facts["class"]["label"] == LABELS[1]  # the louder half of the song
    assert [layer["shape"] for layer in facts["layers"]] == [[32, 31, 3], [16, 15, 3]]
    actives = [[item["activation"] for item in layer["filters"]] for layer in facts["layers"]]
    assert all(values == sorted(values, reverse=True) and len(values) == 2 for values in actives)
    correlations = json.loads((out / "chords.json").read_text())
    trained, untrained = (np.array(correlations[f"{kind}correlations"]["conv2"]) for kind in ("", "untrained_"))
    assert trained.shape == untrained.shape == (len(chords.CHORDS),) * 2 and np.abs(trained - untrained).max() > 0.1
    assert set(facts["chords"]) == {"trained", "untrained"} and "Other instrument, same root: untrained" in shown.text
    loud = [
        np.abs(np.diff(soundfile.read(out / item[kind])[0])).mean()
        for kind in ("sound", "sound_of_phase")
        for item in facts["layers"][0]["filters"]
    ]
    assert len(set(loud)) == 4  # the two sounds of a filter differ
    assert (out / "tables" / "chords.csv").exists() and facts["class"]["gradients"]["steps"] >= 64


def test_a_layer_a_filter_and_a_start(explain, networks, song, tmp_path):
    out = tmp_path / "page"
    explain(
        f"--workdir={networks['choi']}", "--layer=conv2", "--filter=2,0", "--start=0.1", "--rule=guided",
        "--patches=2", "--nochords", f"--output={out}", song,
    )  # fmt: skip
    facts = json.loads((out / "explain.json").read_text())
    assert [item["filter"] for item in facts["layers"][0]["filters"]] == [2, 0] and len(facts["layers"]) == 1
    assert facts["start"] == pytest.approx(0.1) and facts["rule"] == "guided"
    assert "chords" not in facts and not (out / "chords.json").exists()


def test_the_list_of_layers(explain, networks, capsys):
    assert explain(f"--workdir={networks['choi']}", "--layer=?") == 0
    assert capsys.readouterr().out == (
        "conv1  32 frequencies × 31 frames × 3 filters\nconv2  16 frequencies × 15 frames × 3 filters\n"
    )


UNHEARD = "front end mfcc has no spectrogram to whose cells a mask could belong: filters cannot be played"


def test_a_network_that_cannot_be_inverted_is_explained_by_attributions(explain, networks, song, tmp_path, capsys):
    out, rest = tmp_path / "page", "the page has occlusion and integrated gradients only"
    explain(f"--workdir={networks['mfcc']}", "--patches=2", f"--output={out}", song)
    assert capsys.readouterr().err == f"{UNHEARD}; {rest}\n"
    facts = json.loads((out / "explain.json").read_text())
    assert facts["layers"] == [] and facts["class"]["occlusion"]["picture"] == "sounds/occlusion.png"
    shown = Page(out / "index.html")
    shown.check_files()
    assert f"The {UNHEARD}; {rest}." in shown.text
    explain(f"--workdir={networks['mfcc']}", "--layer=?")
    assert capsys.readouterr().out == f"{UNHEARD}; {rest}\n"


def test_integrated_gradients_that_have_not_converged(explain, networks, song, tmp_path, capsys):
    out = tmp_path / "page"
    explain(f"--workdir={networks['choi']}", "--nochords", "--patches=2", "--steps=1", f"--output={out}", song)
    gradients = json.loads((out / "explain.json").read_text())["class"]["gradients"]
    assert gradients["steps"] == 1 and gradients["error"] > 0.01 and not gradients["converged"]
    error = f"{100 * gradients['error']:.1f} %"
    assert f"have not converged ({error}): raise --steps" in Page(out / "index.html").text
    assert f"the integrated gradients have not converged ({error}): raise --steps\n" in capsys.readouterr().err


def test_eight_channels_and_a_short_file(explain, networks, tmp_path, capsys):
    path, rng, out = tmp_path / "eight.wav", np.random.default_rng(0), tmp_path / "page"
    soundfile.write(path, rng.normal(0, 0.1, (800, 8)), RATE)
    explain(f"--workdir={networks['choi']}", "--layer=conv1", "--nochords", "--patches=2", f"--output={out}", str(path))
    assert "eight.wav gives 0.1 s, and the network reads 0.5 s: silence follows\n" in capsys.readouterr().err
    assert "lasts 0.50 s: 0.1 s of sound, then silence." in Page(out / "index.html").text
    with wave.open(str(out / "sounds" / "source.wav")) as file:
        assert file.getnframes() == 800


def test_a_filter_that_does_not_respond_has_no_player(explain, song, tmp_path):
    path, out = trained(tmp_path, "choi", deaf=1), tmp_path / "page"
    explain(f"--workdir={path}", "--layer=conv2", "--filter=0,1", "--nochords", "--patches=2", f"--output={out}", song)
    heard, deaf = json.loads((out / "explain.json").read_text())["layers"][0]["filters"]
    assert heard["sound"] and deaf["sound"] is deaf["sound_of_phase"] is None
    shown = Page(out / "index.html")
    assert "No sound: the filter does not respond." in shown.text
    assert sorted(name for name in shown.files if "filter-" in name and name.endswith(".wav")) == [
        "sounds/layer-01-filter-000-phase.wav", "sounds/layer-01-filter-000.wav",
    ]  # fmt: skip


def silent(path):
    soundfile.write(path, np.zeros(RATE), RATE)


def short(path):
    soundfile.write(path, np.full(80, 0.1), RATE)


def with_nan(path):
    soundfile.write(path, np.where(np.arange(RATE) == 99, np.nan, 0.1), RATE, subtype="FLOAT")


def corrupt(path):
    path.write_bytes(b"RIFF" + bytes(range(256)) * 9)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (silent, "x.wav: the mono mix is silent: no sample exceeds 0.0001 of full scale"),
        (with_nan, "x.wav: the signal holds samples that are not finite"),
        (corrupt, "x.wav: "),
        (short, "x.wav: 0.01 s of sound are less than a window of the spectrogram, which needs 0.064 s"),
        (lambda path: None, "x.wav: no such file"),
    ],
)
def test_files_that_cannot_be_explained(explain, networks, tmp_path, make, sentence):
    make(tmp_path / "x.wav")
    with pytest.raises(UserError, match=sentence):
        explain(f"--workdir={networks['choi']}", f"--output={tmp_path / 'page'}", str(tmp_path / "x.wav"))
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    "network, arguments, sentence",
    [
        ("choi", ["--layer=conv3"], r"unknown layer 'conv3' \(did you mean 'conv2'\?\): choose one of conv1, conv2"),
        ("choi", ["--layer=conv1", "--filter=3"], "--filter=3 must be a number from 0 to 2, the filters of layer conv1"),
        ("choi", ["--filter=-1"], "--filter=-1 must be a number from 0 to 2"),
        ("choi", ["--class=polka"], "unknown class 'polka'.*: choose one of <b>jazz</b>, rock & roll"),
        ("choi", ["--rule=lrp"], "unknown rule 'lrp'.*: choose one of deconvnet, gradient, guided"),
        ("choi", ["--start=7"], "song & dance.wav, from --start=7 on: the file ends at 1.0 s"),
        ("choi", ["another.wav"], "one audio file is needed, as in: genre-jax explain --workdir=.*/choi.safetensors SONG.mp3"),
        ("mfcc", ["--layer=conv1"], f"{UNHEARD}; leave out --layer=conv1, then the page has"),
    ],
)
def test_arguments_that_do_not_exist(explain, networks, song, tmp_path, network, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        explain(f"--workdir={networks[network]}", *arguments, f"--output={tmp_path / 'page'}", song)


def test_why_filters_are_not_played(networks):
    network = Explained(networks["choi"])
    assert network.why_unheard() == "" and command.chosen_layers(network, []) == ("conv1", "conv2")
    network.layers = {}
    assert network.why_unheard() == "network choi_cnn has no convolutional layer: no filter can be played"
    assert command.chosen_layers(network, []) == ()


@pytest.mark.parametrize(
    "image, upright, first", [(True, False, "frequencies"), (True, True, "frames"), (False, False, "frames")]
)
def test_the_sizes_of_a_map_name_its_axes(networks, image, upright, first):
    network = Explained(networks["choi"])
    front = network.forward.frontend.clone(image=image, upright=upright)
    network.forward = dataclasses.replace(network.forward, frontend=front)
    network.layers = {"two": (1200, 7, 3), "one": (9, 4)}
    second = {"frames": "frequencies", "frequencies": "frames"}[first]
    assert network.sizes("two") == f"1,200 {first} × 7 {second} × 3 filters"
    assert image or network.sizes("one") == "9 frames × 4 filters"


def test_table_one():
    config = configs.load(str(ROOT / "configs/choi.py"))
    rows = kernels.table(config.to_dict())
    assert [row.cells for row in rows] == [3, 8, 18, 38, 78]
    assert [round(row.field[0]) for row in rows] == [93, 209, 441, 906, 1834]
    assert [round(row.field[1]) for row in rows] == [86, 194, 409, 840, 1701]
    assert [row.slips for row in rows] == [(False, False)] * 4 + [(False, True)]
    config.data.sample_rate = 22_050
    assert all(row.printed is None and row.slips == (False, False) for row in kernels.table(config.to_dict()))
    assert np.isnan(kernels.effective_size(config.to_dict(), ("kernel", "layer6", "width")))


def test_chords():
    organ = chords.synthesise(chords.Chord("organ", "A", "major"), RATE, RATE)
    strongest = np.argsort(np.abs(np.fft.rfft(organ)))[-40:]
    assert {440, 554, 659} <= set(strongest.tolist()) and np.sqrt(np.mean(organ**2)) == pytest.approx(0.1, rel=1e-3)
    assert len(chords.CHORDS) == 32 and len(set(chords.CHORDS)) == 32
    timbre = {name: np.eye(4)[number] for number, name in enumerate(chords.TIMBRES)}
    root = {name: np.eye(4)[number] for number, name in enumerate(chords.ROOTS)}
    layers = {
        "instrument": np.array([timbre[chord.timbre] for chord in chords.CHORDS]),
        "root": np.array([root[chord.root] for chord in chords.CHORDS]),
    }
    layers["both"] = layers["root"] + np.array([9, 0, 3, 5])  # a response that all chords share tells nothing
    matrices, means = chords.invariance(layers)
    assert [row["layer"] for row in means] == ["instrument", "root", "both"] and matrices["root"].shape == (32, 32)
    same, other = chords.PAIRS[:2]
    assert means[0][same] == pytest.approx(1) and means[0][other] == pytest.approx(-1 / 3)
    assert means[1][same] == pytest.approx(-1 / 3) and means[1][other] == pytest.approx(1)
    np.testing.assert_allclose(matrices["both"], matrices["root"], atol=1e-12)
    assert not chords.correlations(np.ones((3, 4))).any()


def test_the_command_as_a_process(networks):
    out, err = finish(run_module("genre_jax.explain", f"--workdir={networks['choi']}", "--layer=fc", "x.wav"), code=1)
    assert (out, err) == ("", "error: unknown layer 'fc': choose one of conv1, conv2\n")
