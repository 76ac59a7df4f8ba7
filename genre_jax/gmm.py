"""Gaussian mixtures, one per class: the baseline of SwishNet's paper (arXiv 1812.00149; document 003).

The network is fitted to the training split by scikit-learn instead of trained step by step. A run of it goes through `main`
like any other, to the same checkpoint, predictions and results; its fit is its step 1. It reads the front end, data, loss,
evaluation and seed of its config; order, augmentation, optimiser and schedule have no effect.
"""

import warnings
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax.console import UserError, say
from genre_jax.losses import LOSSES
from genre_jax.models.network import Network
from genre_jax.models.pooling import FRAME_VOTES, frame_vote


class Gmm(Network):
    """A mixture of Gaussians with diagonal covariances for each class, over single frames.

    The logits of a frame are its log-likelihoods under the mixtures. Each frame votes for its best class, as in the paper, or
    with `vote` "mean" the class is the one under which all frames together are most likely. The parameters are fitted by
    scikit-learn's expectation maximisation. Computation is in float32 or more.

    With 60 features, 3 classes and 256 components it has 92,928 parameters; the paper prints 92,416, which is all means and
    variances, and the weights of one mixture.

    Attributes:
      components: int ≥ 1, Gaussians per class.
      frames: int ≥ 1, frames per class (on average) that the fit reads, spread evenly over the windows of the training split.
        The paper does not state a number.
      iterations: int ≥ 1, largest number of iterations of expectation maximisation; 100 is scikit-learn's default.
      vote: how the frames of a clip decide, as in `frame_vote`.
    """

    components: int = 256
    frames: int = 100_000
    iterations: int = 100
    vote: str = "majority"

    choices = (("vote", FRAME_VOTES),)
    input_shape = (200, 60)
    left_context: ClassVar[int] = 0  # each frame is classified by itself

    def __post_init__(self):
        for key in ("components", "frames", "iterations"):
            if getattr(self, key) < 1:
                raise UserError(f"'model.{key}' must be at least 1, and was given {getattr(self, key)}")
        super().__post_init__()

    def forward(self, x, call):
        """Logits of features (batch, frames, bins).

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
        shares = jnp.exp(joint - frame_logits[..., None]).mean(1).reshape(x.shape[0], -1)
        clip_logits = frame_vote(frame_logits, self.vote).astype(self.dtype)
        return clip_logits, {"embedding": shares.astype(self.dtype), "frame_logits": frame_logits}

    def count_as_published(self, params: Any) -> int:
        """Number of parameters as the paper counts them, with the weights of one mixture instead of all."""
        return params["means"].size + params["variances"].size + self.components

    def fit(self, features: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], seed: int) -> tuple[dict, float]:
        """Fit the mixtures to frames `features` (frames, bins) with class numbers `targets` (frames,).

        Returns the parameters, and the mean log-likelihood of the frames under the mixtures of their classes. Raises
        `UserError` if a class has fewer frames than components, or scikit-learn is not installed.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise UserError("model 'gmm' is fitted by scikit-learn: pip install scikit-learn") from error
        fitted, total = [], 0.0
        for number, label in enumerate(classes):
            frames = features[targets == number].astype(np.float64)
            if len(frames) < self.components:
                limit = f"at most {len(frames)}, the frames of class {label!r}"
                raise UserError(f"'model.components' must be {limit}, and was given {self.components}")
            mixture = GaussianMixture(self.components, covariance_type="diag", max_iter=self.iterations, random_state=seed)
            with warnings.catch_warnings():  # the line below reports it
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(frames)
            likelihood = mixture.score(frames)
            fitted.append((mixture.means_, mixture.covariances_, mixture.weights_))
            total += likelihood * len(frames)
            state = "converged" if mixture.converged_ else "stopped"
            say(
                f"{label}: {self.components} Gaussians on {len(frames):,} frames, {state} after {mixture.n_iter_} iterations, "
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


# ---------------------------------------------------------------- fitting a run


def check(config: ConfigDict, model: nn.Module) -> bool:
    """Whether `model` is fitted instead of trained; raises `UserError` if its config requests an unsupported option."""
    if not hasattr(model, "fit"):
        return False
    name = config.model.name
    if LOSSES[config.loss.name].task != "single":
        wrong = f"loss.name must be 'softmax', and was given {config.loss.name!r}"
        raise UserError(f"model {name!r} needs one label per clip: {wrong}")
    if config.init_from:
        raise UserError(f"model {name!r} is fitted anew: init_from must be '', and was given {config.init_from!r}")
    return True


def refuse_steps(config: ConfigDict, model: nn.Module) -> None:
    """Raise `UserError` if `model` is fitted: questions about its training steps have no answer."""
    if check(config, model):
        raise UserError(f"model {config.model.name!r} is fitted at once and takes no training steps: run it without this flag")


def fit(run: Any, state: Any) -> tuple[dict, float]:
    """Parameters of the network of a `run.Run`, fitted to its training split, and the mean log-likelihood of the frames.

    The frames are spread evenly over all windows of the split; their number is `frames` per class on average.
    """
    model, index = run.program.network.model, run.splits["train"]
    features, targets = _frames(run, state)
    say(f"fitting {run.config.model.name} to {len(features):,} frames of {features.shape[-1]} features")
    return model.fit(features, targets, index.classes, run.config.seed)


def _frames(run: Any, state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features (frames, bins) of the training split, and the class number (frames,) of each frame."""
    network, index = run.program.network, run.splits["train"]
    share = -(-network.model.frames * len(index.classes) // run.count_windows("train"))  # frames per window

    def features(variables, constants, batch):
        del constants
        x = network.features(variables, network.waveform(batch))
        chosen = np.linspace(0, x.shape[1] - 1, min(share, x.shape[1])).round().astype(int)
        return {"features": x[:, chosen]}

    table = run.over_windows(run.program.devices.eval_step(features), {"frontend": state.frontend}, {}, "train")
    kept = table["features"]
    return kept.reshape(-1, kept.shape[-1]), table["target"].repeat(kept.shape[1])
