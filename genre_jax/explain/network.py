"""A trained network whose filters are heard: its layers, their responses, and its answers."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import console, forward
from genre_jax.console import UserError
from genre_jax.explain import choi, inverse, reverse
from genre_jax.models.burrows import BurrowsConv1d
from genre_jax.models.choi import ChoiCnn
from genre_jax.weights import pretrained

BATCH = 8  # windows that are computed at once
DEFAULT_LAYERS = 5


class Explained:
    """A trained network.

    Attributes:
      config, labels: as in `pretrained.Trained`.
      forward: its front end and network.
      variables: its variables.
      layers: name of a layer → shape of its map (…, channels), in the order of the computation.
    """

    def __init__(self, source: str | Path):
        """Load a workdir, a file of `save_pretrained` or published weights. Raise `UserError` if it is none."""
        trained = pretrained.load_trained(source)
        self.config, self.labels = trained.config, trained.labels
        if self.config.dtype == "float64":
            raise UserError(f"{source} computes in float64, and explain in float32: train with dtype=float32")
        self.forward = forward.build(self.config, len(self.labels))
        self.variables = jax.device_put(trained.variables)
        # Choi's deconvolution has a forward pass without biases. The answers of the network are computed with them.
        self._model = self.forward.model.clone(use_bias=False) if self.is_choi else self.forward.model
        self._waveform = jax.jit(lambda pcm, maximum: self.forward.waveform({"audio": pcm, "maximum": maximum}))
        self._features = jax.jit(self.forward.features)
        self.layers: dict[str, tuple[int, ...]] = {}
        silence = jax.ShapeDtypeStruct((1, self.config.data.samples), jnp.float32)
        jax.eval_shape(self._listed, self.variables, silence)

    def untrained(self) -> "Explained":
        """Return the same network with fresh weights, seed 0. The statistics of its front end are those of the training."""
        other = copy.copy(self)
        fresh = self.forward.init(jax.random.key(0), self.config.data.samples)
        other.variables = fresh | {"frontend": self.variables["frontend"]}
        return other

    def why_unheard(self) -> str:
        """Return why no filter of the network can be played, or ""."""
        if reason := inverse.fault(self.forward.frontend):
            return f"front end {self.config.frontend.name} {reason}: filters cannot be played"
        return "" if self.layers else f"network {self.config.model.name} has no convolutional layer: no filter can be played"

    def sizes(self, layer: str) -> str:
        """Return the shape of a layer's map in words, as "128 frequencies × 86 frames × 16 filters"."""
        *sides, filters = self.layers[layer]
        front = self.forward.frontend
        by_frequency = (front.image and not front.upright) or isinstance(self.forward.model, BurrowsConv1d)
        names = ("frequencies", "frames") if by_frequency else ("frames", "frequencies")
        return " × ".join(
            f"{size:,} {name}" for size, name in zip((*sides, filters), (*names[: len(sides)], "filters"), strict=True)
        )

    @property
    def is_choi(self) -> bool:
        """Whether the network is that of document 003."""
        return isinstance(self.forward.model, ChoiCnn)

    def _listed(self, variables, waveforms):
        """Set `layers` while the function is traced."""
        found = reverse.maps(self._model, _network(variables), self.forward.features(variables, waveforms))
        self.layers = {name: array.shape[1:] for name, array in found.items()}
        return tuple(found.values())

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Return the layers with these names; none names `DEFAULT_LAYERS` of them, evenly over the depth of the network.

        Raises `UserError` for an unknown layer. The network has layers.
        """
        for name in names:
            if name not in self.layers:
                raise console.unknown("layer", name, self.layers)
        outer = [name for name in self.layers if "/" not in name] or list(self.layers)
        places = np.unique(np.linspace(0, len(outer) - 1, DEFAULT_LAYERS).round().astype(int))
        return list(names) or [outer[place] for place in places]

    def waveforms(self, pcm: np.ndarray, maximum: float) -> np.ndarray:
        """Return the waveforms float32 (windows, samples) that the front end gets for int16 windows."""
        return np.asarray(self._waveform(pcm, np.full(len(pcm), maximum, np.float32)))

    def above_silence(self, layers: Sequence[str], waveforms: np.ndarray) -> dict[str, np.ndarray]:
        """Return layer → activation of each filter, (windows, filters), for waveforms (windows, samples).

        The activation is the mean of the positive part of the filter's map, minus the same for silence: a filter that responds
        to its bias alone has the activation 0.
        """
        if not layers:
            return {}
        waveforms = np.concatenate([waveforms, np.zeros_like(waveforms[:1])])
        parts = [self._means(self.variables, batch, tuple(layers)) for batch in _batches(waveforms)]
        found = {}
        for number, layer in enumerate(layers):
            means = np.concatenate([np.asarray(part[number]) for part in parts])[: len(waveforms)]
            found[layer] = means[:-1] - means[-1]
        return found

    @functools.cached_property
    def _means(self) -> Callable:
        def means(variables, waveforms, layers):
            found = reverse.maps(self._model, _network(variables), self.forward.features(variables, waveforms))
            maps = [jnp.maximum(found[layer], 0) for layer in layers]
            return [array.mean(range(1, array.ndim - 1)) for array in maps]

        return jax.jit(means, static_argnums=2)

    def weights(self, waveform: np.ndarray, layer: str, filters: Sequence[int], rule: str) -> jax.Array:
        """Bring filters of a layer back to the input of the network, for a waveform (samples,): (filters, …).

        For Choi's network and the rule "deconvnet" this is `choi.deconvolve`, for all others `reverse.reverse`.
        """
        features = self._features(self.variables, waveform[None])
        channels = jnp.asarray(filters)
        if self.is_choi and rule == "deconvnet":
            number = list(self.layers).index(layer) + 1
            return _deconvolve(self._model, self.variables, features, number, channels)
        return _reverse(self._model, _network(self.variables), features, layer, channels, rule)

    def logits(self, waveforms: np.ndarray) -> np.ndarray:
        """Return the logits (windows, labels) of waveforms (windows, samples)."""
        parts = [np.asarray(self.answers(self.variables, batch)) for batch in _batches(waveforms)]
        return np.concatenate(parts)[: len(waveforms)]

    @functools.cached_property
    def answers(self) -> Callable:
        """A compiled function of variables and waveforms (batch, samples) → logits (batch, labels)."""
        return jax.jit(lambda variables, y: self.forward.logits(variables, self.forward.features(variables, y))[0])


_deconvolve = jax.jit(choi.deconvolve, static_argnums=(0, 3))
_reverse = jax.jit(reverse.reverse, static_argnums=(0, 3, 5))


def _network(variables):
    return {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def _batches(waveforms: np.ndarray):
    """Yield batches of `BATCH` rows; zeros complete the last one, so that a program is compiled once."""
    for first in range(0, len(waveforms), BATCH):
        part = waveforms[first : first + BATCH]
        yield np.pad(part, ((0, BATCH - len(part)), (0, 0)))
