"""Gaussian mixtures, one a class: the baseline of SwishNet's paper (arXiv 1812.00149; document 003)."""

import warnings
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre_jax.console import UserError, say
from genre_jax.models.network import Network


class Gmm(Network):
    """A mixture of Gaussians with diagonal covariances for each class, over single frames.

    The logits of a clip are the means over its frames of their log-likelihoods under the mixtures: the predicted class is the
    class under which all frames together are likeliest. The parameters are not trained but fitted, by scikit-learn's
    expectation maximisation (`genre_jax.gmm`). Computations are in float32 or float64.

    With 60 features, 3 classes and 256 components it has 92,928 parameters; the paper prints 92,416, which is all means and
    variances and the weights of one mixture.

    Attributes:
      components: Gaussians of a class, ≥ 1.
      frames: frames of a class, on average, that the fit reads, evenly spread over the windows of the training split, ≥ 1.
      iterations: largest number of iterations of expectation maximisation, ≥ 1 (100 is scikit-learn's default).
    """

    components: int = 256
    frames: int = 100_000
    iterations: int = 100

    input_shape = (200, 60)

    def __post_init__(self):
        for key in ("components", "frames", "iterations"):
            if getattr(self, key) < 1:
                raise UserError(f"'model.{key}' must be at least 1, and was given {getattr(self, key)}")
        super().__post_init__()

    def forward(self, x, call):
        """Over `x` (batch, frames, bins).

        "frame_logits" are (batch, frames, num_classes); "embedding" (batch, num_classes · components) is the mean share of
        each Gaussian in its mixture.
        """
        shape = (self.num_classes, self.components, x.shape[-1])
        means = self.param("means", nn.initializers.normal(1.0), shape, self.param_dtype)
        variances = self.param("variances", nn.initializers.ones, shape, self.param_dtype)
        weights = self.param("weights", nn.initializers.constant(1 / self.components), shape[:2], self.param_dtype)
        x = x.astype(jnp.promote_types(self.param_dtype, jnp.float32))
        joint = _log_densities(x, means, variances) + jnp.log(weights)
        frame_logits = jax.nn.logsumexp(joint, -1)
        shares = jnp.exp(joint - frame_logits[..., None]).mean(1).reshape(len(x), -1)
        return frame_logits.mean(1).astype(self.dtype), {"embedding": shares.astype(self.dtype), "frame_logits": frame_logits}

    def count_as_published(self, params: Any) -> int:
        """Parameters as the paper counts them: the weights of one mixture stand for those of all."""
        return params["means"].size + params["variances"].size + self.components

    def fit(self, features: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], seed: int) -> tuple[dict, float]:
        """Parameters fitted to frames `(frames, bins)` of the class numbers `targets` (frames,), and the frames' mean
        log-likelihood under the mixtures of their own classes.

        Raises `UserError` where a class has fewer frames than components, or scikit-learn is not installed.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise UserError("model 'gmm' is fitted by scikit-learn: pip install scikit-learn") from error
        fitted, total = [], 0.0
        for number, label in enumerate(classes):
            own = features[targets == number].astype(np.float64)
            if len(own) < self.components:
                limit = f"at most {len(own)}, the frames of class {label!r}"
                raise UserError(f"'model.components' must be {limit}, and was given {self.components}")
            mixture = GaussianMixture(self.components, covariance_type="diag", max_iter=self.iterations, random_state=seed)
            with warnings.catch_warnings():  # told below
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(own)
            likelihood = mixture.score(own)
            fitted.append((mixture.means_, mixture.covariances_, mixture.weights_))
            total += likelihood * len(own)
            state = "converged" if mixture.converged_ else "stopped"
            say(
                f"{label}: {self.components} Gaussians on {len(own):,} frames, {state} after {mixture.n_iter_} iterations, "
                f"log-likelihood {likelihood:.4g} a frame"
            )
        stacked = (np.stack(values).astype(self.param_dtype) for values in zip(*fitted, strict=True))
        return dict(zip(("means", "variances", "weights"), stacked, strict=True)), total / len(features)


def _log_densities(x: jax.Array, means: jax.Array, variances: jax.Array) -> jax.Array:
    """Of `x` (batch, frames, bins) under each Gaussian (classes, components, bins): (batch, frames, classes, components).

    The square is multiplied out, so that two matrix products do it.
    """
    highest = jax.lax.Precision.HIGHEST

    def product(a, b):
        return jnp.einsum("btd,ckd->btck", a, b, precision=highest)

    squares = product(x * x, 1 / variances) - 2 * product(x, means / variances) + (means**2 / variances).sum(-1)
    return -0.5 * (squares + jnp.log(2 * jnp.pi * variances).sum(-1))
