"""The forward pass: int16 samples → waveform → front end → network, as pure functions of (variables, batch)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from genre_jax import frontends, models, parallel
from genre_jax.augment.waveform import cap_gain
from genre_jax.config_section import component_options
from genre_jax.frontends import Frontend


@dataclasses.dataclass(frozen=True)
class Forward:
    """A front end and a network.

    Its variables are a dict of collections: "params" and "batch_stats" of the network, and "frontend", the statistics of the
    training split that the front end scales by (empty for most front ends).

    Attributes:
      frontend: waveforms (batch, samples) → features.
      model: features → (logits, intermediates).
      wide: type of waveform, front end and loss: float32, or float64 in a float64 run.
      gain_cap: clips whose largest sample exceeds this are scaled down to it; 0 = off.
    """

    frontend: Frontend
    model: models.Network
    wide: jnp.dtype
    gain_cap: float = 0.0

    def init(self, key: jax.Array, samples: int) -> dict[str, Any]:
        """Fresh variables for inputs of `samples`."""

        def init(key):
            features, statistics = self.frontend.init_with_output(key, jnp.zeros((1, samples), self.wide))
            return {"batch_stats": {}, **self.model.init(key, features), "frontend": statistics.get("frontend", {})}

        return jax.jit(init)(key)

    def waveform(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Waveforms (batch, samples) in [-1, 1) of the int16 "audio" of a batch, with the gain of loud clips capped.

        The cap reads "maximum" (batch,), the largest sample of each whole clip.
        """
        y = batch["audio"].astype(self.wide) / 32768
        return cap_gain(y, batch["maximum"], self.gain_cap) if self.gain_cap else y

    def features(self, variables: Any, waveform: jax.Array) -> jax.Array:
        """The input of the network for waveforms (batch, samples)."""
        features: Any = self.frontend.apply({"frontend": variables.get("frontend", {})}, waveform)
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
        """Logits (batch, classes), intermediates, and the "batch_stats" after this batch.

        In training, examples with `mask` (batch,) 0 count in no batch statistics, and `keys` (batch,) draw the dropout masks.
        """
        network = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        (logits, intermediates), updated = self.model.apply(
            network, features, train=train, mask=mask, keys=keys, mutable=["batch_stats"] if train else []
        )
        return logits.astype(self.wide), intermediates, updated.get("batch_stats", network["batch_stats"])

    def __call__(self, variables: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits (batch, classes) and intermediates of a batch, in evaluation mode."""
        logits, intermediates, _ = self.logits(variables, self.features(variables, self.waveform(batch)))
        return logits, intermediates


def build(config: ConfigDict, num_classes: int, axis_name: str | None = None) -> Forward:
    """The forward pass of a config. With `axis_name`, batch statistics are those of all devices on that axis, or of groups."""
    axis: parallel.Axis = axis_name
    if axis_name is not None and config.batch_norm_devices:
        axis = parallel.Group(axis_name, config.batch_norm_devices)
    return Forward(
        frontend=frontends.build(config.frontend.name, config.data.sample_rate, **component_options(config.frontend)),
        model=models.build(
            config.model.name,
            num_classes=num_classes,
            dtype=config.dtype,
            axis_name=axis,
            **component_options(config.model),
        ),
        wide=jnp.dtype("float64" if config.dtype == "float64" else "float32"),
        gain_cap=config.augment.gain_cap,
    )
