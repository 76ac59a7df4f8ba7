"""The forward pass: front end + network as one pure function of (variables, audio)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from genre_jax import frontends, models
from genre_jax.config import component_options
from genre_jax.frontends import Frontend


def to_waveform(audio: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """int16 PCM as floats in [-1, 1): divided by 32768."""
    return audio.astype(dtype) / 32768


@dataclasses.dataclass(frozen=True)
class Forward:
    """A front end and a network; a teacher is another one of these with variables of its own."""

    frontend: Frontend
    model: nn.Module
    wide: jnp.dtype  # of waveform, front end and loss: float32, or float64 in a float64 run

    def init(self, key: jax.Array, samples: int) -> Any:
        """Variables {"params", and "batch_stats" where front end or network have them} for inputs of `samples`.

        The fitted statistics of a front end are batch_stats/frontend; they are fresh here.
        """

        def init(key):
            features, fitted = self.frontend.init_with_output(key, jnp.zeros((1, samples), self.wide))
            variables = self.model.init(key, features)
            if fitted:
                variables["batch_stats"] = variables.get("batch_stats", {}) | {"frontend": fitted["batch_stats"]}
            return variables

        return jax.jit(init)(key)

    def features(self, variables: Any, waveform: jax.Array) -> jax.Array:
        """What the network reads of waveforms (batch, samples)."""
        fitted = variables.get("batch_stats", {}).get("frontend", {})
        features: Any = self.frontend.apply({"batch_stats": fitted}, waveform)
        return features

    def logits(
        self,
        variables: Any,
        features: jax.Array,
        *,
        train: bool = False,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        """Logits (batch, classes) of what `features` gives, intermediates, and the batch statistics after it."""
        statistics = variables.get("batch_stats", {})
        fitted = {"frontend": statistics["frontend"]} if "frontend" in statistics else {}
        (logits, intermediates), updated = self.model.apply(
            variables, features, train=train, mask=mask, keys=keys, mutable=["batch_stats"] if train else []
        )
        return logits.astype(self.wide), intermediates, updated.get("batch_stats", statistics) | fitted

    def __call__(self, variables: Any, waveform: jax.Array, **options: Any) -> tuple[jax.Array, dict[str, jax.Array], Any]:
        """`logits` of waveforms (batch, samples)."""
        return self.logits(variables, self.features(variables, waveform), **options)


def build(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> Forward:
    """The forward pass that a config describes."""
    return Forward(
        frontend=frontends.build(config.frontend.name, config.data.sample_rate, **component_options(config.frontend)),
        model=models.build(
            config.model.name,
            num_classes=num_classes,
            dtype=config.dtype,
            axis_name=axis_name,
            **component_options(config.model),
        ),
        wide=jnp.dtype("float64" if config.dtype == "float64" else "float32"),
    )
