"""The program that is exported: windows → (probabilities, embedding), with the front end inside, as a pure function.

The program is free of what a platform needs: no form for XLA's CPU backend, no chunks that save memory, no loop over the blocks
of a ByteNet. `trace.portable` changes what other runtimes compute badly. The program computes in float32, whatever the type of
the run.
"""

import contextlib
import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

import genre_jax
from genre_jax import checksum, forward, parallel
from genre_jax.export.description import Description
from genre_jax.export.trace import portable
from genre_jax.trained import Networks


@dataclasses.dataclass(frozen=True)
class Program:
    """What is exported.

    Attributes:
      variables: the weights, a list with an entry for each network.
      networks: the networks, as functions of (variables, batch).
      columns: for each network the labels that are kept.
      description: of the file.
    """

    variables: list[Any]
    networks: list[forward.Forward]
    columns: list[list[int]]
    description: Description

    def __call__(self, variables: list[Any], *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return probabilities (batch, labels) and embeddings (batch, dimensions) for the inputs of the description."""
        outputs: tuple[jax.Array, jax.Array] = portable(self._outputs)(variables, *inputs)
        return outputs

    def _outputs(self, variables: list[Any], *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch = dict(zip(self.description.inputs, inputs, strict=True))
        if self.description.waveform == "float32":
            batch["audio"] = batch["audio"] * 32768
        outputs = [network(weights, batch) for network, weights in zip(self.networks, variables, strict=True)]
        activation = jax.nn.softmax if self.description.task == "single" else jax.nn.sigmoid
        probabilities = [
            activation(logits) if len(kept) == logits.shape[-1] else activation(logits)[:, np.array(kept, int)]
            for (logits, _), kept in zip(outputs, self.columns, strict=True)
        ]
        return jnp.concatenate(probabilities, 1), jnp.concatenate([kept["embedding"] for _, kept in outputs], 1)

    def specs(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name → (shape without the batch, dtype) of the inputs."""
        every = {"audio": ((self.description.samples,), np.dtype(self.description.waveform)), "maximum": ((), np.float32)}
        return {name: every[name] for name in self.description.inputs}


@contextlib.contextmanager
def program(networks: Networks, waveform: str, licence: str) -> Iterator[Program]:
    """Yield the program of trained networks. It must be traced inside this context."""
    configs = [run.config.copy_and_resolve_references() for run in networks.runs]
    variables = [jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(run.variables)) for run in networks.runs]
    for config in configs:
        with config.unlocked():
            config.dtype = "float32"
            if config.model.name == "bytenet":
                config.model.update(backend="lax", remat="none", time_shards=1)
    flat = {
        f"{number}/{key}": leaf
        for number, tree in enumerate(variables)
        for key, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()
    }
    notes = networks.runs[0].notes
    description = Description(
        name=networks.name,
        labels=networks.labels,
        task=networks.task,
        sample_rate=networks.sample_rate,
        samples=networks.samples,
        hop=networks.hop,
        waveform=waveform,
        inputs=("audio", "maximum") if any(config.augment.gain_cap for config in configs) else ("audio",),
        conditioning=tuple(networks.conditioning),
        licence=licence or notes.get("licence", ""),
        source=notes.get("source", ""),
        weights_sha256=checksum.of_arrays(flat),
        version=genre_jax.__version__,
    )
    with neutral():
        built = [forward.build(config, len(run.labels)) for config, run in zip(configs, networks.runs, strict=True)]
        yield Program(variables, built, networks.columns, description)


@contextlib.contextmanager
def neutral() -> Iterator[None]:
    """What is traced in this context has no form for a platform, and any batch size."""
    parallel.compile_for([types.SimpleNamespace(platform="export")])
    try:
        yield
    finally:
        parallel.compile_for([])
