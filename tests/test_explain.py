"""Deconvolution against NumPy, the rules of the reverse pass, and the way from a mask back to sound."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from genre_jax import frontends, models
from genre_jax.console import UserError
from genre_jax.explain import choi, inverse, reverse
from genre_jax.models import choi as choi_model
from genre_jax.models.layers import Conv
from genre_jax.models.network import Network

RNG = np.random.default_rng(0)
RATE = 8_000


def small_choi(rows, columns, layers, maps=3):
    """A small network without biases, its variables, and an image of magnitudes."""
    model = models.build("choi_cnn", num_classes=2, layers=layers, maps=maps, hidden=2, use_bias=False)
    image = np.abs(RNG.normal(size=(1, rows, columns, 1))).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(3), image), image


def deconvolved_by_numpy(kernels, image, layer, channel):
    """The deconvolution of the authors' code in NumPy, with loops; shares no code with the package."""
    maps, kept = [image], []
    for kernel in kernels[:layer]:
        _, _, ins, outs = kernel.shape
        outputs, switches = [], []
        for out in range(outs):
            total = sum(scipy.signal.correlate2d(maps[i], kernel[:, :, i, out], "same") for i in range(ins))
            total = np.maximum(total, 0)
            pooled, at = np.zeros([size // 2 for size in total.shape]), np.zeros_like(total)
            for row in range(pooled.shape[0]):
                for column in range(pooled.shape[1]):
                    block = total[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                    i, j = divmod(int(block.argmax()), 2)
                    pooled[row, column], at[2 * row + i, 2 * column + j] = block[i, j], 1
            outputs.append(pooled)
            switches.append(at)
        maps = outputs
        kept.append(switches)
    signal = [pooled if number == channel else 0 * pooled for number, pooled in enumerate(maps)]
    for kernel, switches in zip(kernels[:layer][::-1], kept[::-1], strict=True):
        _, _, ins, outs = kernel.shape
        large = []
        for one, at in zip(signal, switches, strict=True):
            spread = np.zeros_like(at)
            doubled = np.kron(one, np.ones((2, 2)))
            spread[: doubled.shape[0], : doubled.shape[1]] = doubled
            large.append(np.maximum(spread * at, 0))
        signal = [sum(scipy.signal.convolve2d(large[o], kernel[:, :, i, o], "same") for o in range(outs)) for i in range(ins)]
    return signal[0]


@pytest.mark.parametrize("rows, columns, layers", [(16, 24, 2), (17, 13, 2), (21, 27, 3), (9, 8, 3)])
def test_deconvolution_equals_numpy_and_the_general_rule(rows, columns, layers):
    model, variables, image = small_choi(rows, columns, layers)
    kernels = [np.asarray(variables["params"][f"conv{n}"]["kernel"], np.float64) for n in range(1, layers + 1)]
    for layer in range(1, layers + 1):
        exact = jax.jit(choi.deconvolve, static_argnums=(0, 3))(model, variables, image, layer, jnp.arange(3))
        general = jax.jit(reverse.reverse, static_argnums=(0, 3))(model, variables, image, f"conv{layer}", jnp.arange(3))
        assert exact.shape == (3, rows, columns, 1) and np.abs(exact).max() > 1e-3
        np.testing.assert_allclose(general, exact, atol=1e-6)
        for channel in range(3):
            expected = deconvolved_by_numpy(kernels, image[0, :, :, 0].astype(np.float64), layer, channel)
            np.testing.assert_allclose(exact[channel, :, :, 0], expected, atol=1e-6)


def test_the_network_without_biases_reads_the_weights_of_one_with_biases():
    with_biases = models.build("choi_cnn", num_classes=2, layers=2, maps=3, hidden=2)
    model, variables, image = small_choi(12, 12, 2)
    both = jax.jit(with_biases.init)(jax.random.key(3), image)
    moved = jax.tree.map(lambda leaf: leaf + 1.0 if leaf.ndim == 1 else leaf, both)
    for chosen in (both, moved):
        same = choi.deconvolve(model, chosen, image, 2, jnp.arange(3))
        np.testing.assert_allclose(same, choi.deconvolve(model, variables, image, 2, jnp.arange(3)), atol=1e-6)


class TwoLayers(Network):
    """A convolution of kernel 1, the activation `act`, another convolution, on images of one pixel."""

    act: str = "relu"
    input_shape = (1, 1, 1)

    def forward(self, x, call):
        acts = {"relu": nn.relu, "leaky": lambda y: nn.leaky_relu(y, 0.3), "relu6": jax.nn.relu6}
        y = acts[self.act](Conv(2, (1, 1), name="first")(x) - 1.0)  # a shift, as that of a norm
        y = nn.relu(Conv(1, (1, 1), name="second")(y))
        return y[:, 0, 0], {"embedding": y[:, 0, 0]}


@pytest.mark.parametrize(
    "act, rule, expected",
    [
        # first: 2x - 1 = 3 and -x - 1 = -3; second: the map s · 3 - t · f(-3). Back through weights (s, -t) of the second.
        ("relu", "gradient", [2]),
        ("relu", "guided", [2]),
        ("relu", "deconvnet", [2]),
        ("leaky", "gradient", [2 + 0.3]),
        ("leaky", "guided", [2]),
        ("leaky", "deconvnet", [2 + 0.3]),
        ("relu6", "deconvnet", [2]),
    ],
)
def test_rules(act, rule, expected):
    model, x = TwoLayers(num_classes=1, act=act), np.full((1, 1, 1, 1), 2.0, np.float32)
    params = {
        "first": {"kernel": np.float32([[[[2, -1]]]]), "bias": np.zeros(2, np.float32)},
        "second": {"kernel": np.float32([[[[1], [-1]]]]), "bias": np.float32([0.5])},
    }
    found = reverse.maps(model, {"params": params}, jnp.asarray(x))
    assert list(found) == ["first", "second"]
    value = float(found["second"].squeeze())
    back = reverse.reverse(model, {"params": params}, jnp.asarray(x), "second", jnp.arange(1), rule)
    assert float(back.squeeze()) == pytest.approx(expected[0] * value)


def test_deconvnet_passes_signals_through_units_that_did_not_respond():
    model, x = TwoLayers(num_classes=1), np.full((1, 1, 1, 1), 2.0, np.float32)
    params = {
        "first": {"kernel": np.float32([[[[2, -1]]]]), "bias": np.zeros(2, np.float32)},
        "second": {"kernel": np.float32([[[[1], [1]]]]), "bias": np.zeros(1, np.float32)},
    }
    back = {
        r: float(reverse.reverse(model, {"params": params}, jnp.asarray(x), "second", jnp.arange(1), r).squeeze())
        for r in reverse.RULES
    }
    assert back == {"gradient": 6, "guided": 6, "deconvnet": 3}  # the map is 3; 2 - 1 with the unit at -3, 2 without it


NETWORKS = [
    ("resnet18", {"width": 4, "stages": (1, 1)}, (64, 64, 1), {"conv1": (16, 16, 4), "layer1_0": (16, 16, 4), "layer2_0/conv1": (8, 8, 8)}),
    ("densenet121", {"width": 4, "stages": (1, 1), "growth_rate": 4, "remat": True}, (64, 64, 1), {"denseblock2_denselayer1/conv2": (8, 8, 4)}),
    ("mobilenet_v1", {"stages": (1, 1)}, (40, 50, 1), {"conv_dw_1": (20, 25, 8), "conv_pw_2": (10, 12, 32)}),
    ("dense_cnn", {"filters": (4,), "hidden": 4}, (33, 32, 1), {"stage1_2/conv": (33, 32, 4)}),
    ("schindler_shallow", {"hidden": 4}, (80, 80, 1), {"frequency1": (80, 4, 16), "temporal1": (4, 80, 16)}),
    ("burrows_conv2d", {"filters": (4, 4), "hidden": 4}, (40, 50, 1), {"block2/conv": (8, 11, 4)}),
    ("musicnn", {"timbral": 4, "temporal": 2, "middle": 4, "hidden": 8}, (60, 40), {"timbral1": (60, 25, 4), "middle3": (60, 4)}),
    ("musicnn_vgg", {"maps": 4}, (70, 64), {"conv1": (70, 64, 4), "conv5": (4, 4, 4)}),
]  # fmt: skip


@pytest.mark.parametrize("name, options, shape, expected", NETWORKS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_convolutional_network_has_layers_that_come_back(name, options, shape, expected):
    model, features = models.build(name, num_classes=2, **options), RNG.normal(size=(1, *shape)).astype(np.float32)
    shapes = models.abstract_variables(model, shape)
    variables = jax.tree.map(lambda leaf: np.abs(RNG.normal(0.3, 0.3, leaf.shape)).astype(np.float32), shapes)
    found = jax.eval_shape(lambda v, x: reverse.maps(model, v, x), variables, features)
    assert expected.items() <= {layer: array.shape[1:] for layer, array in found.items()}.items()
    layer = list(expected)[-1]
    back = jax.jit(reverse.reverse, static_argnums=(0, 3))(model, variables, features, layer, jnp.arange(2))
    assert back.shape == (2, *shape) and np.isfinite(back).all() and all(np.abs(one).max() > 0 for one in back)


def test_the_gradient_rule_is_the_gradient():
    model = models.build("resnet18", num_classes=2, width=4, stages=(1,), instance_norm=True)
    x = RNG.normal(size=(1, 17, 17, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def energy(x):
        _, kept = model.apply(variables, x)
        return (kept["features"][..., 1] ** 2).sum() / 2

    back = jax.jit(reverse.reverse, static_argnums=(0, 3, 5))(model, variables, x, "layer1_0", jnp.asarray([1]), "gradient")[0]
    np.testing.assert_allclose(back, jax.jit(jax.grad(energy))(x)[0], atol=1e-4 * float(np.abs(back).max()))


@pytest.mark.parametrize("kernel, padding", [((3, 3), "SAME"), ((4, 2), "SAME"), ((5, 7), "VALID"), ((1, 6), "SAME")])
def test_the_fast_backward_pass_of_a_single_channel_is_the_gradient(kernel, padding):
    model, x = Plain(num_classes=1, kernel=kernel, padding=padding), jnp.asarray(RNG.normal(size=(2, 11, 9, 1)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    back = jax.jit(jax.grad(lambda x: (reverse.maps(model, variables, x)["conv"] ** 2).sum()))(x)
    direct = jax.jit(jax.grad(lambda x: (model.apply(variables, x)[1]["map"] ** 2).sum()))(x)
    assert float(jnp.abs(direct).max()) > 0.1
    np.testing.assert_allclose(back, direct, atol=1e-5)


def song(samples=RATE):
    time = np.arange(samples) / RATE
    return (0.3 * np.sin(2 * np.pi * 500 * time) + 0.3 * np.sin(2 * np.pi * 2500 * time) + RNG.normal(0, 0.02, samples)).astype(
        np.float32
    )


class Plain(Network):
    """A single convolution of an image."""

    kernel: tuple[int, int] = (3, 3)
    padding: str = "SAME"
    input_shape = (129, 126, 1)

    def forward(self, x, call):
        y = nn.relu(Conv(1, self.kernel, padding=self.padding, name="conv")(x))
        return y.sum((1, 2)), {"embedding": y.sum((1, 2)), "map": y}


def test_an_identity_network_with_all_switches_returns_the_source(monkeypatch):
    """Windows of one pixel let every switch pass; the mask is the magnitude, and mask × phase is the spectrum."""
    for module in (choi_model, choi):
        monkeypatch.setattr(module, "POOL", (1, 1))
    front = frontends.build("choi_stft", RATE, n_fft=256, hop_length=64)
    y = song()
    image = front.apply({}, y[None])
    model = models.build("choi_cnn", num_classes=1, layers=5, maps=1, hidden=1, use_bias=False)
    delta = np.zeros((3, 3, 1, 1), np.float32)
    delta[1, 1] = 1
    params = {f"conv{n}": {"kernel": delta} for n in range(1, 6)}
    size = image.shape[1] * image.shape[2]
    params |= {"hidden": {"kernel": np.zeros((size, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    params |= {"fc": {"kernel": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    back = choi.deconvolve(model, {"params": params}, image, 5, jnp.arange(1))[0]
    inv = inverse.Inverse(front, len(y))
    heard = inverse.auralise(inv, jnp.asarray(y), inv.mask(back), phase_only=True)
    assert np.abs(heard - y).max() < 1e-4
    weighed = inverse.auralise(inv, jnp.asarray(y), inv.mask(back))  # magnitude and phase: loud cells become louder
    assert np.abs(weighed - y).max() > 0.1
    assert np.abs(inverse.auralise(inv, jnp.asarray(y), np.ones_like(inv.mask(back))) - y).max() < 1e-5


def test_a_band_pass_network_returns_its_band():
    front = frontends.build("choi_stft", RATE, n_fft=256, hop_length=64)
    y = song()
    image = front.apply({}, y[None])
    hertz = np.arange(129) * RATE / 256
    band = (hertz > 300) & (hertz < 800)
    model = Plain(num_classes=1, kernel=(129, 1), padding="VALID")
    kernel = np.float32(band)[:, None, None, None]
    variables = {"params": {"conv": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}}
    inv = inverse.Inverse(front, len(y))
    mask = inv.mask(reverse.reverse(model, variables, image, "conv", jnp.arange(1))[0])
    energy = np.abs(np.fft.rfft(inverse.auralise(inv, jnp.asarray(y), mask))) ** 2
    frequencies = np.fft.rfftfreq(len(y), 1 / RATE)
    outside = (frequencies < 200) | (frequencies > 900)
    before = np.abs(np.fft.rfft(y)) ** 2
    assert before[outside].sum() > 0.4 * before.sum() and energy[outside].sum() < 1e-3 * energy.sum()


MEL = [
    ("log_mel", {"n_fft": 256, "hop_length": 64, "n_mels": 20}),
    ("log_mel_image", {"n_fft": 256, "hop_length": 64, "n_mels": 20, "height": 33, "width": 50}),
    ("schindler_log_mel", {"n_fft": 256, "hop_length": 64, "n_mels": 20}),
    ("burrows_melgram", {"n_fft": 256, "hop_length": 64, "n_mels": 20, "frames": 100}),
    ("burrows_melgram", {"n_fft": 256, "hop_length": 64, "n_mels": 20, "frames": 150}),
    ("musicnn_log_mel", {"n_fft": 256, "hop_length": 64, "n_mels": 20}),
    ("swishnet_log_mel", {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 20}),
    ("swishnet_log_mel", {"n_fft": 256, "win_length": 200, "hop_length": 80, "n_mels": 20, "image": True, "upright": True}),
    ("log_mel_image", {"n_fft": 256, "hop_length": 64, "n_mels": 20, "height": 50, "width": 33, "upright": True}),
]


@pytest.mark.parametrize("name, options", MEL, ids=lambda value: value if isinstance(value, str) else "")
def test_mel_masks_become_masks_of_bins(name, options):
    """Equal weights stay equal, and the weights of a band of frequencies and a span of time stay there."""
    front = frontends.build(name, RATE, **options)
    y, rng = song(), np.random.default_rng(1)
    shape = jax.eval_shape(front.init_with_output, jax.random.key(0), y[None])[0].shape[1:]
    inv = inverse.Inverse(front, len(y))
    spectrum = np.asarray(inv.spectrum(jnp.asarray(y)))
    whole = inv.mask(np.ones(shape, np.float32))
    assert whole.shape == (len(spectrum) - 2 * inv.margin, spectrum.shape[1])
    seen = slice(30, 90) if "frames" in options else slice(None)
    low, high = 8, 100  # bins that several filters cover
    assert np.abs(whole[seen, low:high] - 1).max() < 0.35 and whole.min() >= 0
    np.testing.assert_allclose(inv.sound(inv.spectrum(jnp.asarray(y))), y, atol=1e-4)
    part = np.zeros(shape, np.float32)
    by_band = part[..., 0] if front.image else part
    by_band = by_band if front.image and not front.upright else by_band.T
    by_band[: by_band.shape[0] // 3, : by_band.shape[1] // 2] = 1 + rng.random()
    mask = inv.mask(part)
    assert (
        mask[:, 70:].max() < 0.3 * mask.max()
        and mask[int(0.7 * len(mask)) :].max() < 0.1 * mask.max()
        and mask[len(mask) // 4].max() > 0.9
    )


STFTS = [*MEL, ("choi_stft", {"n_fft": 256, "hop_length": 64}), ("spectrogram", {"n_fft": 256, "hop_length": 100})]


@pytest.mark.parametrize("samples", [RATE, RATE - 37])
@pytest.mark.parametrize("name, options", STFTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_masked_sound_has_no_clicks_at_its_ends(name, options, samples):
    """A mask makes frames inconsistent; a division by the small weight of the first samples would make them a click."""
    y = jnp.asarray(song(samples))
    inv = inverse.Inverse(frontends.build(name, RATE, **options), samples)
    shape = len(inv.spectrum(y)) - 2 * inv.margin, 129
    mask = np.random.default_rng(2).random(shape).astype(np.float32)
    for phase_only in (False, True):
        heard = np.abs(inverse.auralise(inv, y, mask, phase_only))
        outer = max(heard[:256].max(), heard[-256:].max())
        assert 0 < outer <= 10 ** (6 / 20) * heard[256:-256].max()


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("mfcc", {}, "the front end Mfcc has no spectrogram to whose cells a mask could belong"),
        ("mfcc_htk", {}, "the front end MfccHtk has no"),
        ("waveform", {}, "the front end Waveform has no"),
        ("cqt", {}, "the front end Cqt has no"),
        ("log_mel", {"deltas": 1}, "the front end LogMel has deltas=1"),
        ("spectrogram", {"statistics": ("mean",)}, "the front end Spectrogram has statistics=mean"),
    ],
)
def test_front_ends_that_cannot_be_inverted(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        inverse.Inverse(frontends.build(name, RATE, **options), RATE)


def test_normalised():
    np.testing.assert_allclose(inverse.normalised(np.float32([0.1, -0.2])), [0.45, -0.9])
    assert not inverse.normalised(np.zeros(3, np.float32)).any()
