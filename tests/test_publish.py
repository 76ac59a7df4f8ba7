"""Publishing: the folder, its card, the push to a hub, and the way back by hf://; refusals, names that need escaping."""

import ast
import functools
import json
import re
import shutil
import sys
from pathlib import Path

import hub_server
import numpy as np
import pytest
import report_runs
import yaml
from conftest import CLASSES, finish, run_module, small_config
from damage import initial_run
from exported_file import LABELS, RATE, windows_of, write_model

import genre_jax
from genre_jax import config as configs
from genre_jax import model_card, publish
from genre_jax.console import UserError
from genre_jax.loop import train_and_evaluate
from genre_jax.report import runs
from genre_jax.weights import musicnn, pretrained

WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 9_000)
HEAD = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


def stand_in(subject, licence: str, folder: Path, name: str) -> str:
    """Takes the place of an export: converting is slow, and has tests of its own."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"{subject.name} {licence}")
    return "; its probabilities differ by at most 2e-07"


@pytest.fixture(scope="module", autouse=True)
def without_conversion():
    files = {"model.onnx": "model.onnx", "web": "web/index.html"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "EXPORTS", {name: functools.partial(stand_in, name=file) for name, file in files.items()})
        yield


@pytest.fixture(scope="module")
def run(tones, tmp_path_factory) -> Path:
    """The workdir of a finished run."""
    workdir = tmp_path_factory.mktemp("publish") / "run"
    config = small_config(tones, "snn", devices=1)
    config.made_by.update(
        config="/home/me/small.py:snn,data.data_dir=/secret/a", overrides=[f"data.data_dir={tones}", "seed=0"]
    )
    train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "tones"
    assert publish.write(str(run), "me/tones_1", folder, "cc-by-4.0") == {}
    return folder


def card_of(folder: Path) -> tuple[dict, str]:
    """The YAML head and the text of a card."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(HEAD.match(text)[1]), HEAD.sub("", text, count=1)


