"""The page of explanations: what filters keep of a song, what speaks for a class, Table I, and the response to chords."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from genre_jax import console
from genre_jax.atomic import write_json, write_text
from genre_jax.explain import attribution, chords, kernels, pictures
from genre_jax.explain.inverse import Inverse, auralise, normalised
from genre_jax.explain.network import Explained
from genre_jax.explain.source import Song
from genre_jax.report import clips, figures, formats, page, tables

LARGE_ERROR = 0.01  # of the sum of integrated gradients, above which the page warns
_OLD = ("*.wav", "*.png")


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the page shows.

    Attributes:
      layers: names of layers.
      filters: numbers of filters; empty: the `most_active` ones of each layer.
      most_active: how many filters.
      rule: key of `reverse.RULES`.
      class_name: the label that is explained; "": the most probable one.
      patches: rows and columns of the grid of the occlusion.
      steps: largest number of steps of the integrated gradients.
      with_chords: whether the responses to chords are computed.
    """

    layers: tuple[str, ...] = ()
    filters: tuple[int, ...] = ()
    most_active: int = 3
    rule: str = "deconvnet"
    class_name: str = ""
    patches: int = 12
    steps: int = attribution.MOST_STEPS
    with_chords: bool = True


class _Folder:
    """The folder of the page, in which sounds and pictures of the window are written."""

    def __init__(self, path: Path, rate: int, samples: int, lasting: int):
        path.mkdir(parents=True, exist_ok=True)
        self.path = clips.fresh(path / "sounds", _OLD)
        self._rate, self._lasting, self._seconds = rate, lasting, samples / rate

    def sound(self, name: str, y: np.ndarray) -> str | None:
        """Write the part of a sound (samples,) that is no padding, with its peak normalised; return its place.

        Silence is not written, and has the place None.
        """
        pcm = np.round(32767 * normalised(np.nan_to_num(y[: self._lasting]))).astype(np.int16)
        if not pcm.any():
            return None
        clips.write_wave(self.path / f"{name}.wav", pcm, self._rate)
        return f"sounds/{name}.wav"

    def picture(self, name: str, values: np.ndarray, signed: bool = False) -> str:
        """Write the picture of values (frames, bins); return its place."""
        pictures.cells(self.path / f"{name}.png", values, self._seconds, self._rate / 2, signed)
        return f"sounds/{name}.png"


def write(network: Explained, song: Song, output: Path, wishes: Wishes, title: str) -> Path:
    """Write `output/index.html`, `output/explain.json`, and what the page shows; return the path of the page.

    The window is the one in which the filters of `wishes` are most active; without filters, the one in which the layers are,
    each relative to its largest activation.
    """
    page.check_packages()
    data = network.config.data
    waveforms = network.waveforms(song.pcm, song.maximum)
    activations = network.above_silence(wishes.layers, waveforms)
    window = _strongest(activations, wishes.filters)
    y = waveforms[window]
    folder = _Folder(output, data.sample_rate, data.samples, song.lasting)
    cells = attribution.Cells(data.sample_rate, data.samples)
    magnitude = np.abs(np.asarray(cells.spectrum(jnp.asarray(y))))
    facts: dict[str, Any] = {
        "schema": 1, "file": song.name, "network": title, "model": network.config.model.name, "sample_rate": data.sample_rate,
        "start": float(song.starts[window]), "seconds": song.lasting / data.sample_rate,
        "window": data.samples / data.sample_rate, "rule": wishes.rule, "unheard": network.why_unheard(),
        "source": {"sound": folder.sound("source", y), "picture": folder.picture("source", pictures.decibels(magnitude))},
        "layers": _layers(network, y, {name: values[window] for name, values in activations.items()}, wishes, folder),
        "class": _answer(network, y, cells, wishes, folder),
        "kernels": _kernels(network),
    }  # fmt: skip
    drawn = _chords(network, wishes.layers, output) if wishes.with_chords and wishes.layers else None
    if drawn:
        facts["chords"] = drawn["means"]
        write_json(output / "chords.json", drawn["json"])
    write_json(output / "explain.json", facts)
    context = {
        **facts,
        "title": f"What {title} hears in {song.name}",
        "chords": drawn,
        "table": _kernel_table(facts["kernels"]),
    }
    shown = [table for table in (context["table"], drawn and drawn["table"]) if table]
    tables.write(shown, output / "tables")
    target = output / "index.html"
    write_text(
        target,
        page.templates().get_template("explain.html.j2").render(context | {"formats": tables.FORMATS, "signed": _three_digits}),
    )
    return target


def _strongest(activations: dict[str, np.ndarray], filters: tuple[int, ...]) -> int:
    """Return the number of the window in which the filters, or all filters, are most active over the layers."""
    totals = [values[:, list(filters) or slice(None)].sum(1) for values in activations.values()]
    relative = [total / max(float(total.max()), 1e-30) for total in totals]
    return int(np.argmax(np.sum(relative, 0))) if relative else 0


def _layers(
    network: Explained, y: np.ndarray, activations: dict[str, np.ndarray], wishes: Wishes, folder: _Folder
) -> list[dict[str, Any]]:
    """Write what the filters of each layer keep of a waveform (samples,); return the facts of each layer."""
    if not activations:
        return []
    inverse = Inverse(network.forward.frontend, len(y))
    heard = inverse.conditioned(jnp.asarray(y))
    found = []
    for number, (layer, active) in enumerate(activations.items(), 1):
        chosen = list(wishes.filters) or np.argsort(-active, kind="stable")[: wishes.most_active].tolist()
        weights = network.weights(y, layer, chosen, wishes.rule)
        filters = []
        for place, one in zip(chosen, weights, strict=True):
            mask = inverse.mask(one)
            name = f"layer-{number:02d}-filter-{place:03d}"
            filters.append(
                {
                    "filter": place,
                    "activation": float(active[place]),
                    "sound": folder.sound(name, auralise(inverse, heard, mask)),
                    "sound_of_phase": folder.sound(f"{name}-phase", auralise(inverse, heard, mask, phase_only=True)),
                    "picture": folder.picture(name, _visible(np.maximum(mask, 0))),
                }
            )
        found.append({"layer": layer, "shape": list(network.layers[layer]), "sizes": network.sizes(layer), "filters": filters})
    return found


