"""Scaling and resizing against scikit-learn, and against their definitions point by point in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from genre_jax.frontends import scaling

RNG = np.random.default_rng(0)
X = RNG.normal(3, 7, (2, 13, 5))


@pytest.mark.parametrize("align_corners", [True, False])
def test_resize_is_bilinear(align_corners):
    """Equals the definition, point by point in float64: `interpolate` of PyTorch without antialiasing."""
    image = RNG.normal(size=(7, 5))
    for height, width in [(7, 5), (13, 9), (3, 2), (1, 4)]:
        expected = np.empty((height, width))
        for i, j in np.ndindex(height, width):
            if align_corners:
                y = i * 6 / (height - 1) if height > 1 else 0.0
                x = j * 4 / (width - 1) if width > 1 else 0.0
            else:
                y, x = np.clip((i + 0.5) * 7 / height - 0.5, 0, 6), np.clip((j + 0.5) * 5 / width - 0.5, 0, 4)
            top, left = int(y), int(x)
            rows, columns = (top, min(top + 1, 6)), (left, min(left + 1, 4))
            fy, fx = y - top, x - left
            expected[i, j] = sum(
                (fy if a else 1 - fy) * (fx if b else 1 - fx) * image[rows[a], columns[b]] for a in (0, 1) for b in (0, 1)
            )
        ours = scaling.resize(jnp.asarray(image, jnp.float32), height, width, align_corners=align_corners)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_peak_normalise():
    y = jnp.asarray([[0.1, 0.3, -0.1, 0.1], [0.0, 0, 0, 0]], jnp.float32)
    np.testing.assert_allclose(scaling.peak_normalise(y), [[0, 1, -1, 0], [0, 0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaling_of_each_clip(dtype):
    """Equals scikit-learn for a clip as a single column."""
    with jax.enable_x64(dtype == np.float64):
        tolerance = 1e-6 if dtype == np.float32 else 1e-13
        x = jnp.asarray(X, dtype)
        for ours, reference in ((scaling.min_max, MinMaxScaler()), (scaling.z_score, StandardScaler())):
            expected = [reference.fit_transform(clip.reshape(-1, 1)).reshape(clip.shape) for clip in X]
            assert ours(x).dtype == dtype
            np.testing.assert_allclose(ours(x), expected, atol=10 * tolerance)
        centred = X - X.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(scaling.mean_max(x), centred / np.abs(centred).max((1, 2), keepdims=True), atol=tolerance)


def test_statistics_of_a_training_set():
    """The moments of clips give scikit-learn's StandardScaler over all frames. A constant bin is only shifted."""
    x = X.copy()
    x[..., 2] = 4.0
    mean, std = scaling.pooled_statistics(x.mean(1), x.var(1))
    scaler = StandardScaler().fit(x.reshape(-1, 5))
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-13)
    np.testing.assert_allclose(std, np.sqrt(scaler.var_), rtol=1e-12)
    ours = scaling.standardise(jnp.asarray(x, jnp.float32), mean.astype(np.float32), std.astype(np.float32))
    np.testing.assert_allclose(ours, scaler.transform(x.reshape(-1, 5)).reshape(x.shape), atol=2e-6)


@pytest.mark.parametrize("scale", [scaling.min_max, scaling.mean_max, scaling.z_score])
def test_constant_clips_become_zero_with_finite_gradient_and_nan_stays(scale):
    constant = jnp.full((1, 4, 3), 2.5)
    assert (scale(constant) == 0).all()
    assert np.isfinite(jax.grad(lambda x: scale(x).sum())(constant)).all()
    assert np.isnan(scale(constant.at[0, 1, 1].set(jnp.nan))).any()