def copied(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


def test_the_folder_holds_the_network_and_no_path_of_this_machine(run, folder, tones):
    files = {"README.md", "model.safetensors", "model.onnx", "web", "config.json", "labels.json", "results.json"}
    assert {path.name for path in folder.iterdir()} == files
    assert genre_jax.load(folder / "model.safetensors").predict(WAVE, 8000) == genre_jax.load(run).predict(WAVE, 8000)
    assert json.loads((folder / "labels.json").read_text()) == list(CLASSES)
    results = json.loads((run / "results.json").read_text())
    assert results.pop("directory")
    assert json.loads((folder / "results.json").read_text()) == results
    made_by = json.loads((folder / "config.json").read_text())["made_by"]
    assert made_by == {"config": "small.py:snn", "overrides": ["seed=0"]}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(word in content for word in (str(tones).encode(), str(run.parent).encode(), b"/home/me", b"/secret")), (
            path
        )


@pytest.mark.parametrize(
    "spec, kept",
    [
        ("bytenet:demo", "bytenet:demo"),
        ("", ""),
        ("my/net.py:data.data_dir=/a", "my/net.py"),
        ("/a/net.py:small,init_from=/a,seed=1", "net.py:small,seed=1"),
    ],
)
def test_the_command_of_a_run_without_its_paths(spec, kept):
    config = configs.base("x")
    config.made_by.config = spec
    assert pretrained.without_places(configs.to_json(config))["made_by"] == {"config": kept, "overrides": []}


def test_the_head_of_the_card_is_what_the_hub_reads(run, folder):
    hub = pytest.importorskip("huggingface_hub", reason="the hub's reader of cards needs huggingface_hub")
    card = hub.ModelCard.load(folder / "README.md").data
    assert (card.license, card.library_name, card.pipeline_tag) == ("cc-by-4.0", "genre_jax", "audio-classification")
    assert {"audio-classification", "jax", "snn"} <= set(card.tags) and not any("music" in tag for tag in card.tags)
    results = json.loads((run / "results.json").read_text())
    shown = {result.metric_name: (result.metric_type, result.metric_value) for result in card.eval_results}
    accuracy = results["track"]["max_probability"]["accuracy"]
    assert shown["Accuracy (per track, sum of probabilities)"] == ("accuracy", round(accuracy, 4))
    assert shown["Macro F1 (per window)"] == ("f1", round(results["raw"]["macro_f1"], 4))
    assert not any("Top-k" in name for name in shown)
    assert {(result.dataset_name, result.dataset_split) for result in card.eval_results} == {("tones", "test")}


def test_the_card_says_what_is_recorded(run, folder):
    _, text = card_of(folder)
    for line in (
        "| Parameters | 340 |",
        "| Window | 2,000 samples (0.25 s), a new one every 2,000 samples (0.25 s) |",
        "| Evaluated | 24 windows, 12 clips and 8 tracks |",
        "| Split protocol | not recorded |",  # the passport of the test's data set lacks it
        "--config=small.py:snn --config.seed=0",
        'genre_jax.load("hf://me/tones_1")',
        "This is one run, with seed 0.",
        "With 4 labels, guessing is right in 25.0 % of the cases",
        "\nsmall\\_snn gives 4 labels to audio. It was trained with\n",
        "| the config of the run | ",
        "4 of 4 labels have fewer than 10 evaluated clips: ",
        "for onnxruntime; needs no JAX; its probabilities differ by at most 2e-07 |",
        "CC-BY-4.0, as stated by the publisher",
    ):
        assert line in text, line
    results = json.loads((run / "results.json").read_text())
    share = results["track"]["max_probability"]["accuracy"]
    assert re.search(
        rf"\| Per track, sum of probabilities \| Accuracy \| {100 * share:.1f} % \| [\d.]+ % – [\d.]+ % \| 8 \|", text
    )
    assert all(re.search(rf"^\| {name} \| 3 \| ", text, re.MULTILINE) for name in CLASSES), "the scores of each label"
    digest = model_card.checksum.of_file(folder / "model.safetensors")
    assert f"The SHA-256 of model.safetensors is {digest}." in text
    assert "musicnn" not in text.partition("Accuracies of other methods")[0]


def test_the_passport_of_the_data_is_in_the_card(run, tmp_path, monkeypatch):
    passport = {
        "dataset": "synthetic", "protocol": "folds:3", "sample_rate": 8000, "conditioning": [],
        "totals": {"clips": 12, "seconds": 7200, "quarantined": 2, "missing": 1, "scaled": 0},
        "notes": ["warning: 2 clips are used although they are short; the first is private/name.wav"],
        "created_with": {"soxr": "1.1.0"}, "splits": {"test": {"clips": 12, "classes": dict.fromkeys(CLASSES, 3)}},
    }  # fmt: skip
    monkeypatch.setattr(model_card.locate, "read_passport", lambda folder: passport)
    publish.write(str(run), "me/tones", tmp_path / "out", "MIT")
    _, text = card_of(tmp_path / "out")
    for line in ("| Split protocol | folds:3 |", "| Hours | 2.00 |", "| Quarantined files | 2 |", "| Decoded with | soxr 1.1.0 |",
                 "| low | 3 |", "although they are short |", "The data are procedural sounds"):  # fmt: skip
        assert line in text, line
    assert "private" not in text, "names of files stay here"


@pytest.mark.parametrize("step", [-0.001, 0.0, 0.001])
def test_a_baseline_that_is_as_good_is_a_limit(run, tmp_path, monkeypatch, step):
    share = json.loads((run / "results.json").read_text())["track"]["max_probability"]["accuracy"]
    monkeypatch.setattr(model_card.scores.baselines, "cached_score", lambda *_: ({"mfcc_means": share + step}, ""))
    publish.write(str(run), "me/tones", tmp_path / "out", "MIT")
    sentence = (
        '- The baseline "Means of 20 MFCCs, logistic regression" is at least as good on the same split: it has an accuracy '
        f"per track of {100 * (share + step):.1f} %, and the network {100 * share:.1f} %."
    )
    assert (sentence in card_of(tmp_path / "out")[1]) == (step >= 0)


def test_what_is_missing_is_called_not_recorded(run, tmp_path):
    workdir = copied(run, tmp_path / "run")
    for name in ("predictions.npz", "environment.json"):
        (workdir / name).unlink()
    results = json.loads((workdir / "results.json").read_text())
    (workdir / "results.json").write_text(json.dumps(results | {"directory": str(tmp_path / "gone")}))
    publish.write(str(workdir), "me/tones", tmp_path / "out", "MIT")
    _, text = card_of(tmp_path / "out")
    assert "| Devices | not recorded |" in text and "| Clips | not recorded |" in text
    assert "The predictions of the windows are not recorded:" in text
    assert "Scores of each label" not in text


def test_an_export_that_fails_is_named_and_the_rest_is_written(run, tmp_path, monkeypatch):
    def refuse(subject, licence, folder):
        raise UserError("the front end pcen cannot be exported")

    monkeypatch.setitem(publish.EXPORTS, "model.onnx", refuse)
    monkeypatch.setitem(publish.EXPORTS, "web", publish._web)
    missing = publish.write(str(run), "me/tones", tmp_path / "out", "MIT")
    assert missing == {"model.onnx": "the front end pcen cannot be exported", "web": "it needs model.onnx"}
    head, text = card_of(tmp_path / "out")
    assert "model.onnx is not here: the front end pcen cannot be exported." in text
    assert "import onnxruntime" not in text and head["license"] == "mit"


def test_names_of_users_cannot_change_the_card(run, tmp_path, monkeypatch):
    evil = "---\n# <img src=x onerror=alert(1)> | `a` [b](http://c)"
    about = model_card.subject(str(run))
    labels = (evil, *CLASSES[1:])
    about.run.results["data_set"] = evil
    monkeypatch.setattr(
        model_card,
        "subject",
        lambda source: model_card.dataclasses.replace(about, trained=about.trained._replace(labels=labels), name=evil),
    )
    (tmp_path / "model.safetensors").write_bytes(b"x")
    text = model_card.render(model_card.subject(""), "me/tones", "MIT", tmp_path, {}, {})
    head = yaml.safe_load(HEAD.match(text)[1])
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(evil.split())
    body = HEAD.sub("", text, count=1)
    assert "<img" not in body and "\n---\n" not in body and "[b](http" not in body
    assert r"&lt;img src=x onerror=alert(1)&gt; \| \`a\` \[b\](http://c), mid" in body


def test_the_exported_network_is_that_of_the_run(run, tones, tmp_path, monkeypatch):
    """With the true exporter: the same probabilities without JAX, the licence inside, the difference in the card."""
    pytest.importorskip("onnx", reason="the export needs onnx")
    pytest.importorskip("onnxruntime", reason="an exported file needs onnxruntime")
    workdir = tmp_path / "small"
    initial_run(small_config(tones, "resnet", devices=1), workdir)
    shutil.copyfile(run / "results.json", workdir / "results.json")
    monkeypatch.setitem(publish.EXPORTS, "model.onnx", publish._onnx)
    assert publish.write(str(workdir), "me/tones", tmp_path / "out", "CC-BY-4.0") == {}
    exported, expected = genre_jax.load(tmp_path / "out" / "model.onnx"), genre_jax.load(workdir)
    about = exported.network.description
    assert (about.licence, about.name, about.labels) == ("CC-BY-4.0", "small", CLASSES)
    ours = exported.predict(WAVE, 8000)
    assert ours == pytest.approx(expected.predict(WAVE, 8000), abs=1e-5)
    assert genre_jax.load(tmp_path / "out" / "model.safetensors").predict(WAVE, 8000) == pytest.approx(ours, abs=1e-5)
    head, text = card_of(tmp_path / "out")
    assert "onnx" in head["tags"]
    assert re.search(r"differ by at most \de-\d\d from those of JAX on three test signals", text)


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("seconds", [1.5, 11])
def test_the_code_for_onnxruntime_gives_the_probabilities_of_the_file(folder, tmp_path, monkeypatch, capsys, seconds, maximum):
    """The block of the card, on an exported file and a song that exceeds full scale."""
    pytest.importorskip("onnx", reason="the exported file of this test is made with the package onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the code needs onnxruntime")
    import soundfile

    write_model(tmp_path / "model.onnx", maximum)
    wave = np.random.default_rng(2).uniform(-1.2, 1, (round(seconds * RATE), 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", wave, RATE, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(import json.*?)```", card_of(folder)[1], re.DOTALL)
    exec(compile(code, "card", "exec"), {})
    cuts = windows_of(tmp_path / "song.wav")
    inputs = {"audio": cuts}
    if maximum:
        mono = wave.mean(1)
        inputs["maximum"] = np.full(len(cuts), mono.max() / max(1, np.abs(mono).max()), np.float32)
    expected = onnxruntime.InferenceSession("model.onnx").run(["probabilities"], inputs)[0].mean(0)
    shown = ast.literal_eval(capsys.readouterr().out)
    np.testing.assert_allclose([shown[label] for label in LABELS], expected, atol=1e-6)


def test_the_card_of_several_labels_a_window(run, data_set, tmp_path):
    """The scores are mean average precision and others, and the names of the classes need escapes."""
    about = model_card.subject(str(run))
    config = configs.from_json(about.config)
    config.loss.name = "sigmoid"
    many = model_card.dataclasses.replace(
        about,
        run=runs.read_run(report_runs.write_run(tmp_path / "run", data_set, "multi")),
        trained=about.trained._replace(config=config, labels=report_runs.CLASSES),
    )
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "README.md").write_text(model_card.render(many, "me/toy", "MIT", tmp_path, {}, {}))
    head, text = card_of(tmp_path)
    share = many.run.results["clip"]["mean_average_precision"]
    assert {"type": "mean_average_precision", "name": "Mean average precision (per clip)", "value": round(share, 4)} in (
        head["model-index"][0]["results"][0]["metrics"]
    )
    assert re.search(rf"\| Per clip \| Mean average precision \| {share:.3f} \| 0\.\d+ – [01]\.\d+ \| 24 \|", text)
    assert "| Per clip | Classes without positives | 0 | – | 24 |" in text
    assert "| Votes for a clip or track | mean of probabilities |" in text
    assert "Guessing has a mean average precision per clip of about 0.250" in text
    assert re.search(r"^\| \$cost\$ &lt;b&gt; \| 6 \| [\d.]+ \| [\d.]+ \| ", text, re.MULTILINE)
    assert "| exam |" in text.partition("| all clips |")[0] and "| all clips | 16 | 24 |" in text


@pytest.mark.usefixtures("published_weights")
def test_published_weights_keep_their_licence(tmp_path):
    publish.write("musicnn", "me/musicnn", tmp_path / "out")
    head, text = card_of(tmp_path / "out")
    assert head["license"] == "isc" and musicnn.LICENCE in text and musicnn.SOURCE.replace("&", "&amp;") in text
    assert "provided that the above copyright notice" in (tmp_path / "out" / publish.NOTICE).read_text()
    assert "has no scores of them" in text and "on the Million Song Dataset" in text and "model-index" not in head
    assert "music" in head["tags"] and "| the config of the network | " in text and "config of the run" not in text
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert f"which genre\\_jax.load reads | {size / 1e6:.1f} MB |" in text
    with pytest.raises(UserError, match="^the weights musicnn have the licence ISC, and --licence=MIT: leave it out$"):
        publish.write("musicnn", "me/musicnn", tmp_path / "other", "MIT")


def test_a_run_that_started_from_musicnn_carries_its_notice(run, tmp_path):
    about = model_card.subject(str(run))
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "config.json").write_text('{"init_from": "musicnn-vgg"}')
    later = model_card.dataclasses.replace(about, config=about.config | {"init_from": str(tmp_path / "earlier")})
    assert not about.of_musicnn and later.of_musicnn
    assert publish._fill(tmp_path, later, "me/tones", "MIT") == {}
    assert (tmp_path / publish.NOTICE).exists()
    text = card_of(tmp_path)[1]
    assert "from the weights of earlier, which started from musicnn-vgg" in text and "whose licence (ISC)" in text


