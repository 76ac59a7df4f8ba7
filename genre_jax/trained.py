"""Trained networks that score the same windows together, as `tagger.Tagger` and `genre_jax.export` use them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from genre_jax import evaluate, forward, metrics
from genre_jax.console import UserError
from genre_jax.weights import musicnn, pretrained


class Networks:
    """Trained networks as a `tagger.Network`.

    Attributes:
      runs: config, labels and variables of each network.
      name: names of the sources.
      columns: for each network the numbers of its labels that are kept.
      labels, task, sample_rate, samples, hop, conditioning, batch_size: as in `tagger.Network`.
    """

    def __init__(self, *sources: str | Path):
        """Load the networks of `Tagger(*sources)`."""
        self.runs = [pretrained.load_trained(source) for source in sources or musicnn.BOTH]
        for source, run in zip(sources, self.runs, strict=False):
            _check_alike(sources[0], self.runs[0].config, source, run.config)
        self.name = " and ".join(map(_name, sources or musicnn.BOTH))
        config = self.runs[0].config
        self.task = evaluate.task(config)
        self.sample_rate, self.samples = config.data.sample_rate, config.data.samples
        self.hop, self.batch_size = config.evaluate.hop or config.data.samples, config.evaluate.batch_size
        self.conditioning = list(config.data.conditioning)
        self.columns = _columns([run.labels for run in self.runs], None if sources else musicnn.ADDED)
        self.labels = tuple(run.labels[n] for run, kept in zip(self.runs, self.columns, strict=True) for n in kept)
        self.compile(self.runs)

    def compile(self, runs: Sequence[pretrained.Trained]) -> None:
        """Score windows with these networks, which differ from `runs` in their weights or their type alone."""
        apply = jax.jit(_apply, static_argnums=0)  # networks that differ only in their weights are one program
        self.networks = [_network(run, apply) for run in runs]

    def scores(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and embeddings as `tagger.Network` does; the embeddings of the networks stand side by side."""
        outputs = [network(batch) for network in self.networks]
        probabilities = [
            _probabilities(np.asarray(logits, np.float32), self.task)[:, kept]
            for (logits, _), kept in zip(outputs, self.columns, strict=True)
        ]
        return np.concatenate(probabilities, 1), np.concatenate([np.asarray(output[1], np.float32) for output in outputs], 1)


def _name(source: str | Path) -> str:
    """The name of published weights, of a workdir, or of a file without its ending."""
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.stem


def _check_alike(first: str | Path, config: ConfigDict, other: str | Path, its: ConfigDict) -> None:
    """Raise `UserError` unless both networks can share windows and labels."""
    from genre_jax import evaluate

    for name, get in {
        "data.sample_rate": lambda config: config.data.sample_rate,
        "data.samples": lambda config: config.data.samples,
        "evaluate.hop": lambda config: config.evaluate.hop or config.data.samples,
        "data.conditioning": lambda config: list(config.data.conditioning),
        "task": evaluate.task,
    }.items():
        if get(config) != get(its):
            raise UserError(
                f"networks that tag together must have the same {name}, and {first} has {get(config)}, {other} has {get(its)}"
            )


def _columns(labels: Sequence[tuple[str, ...]], added: Sequence[str] | None) -> list[list[int]]:
    """Return for each network which of its labels are kept: all of the first, then what is new (and in `added`)."""
    columns: list[list[int]] = []
    known: set[str] = set()
    for names in labels:
        wanted = names if added is None or not columns else added
        columns.append([n for n, name in enumerate(names) if name.casefold() not in known and name in wanted])
        known |= {name.casefold() for name in names}
    return columns


def _network(trained: pretrained.Trained, apply: Any) -> Callable[[dict[str, np.ndarray]], tuple[jax.Array, jax.Array]]:
    """Return a trained network as a function of a batch, whose values are logits and embeddings."""
    double = trained.config.dtype == "float64"
    with jax.enable_x64(double):  # for this network only; the caller's own setting stays
        network = forward.build(trained.config, len(trained.labels))
        variables = jax.device_put(trained.variables)

    def scores(batch: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
        with jax.enable_x64(double):
            outputs: tuple[jax.Array, jax.Array] = apply(network, variables, batch)
            return outputs

    return scores


def _apply(network: forward.Forward, variables: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    logits, intermediates = network(variables, batch)
    return logits, intermediates["embedding"]


def _probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # `tags` refuses NaN
        return metrics.softmax(logits) if task == "single" else metrics.sigmoid(logits)