def _answer(network: Explained, y: np.ndarray, cells: attribution.Cells, wishes: Wishes, folder: _Folder) -> dict[str, Any]:
    """Explain the answer of the network to a waveform (samples,) by occlusion and by integrated gradients."""
    logits = network.logits(y[None])[0]
    label = network.labels.index(wishes.class_name) if wishes.class_name else int(logits.argmax())

    def score(waveforms):
        return network.answers(network.variables, waveforms)[:, label]

    spectrum = np.asarray(cells.spectrum(jnp.asarray(y)))
    drops = attribution.occlusion(score, cells, y, wishes.patches, wishes.patches)
    row, column = cells.patches(wishes.patches, wishes.patches)
    gradients = attribution.integrated_gradients(score, cells, y, most=wishes.steps)
    if gradients.error > LARGE_ERROR:
        console.note(f"the integrated gradients have not converged ({formats.percent(gradients.error)}): raise --steps")
    values = {"occlusion": drops[row][:, column].T, "gradients": gradients.values}
    facts: dict[str, Any] = {"label": network.labels[label], "logit": float(logits[label])}
    for name, attributions in values.items():
        heard = np.asarray(cells.sound(jnp.asarray(spectrum * attribution.positive_mask(attributions))))
        shown = attributions if name == "occlusion" else _visible(attributions)
        facts[name] = {"sound": folder.sound(name, heard), "picture": folder.picture(name, shown, signed=True)}
    facts["occlusion"] |= {"patches": wishes.patches, "largest": float(drops.max())}
    facts["gradients"] |= {
        "baseline": gradients.baseline, "difference": gradients.difference, "error": gradients.error, "steps": gradients.steps,
        "converged": gradients.error <= LARGE_ERROR,
    }  # fmt: skip
    return facts


def _visible(values: np.ndarray) -> np.ndarray:
    """Clip values at their 99.5th percentile of magnitude and take signed square roots: single cells hide all others."""
    limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
    clipped = np.clip(values / limit, -1, 1)
    return np.sign(clipped) * np.sqrt(np.abs(clipped))


def _kernels(network: Explained) -> list[dict[str, Any]]:
    """The rows of Table I for Choi's network, none for others."""
    if not network.is_choi or "hop_length" not in network.config.frontend:
        return []
    return [row._asdict() | {"slips": row.slips} for row in kernels.table(network.config.to_dict())]


def _kernel_table(rows: list[dict[str, Any]]) -> tables.Table | None:
    """Table I as a table of the page."""
    if not rows:
        return None
    columns = [tables.Column("Layer", formats.number)]
    for kind in ("printed", "by the rule", "receptive field"):
        columns += [tables.Column(f"Width, {kind} (ms)"), tables.Column(f"Height, {kind} (Hz)")]
    lines = []
    for row in rows:
        printed = [formats.DASH] * 2
        if row["printed"]:
            pairs = zip(row["printed"], row["slips"], strict=True)
            printed = [f"{value:,.0f}" + (" (slip)" if slip else "") for value, slip in pairs]
        rest = [f"{value:,.0f}" for value in (*row["rule"], *row["field"])]
        lines.append((row["layer"], *printed, *rest))
    return tables.Table("kernels", "Effective sizes of kernels and receptive fields", columns, lines)


def _chords(network: Explained, layers: tuple[str, ...], output: Path) -> dict[str, Any]:
    """The correlations of the layers' responses to chords: means, table, picture, and the matrices for a JSON file."""
    data = network.config.data
    waves = np.stack([chords.synthesise(chord, data.samples, data.sample_rate) for chord in chords.CHORDS])
    matrices, means = chords.invariance(network.above_silence(layers, waves))
    control, control_means = chords.invariance(network.untrained().above_silence(layers, waves))
    columns = [tables.Column("Layer")]
    for kind in chords.PAIRS:
        columns += [tables.Column(f"{kind.capitalize()}{which}", _correlation) for which in ("", ": untrained")]
    rows = [
        (row["layer"], *itertools.chain.from_iterable((row[kind], other[kind]) for kind in chords.PAIRS))
        for row, other in zip(means, control_means, strict=True)
    ]
    table = tables.Table("chords", "Mean correlation", columns, rows)
    panels: dict[str, np.ndarray] = {}
    for layer in layers:
        panels |= {f"{layer}\ntrained": matrices[layer], f"{layer}\nuntrained": control[layer]}
    picture = figures.save(output / "chords.png", pictures.correlations(panels, list(chords.TIMBRES)), narrow=True)
    content = {
        "chords": [chord._asdict() for chord in chords.CHORDS],
        "means": means,
        "untrained_means": control_means,
        "correlations": {layer: matrix.round(6).tolist() for layer, matrix in matrices.items()},
        "untrained_correlations": {layer: matrix.round(6).tolist() for layer, matrix in control.items()},
    }
    return {"means": {"trained": means, "untrained": control_means}, "table": table, "picture": picture, "json": content}


def _correlation(value: object) -> str:
    """Show a correlation with a minus sign."""
    return formats.number(value, 2).replace("-", "−")


def _three_digits(value: float) -> str:
    """Show a number with three digits and a minus sign."""
    return f"{value:.3g}".replace("-", "−")