def test_what_cannot_be_published_is_refused(run, tmp_path):
    unfinished, damaged = copied(run, tmp_path / "unfinished"), copied(run, tmp_path / "damaged")
    (unfinished / "results.json").unlink()
    for checkpoint in (damaged / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    card = tmp_path / "more"
    publish.write(str(run), "me/tones", card, "MIT")
    (card / "thesis.tex").write_text("keep me")
    for source, repo, output, licence, sentence in (
        (unfinished, "me/a", "out", "MIT", "has not ended, because it holds no results.json: run its training command again$"),
        (damaged, "me/a", "out", "MIT", "checkpoint"),
        (
            "nowhere",
            "me/a",
            "out",
            "MIT",
            "^--workdir=nowhere is neither the workdir of a run nor the name of published weights",
        ),
        (run, "tones", "out", "MIT", "^--repo must be OWNER/NAME with letters, digits and _ . -, and is 'tones'$"),
        (run, "me/a", "out", "", "^--licence is missing, .* decide it: give an SPDX id, such as CC-BY-4.0, "),
        (run, "me/a", "out", "free", "^--licence=free is not a licence that SPDX knows: give an SPDX id, such as"),
        (run, "me/a", "mine", "MIT", "mine holds notes.txt, and no model card of genre_jax: choose another --output$"),
        (run, "me/a", "more", "MIT", "more holds thesis.tex, which publish did not write: take it away, or choose another"),
        (run, "me/a", "mine/notes.txt", "MIT", "notes.txt is a file, and a folder is needed: choose another one$"),
    ):
        with pytest.raises(UserError, match=sentence):
            publish.write(str(source), repo, tmp_path / output, licence)
    assert not (tmp_path / "out").exists() and (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_an_interrupted_call_leaves_the_earlier_folder(run, tmp_path, monkeypatch):
    publish.write(str(run), "me/tones", tmp_path / "out", "MIT")
    before = (tmp_path / "out" / "README.md").read_bytes()

    def interrupt(subject, licence, folder):
        raise KeyboardInterrupt

    monkeypatch.setitem(publish.EXPORTS, "web", interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish.write(str(run), "you/other", tmp_path / "out", "Apache-2.0")
    assert (tmp_path / "out" / "README.md").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary stays"


def test_a_licence_that_the_hub_does_not_list_is_named(run, tmp_path):
    publish.write(str(run), "me/tones", tmp_path / "out", "LicenseRef-house-rules")
    head, _ = card_of(tmp_path / "out")
    assert (head["license"], head["license_name"]) == ("other", "licenseref-house-rules")


# ---------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="pushing needs huggingface_hub: pip install huggingface_hub")
    with hub_server.serve(tmp_path, monkeypatch) as handler:
        yield handler


def test_published_pushed_and_loaded_back(run, folder, hub):
    """The round trip: workdir → folder → hub → genre_jax.load("hf://…")."""
    url = publish.push(folder, "me/tones_1")
    assert url.endswith(f"/me/tones_1/commit/{hub_server.COMMIT}")
    there = hub.root / "me" / "tones_1"
    for path in folder.rglob("*"):
        if path.is_file():
            assert (there / path.relative_to(folder)).read_bytes() == path.read_bytes()
    expected = genre_jax.load(run).predict(WAVE, 8000)
    digest = model_card.checksum.of_file(folder / "model.safetensors")
    for source in ("hf://me/tones_1", f"hf://me/tones_1@main/model.safetensors#sha256={digest}"):
        assert genre_jax.load(source).predict(WAVE, 8000) == expected
    with pytest.raises(UserError, match=f"has sha256 {digest}, and {'0' * 64} is required"):
        genre_jax.load(f"hf://me/tones_1#sha256={'0' * 64}")
    with pytest.raises(UserError, match="^hf://me/nothing could not be downloaded: "):
        genre_jax.load("hf://me/nothing")


def test_a_second_push_removes_what_is_no_longer_published(folder, hub, tmp_path):
    publish.push(folder, "me/tones")
    there = hub.root / "me" / "tones"
    (there / "examples.md").write_text("of the user")
    (there / "web" / "old.wasm").write_text("old")
    smaller = copied(folder, tmp_path / "smaller")
    (smaller / "model.onnx").unlink()
    publish.push(smaller, "me/tones")
    names = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(smaller)) for path in smaller.rglob("*") if path.is_file()} | {"examples.md"}


def test_private_repositories(folder, hub):
    publish.push(folder, "me/secret", private=True)
    assert hub.private == {"me/secret"}
    publish.push(folder, "me/secret", private=True)
    publish.push(folder, "me/open")
    (hub.root / "me/open/README.md").unlink()
    with pytest.raises(UserError, match="^me/open exists and is public, and --private is set: make it private on its page"):
        publish.push(folder, "me/open", private=True)
    assert not (hub.root / "me/open/README.md").exists(), "nothing is pushed to the public repository"


def test_a_push_that_fails_leaves_the_folder(folder, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"tones is ready, and could not be pushed to me/tones: .*401") as error:
        publish.push(folder, "me/tones")
    assert "hf_other" not in str(error.value) and folder.exists()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        UserError, match=r"tones is ready, and pushing it to me/tones needs a token of the Hugging Face Hub: set the"
    ):
        publish.push(folder, "me/tones")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match="is ready, and pushing it to me/tones needs huggingface_hub: pip install huggingface_hub$"
    ):
        publish.push(folder, "me/tones")


def test_the_command(run, hub, tmp_path, monkeypatch, capsys):
    from absl import flags

    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    publish.define_flags(values)
    monkeypatch.chdir(tmp_path)
    arguments = ["publish", f"--workdir={run}", "--repo=me/tones", "--licence=MIT"]
    values([*arguments, "--dry_run"])
    publish.main(["publish"])
    out = capsys.readouterr().out
    assert "publish/tones: README.md, model.safetensors, model.onnx, web, config.json, labels.json, results.json" in out
    assert "nothing was pushed (--dry_run)" in out and not hub.root.exists()
    values.unparse_flags()
    values["dry_run"].unparse()
    values(arguments)
    publish.main(["publish"])
    assert "/me/tones/commit/" in (out := capsys.readouterr().out) and 'genre_jax.load("hf://me/tones") loads it' in out
    with pytest.raises(UserError, match="^unknown argument 'runs/a': give the run as --workdir=DIR"):
        publish.main(["publish", "runs/a"])


@pytest.mark.parametrize("flag", ["workdir", "repo"])
def test_a_missing_flag_is_a_sentence(flag):
    given = {"workdir": "--workdir=musicnn", "repo": "--repo=me/a"}
    del given[flag]
    _, err = finish(run_module("genre_jax.publish", "--dry_run", *given.values()), code=1)
    assert re.fullmatch(rf"error: --{flag} is needed: the .*\n", err)
