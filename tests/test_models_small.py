"""The recurrent, gated, self-normalising and small convolutional networks: counts, definitions, options."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import learn_by_heart

from genre_jax import models
from genre_jax.models import gru, layers, pooling, snn

RNG = np.random.default_rng(0)

# Small variants: input shape, options.
SMALL = {
    "gru_attention": ((9, 5), {"hidden": 6, "features": 4}),
    "schindler_shallow": ((41, 43, 1), {"width": 2, "hidden": 7}),
    "schindler_deep": ((41, 43, 1), {"width": 2, "hidden": 7}),
    "swishnet_slim": ((21, 5), {}),
    "snn": ((7, 6), {"hidden": (12, 8)}),
    "burrows_mlp": ((9,), {"hidden": (32, 32)}),
    "burrows_conv1d": ((6, 33), {"filters": (4, 5)}),
    "burrows_conv2d": ((29, 31, 1), {"filters": (3, 4, 3), "hidden": 6}),
    "folmer_cnn": ((13, 11, 1), {"filters": (3, 4), "hidden": 6}),
    "folmer_mlp": ((5, 6, 1), {"hidden": (7, 6)}),
    "dense_cnn": ((13, 11, 1), {"filters": (3, 4), "dense_layers": 2, "hidden": 6}),
    "choi_cnn": ((19, 17, 1), {"layers": 3, "maps": 4, "hidden": 6}),
}
DROPOUT_FREE = {"gru_attention"}


def small(name: str, dtype: str = "float32", **options):
    """The small variant of a network, three classes, and variables that NumPy makes (to compile initialisers takes long)."""
    shape, sizes = SMALL[name]
    net = models.build(name, num_classes=3, dtype=dtype, **(sizes | options))

    def value(path, like):
        if path[-1] in ("scale", "var"):
            return np.ones(like.shape, np.float32)
        scale = 0.1 if len(like.shape) == 1 else np.prod(like.shape[:-1]) ** -0.5
        return RNG.normal(0, scale, like.shape).astype(np.float32)

    flat = flax.traverse_util.flatten_dict(models.abstract_variables(net, shape))
    return net, flax.traverse_util.unflatten_dict({path: value(path, like) for path, like in flat.items()})


def initialised(name: str, *path: str, **options) -> np.ndarray:
    """The parameter at `path` of a small variant as its initialiser made it."""
    shape, sizes = SMALL[name]
    net = models.build(name, num_classes=3, **(sizes | options))

    @jax.jit
    def leaf(key):
        return functools.reduce(lambda tree, part: tree[part], path, net.init(key, jnp.zeros((1, *shape)))["params"])

    return np.asarray(leaf(jax.random.key(0)))


def inputs(name: str, batch: int) -> np.ndarray:
    return RNG.normal(size=(batch, *SMALL[name][0])).astype(np.float32)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("name", "classes", "options", "count"),
    [
        ("gru_attention", 67, {}, 61_284_567),
        ("schindler_shallow", 10, {}, 2_060_642),
        ("schindler_shallow", 10, {"use_bias": False}, 2_060_610),
        ("schindler_deep", 10, {}, 1_280_002),
        ("schindler_deep", 10, {"use_bias": False}, 1_279_522),
        ("schindler_deep", 10, {"first_frames": 20}, 1_283_362),
        ("swishnet_slim", 3, {}, 5_483),
        ("swishnet_wide", 3, {}, 18_267),
        ("snn", 3, {}, 179_203),
        ("burrows_mlp", 8, {}, 88_584),
        ("burrows_conv1d", 8, {}, 255_656),
        ("burrows_conv2d", 8, {}, 2_796_648),
    ],
)
def test_published_counts(name, classes, options, count):
    assert models.count_parameters(name, num_classes=classes, **options) == count


def counts_of(name: str, classes: int) -> dict[str, int]:
    params = models.abstract_variables(models.build(name, num_classes=classes))["params"]
    return {module: models.count(values) for module, values in params.items()}


def test_published_counts_of_parts():
    attention = counts_of("gru_attention", 67)
    assert attention["encoder"] == 19_605_000
    assert sum(attention.values()) - attention["encoder"] == 41_679_567
    trunk = [n for module, n in counts_of("choi_cnn", 3).items() if module.startswith("conv")]
    assert (len(trunk), sum(trunk)) == (5, 148_352)
    blocks = {"conv1": 976, "separable1": 456, "conv2": 392, "separable2": 232, "conv3": 200, "separable3": 120,
              "conv4": 400, "conv5": 400, "conv6": 400, "conv7": 400, "conv8": 800, "hidden": 656, "fc": 51}  # fmt: skip
    assert counts_of("swishnet_slim", 3) == blocks
    dense = counts_of("burrows_conv2d", 8)
    assert dense["hidden"] == 10_624 * 256 + 256


def test_published_shapes():
    def shapes(name, shape):
        net = models.build(name, num_classes=10)
        x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        (logits, kept), _ = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
        assert logits.shape == (2, 10)
        return {key: value.shape[1:] for key, value in kept.items()}

    choi = shapes("choi_cnn", (257, 173, 1))
    assert [choi[f"pooled{n}"][:2] for n in range(1, 6)] == [(128, 86), (64, 43), (32, 21), (16, 10), (8, 5)]
    for bins in (80, 84):
        assert shapes("schindler_shallow", (bins, 80, 1))["frequency"] == (bins, 4, 16)
    assert shapes("schindler_shallow", (80, 80, 1))["temporal"] == (4, 80, 16)
    deep = shapes("schindler_deep", (80, 80, 1))
    assert (deep["frequency"], deep["temporal"]) == ((10, 2, 128), (2, 10, 128))
    assert shapes("gru_attention", (161, 112))["attention"] == (161, 161)
    assert shapes("burrows_conv1d", (2500, 80))["embedding"] == (1152,)
    dense = models.abstract_variables(models.build("dense_cnn", num_classes=10))["params"]
    read = [dense[f"stage{stage}_{layer}"]["conv"]["kernel"].shape[2] for stage in (1, 2) for layer in range(3)]
    assert read == [1, 17, 33, 49, 81, 113]


# ---------------------------------------------------------------- every network: types, gradients, keys, masks


def one_pass(net):
    """Logits, intermediates, batch statistics, loss and gradients of a training pass, in one program."""

    @jax.jit
    def run(variables, x, mask, keys):
        def loss_of(params):
            (logits, kept), updated = net.apply(
                {**variables, "params": params}, x, train=True, mask=mask, keys=keys, mutable=["batch_stats"]
            )
            loss = (optax.softmax_cross_entropy(logits.astype(jnp.float32), jnp.eye(3)[jnp.arange(len(x)) % 3]) * mask).sum()
            return loss, (logits, kept, updated)

        (loss, (logits, kept, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        return logits, kept["embedding"], updated, loss, gradients

    return run


def assert_finite(tree):
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


LIKE = {"burrows_mlp", "burrows_conv1d", "folmer_mlp", "schindler_deep"}  # like others that `make test` takes


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in LIKE else []) for name in SMALL])
def test_training_pass(name):
    """Finite, with a gradient for every parameter; what an example gets depends on it and its key alone, not on its place
    or on masked examples."""
    net, variables = small(name)
    run = one_pass(net)
    x, keys, mask = inputs(name, 4), jax.random.split(jax.random.key(1), 4), np.array([1, 1, 1, 0], np.float32)
    logits, embedding, updated, loss, gradients = run(variables, x, mask, keys)
    assert logits.shape == (4, 3) and embedding.shape[0] == 4 and embedding.ndim == 2
    assert_finite((logits, embedding, updated, loss, gradients))
    for path, leaf in flax.traverse_util.flatten_dict(gradients).items():
        assert np.abs(leaf).max() > 0, path
    order = np.array([3, 1, 0, 2])
    rubbish = np.where(mask[:, None] > 0, x.reshape(4, -1), 50).reshape(x.shape)
    moved, _, _, _, _ = run(variables, rubbish[order], mask[order], keys[order])
    counted = mask[order] > 0
    np.testing.assert_allclose(moved[counted], logits[order][counted], atol=1e-5)
    redrawn = run(variables, x, mask, keys[::-1])[0]
    assert (np.abs(redrawn - logits).max() > 1e-3) == (name not in DROPOUT_FREE)


QUICK = {"gru_attention", "swishnet_slim", "snn"}  # `make test-all` takes the others too


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SMALL])
def test_bfloat16_training_pass(name):
    net, variables = small(name, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits, embedding, _, loss, gradients = one_pass(net)(variables, inputs(name, 2), np.ones(2, np.float32), None)
    assert logits.dtype == embedding.dtype == jnp.bfloat16
    assert_finite((logits, embedding, loss, gradients))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_learns_eight_clips_by_heart(name):
    net, _ = small(name, **({} if name in DROPOUT_FREE else {"dropout": 0.0}))
    assert learn_by_heart(net, jnp.asarray(inputs(name, 8)), jnp.arange(8) % 3, 1e-2, 400) < 0.05


# ---------------------------------------------------------------- GRU and attention


def gru_arguments(time=7, batch=3, hidden=4):
    shapes = (time, batch, 3 * hidden), (hidden, 3 * hidden), (3 * hidden,), (batch, hidden)
    return [jnp.asarray(RNG.normal(size=shape)) for shape in shapes]


def test_gru_equals_the_recurrence_and_its_gradient():
    """PyTorch's equations step by step in NumPy; the hand-written backward pass against that of the plain scan."""
    with jax.enable_x64(True):
        arguments = gru_arguments()
        inputs, kernel, bias, state = map(np.asarray, arguments)
        expected = []
        for x in inputs:
            a, b = np.split(x, 3, -1), np.split(state @ kernel + bias, 3, -1)
            reset, update = (1 / (1 + np.exp(-(a[i] + b[i]))) for i in (0, 1))
            candidate = np.tanh(a[2] + reset * b[2])
            state = (1 - update) * candidate + update * state
            expected.append(state)
        target = jnp.asarray(RNG.normal(size=(7, 3, 4)))

        def plain(inputs, kernel, bias, state):
            def step(state, x):
                a, b = jnp.split(x, 3, -1), jnp.split(state @ kernel + bias, 3, -1)
                reset, update = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
                state = (1 - update) * jnp.tanh(a[2] + reset * b[2]) + update * state
                return state, state

            return jax.lax.scan(step, state, inputs)[1]

        @jax.jit
        def both(*arguments):
            def gradient(function):
                return jax.grad(lambda *a: (function(*a) * target).sum(), argnums=(0, 1, 2, 3))(*arguments)

            return gru.gru(*arguments), gradient(gru.gru), gradient(plain)

        states, ours, theirs = both(*arguments)
        np.testing.assert_allclose(states, np.stack(expected), rtol=0, atol=1e-14)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("score", gru.SCORES)
def test_attention_equals_its_definition(score):
    net, variables = small("gru_attention", score=score)
    _, kept = jax.jit(net.apply)(variables, inputs("gru_attention", 2))
    np.testing.assert_allclose(kept["attention"].sum(-1), 1, atol=1e-6)
    with jax.enable_x64(True):
        encoded, decoded = RNG.normal(size=(2, 5, 4)), RNG.normal(size=(2, 3, 4))
        module = gru.Score(score, jnp.float64, jnp.float64)
        ours, state = jax.jit(module.init_with_output)(jax.random.key(0), decoded, encoded)
        params = jax.device_get(state.get("params", {}))
    expected = np.zeros((2, 3, 5))
    for b, t, s in np.ndindex(2, 3, 5):
        h_t, h_s = decoded[b, t], encoded[b, s]
        if score == "concat":
            expected[b, t, s] = params["vector"] @ np.tanh(np.concatenate([h_t, h_s]) @ params["kernel"])
        else:
            expected[b, t, s] = h_t @ (h_s @ params["kernel"] if score == "general" else h_s)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_attention_matters_and_pooled_head_reads_any_length():
    net, variables = small("gru_attention", head="pooled")
    run = jax.jit(net.apply)
    x = inputs("gru_attention", 2)
    logits, kept = run(variables, x)
    params = variables["params"]
    sharper, other = run({"params": params | {"score": {"kernel": params["score"]["kernel"] * 30}}}, x)
    assert np.abs(kept["attention"] - other["attention"]).max() > 0.01
    assert np.abs(logits - sharper).max() > 1e-4
    assert run(variables, np.concatenate([x, x], 1))[1]["attention"].shape == (2, 18, 18)


# ---------------------------------------------------------------- SwishNet


def test_swishnet_is_causal_and_sees_202_frames():
    net, variables = small("swishnet_slim", readout="frames")
    run = jax.jit(lambda x: net.apply(variables, x)[1]["frame_logits"])
    x = RNG.normal(size=(1, 260, 5)).astype(np.float32)
    logits = run(x)
    later = x.copy()
    later[:, 100:] = 9
    np.testing.assert_array_equal(run(later)[:, :100], logits[:, :100])
    assert np.abs(run(later) - logits)[0, 100].max() > 1e-4
    first = x.copy()
    first[:, 10] += 9
    difference = np.abs(run(first) - logits)[0].max(-1)
    assert difference[10] > 1e-4 and difference[211] > 0
    np.testing.assert_array_equal(difference[212:], 0)


def test_swishnet_reads_the_frame_that_it_says():
    x, keys = inputs("swishnet_slim", 128), jax.random.split(jax.random.key(3), 128)
    _, variables = small("swishnet_slim")

    @jax.jit
    def run(x):
        def apply(readout, **options):
            return small("swishnet_slim", readout=readout, dropout=0.0)[0].apply(variables, x, **options)

        mean, kept = apply("frames", train=True, keys=keys)
        evaluated, last = apply("random", keys=keys)[0], apply("last", train=True, keys=keys)[0]
        return mean, kept["frame_logits"], apply("random", train=True, keys=keys)[0], evaluated, last

    mean, frames, drawn, evaluated, last = map(np.asarray, run(x))
    np.testing.assert_allclose(mean, frames.mean(1), atol=1e-6)
    np.testing.assert_allclose(evaluated, frames[:, -1], atol=1e-6)
    np.testing.assert_allclose(last, frames[:, -1], atol=1e-6)
    gap = np.abs(frames - drawn[:, None]).max(-1)
    assert gap.min(1).max() < 1e-5
    assert set(gap.argmin(1)) == set(range(10, 21))  # the last half of 21 frames, all of it


def test_gate_halves():
    x = RNG.normal(size=(2, 6))
    np.testing.assert_allclose(layers.gate(jnp.asarray(x)), np.tanh(x[:, :3]) / (1 + np.exp(-x[:, 3:])), atol=1e-6)


# ---------------------------------------------------------------- SNN


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_alpha_dropout_keeps_mean_and_variance(rate):
    keys = jax.random.split(jax.random.key(0), 100)
    x = jnp.asarray(RNG.normal(size=(100, 40, 50)), jnp.float32)
    y = np.asarray(jax.jit(lambda x: snn.AlphaDropout(rate).apply({}, x, keys))(x))
    assert y.mean() == pytest.approx(0, abs=0.01)  # 4 standard deviations are 0.009
    assert y.var() == pytest.approx(1, abs=0.02)
    values, counts = np.unique(y.round(5), return_counts=True)
    assert counts.max() / y.size == pytest.approx(rate, abs=0.01)  # the dropped ones, all at one value
    assert values[counts.argmax()] < 0
    assert snn.AlphaDropout(rate).apply({}, x, None) is x


def test_snn_keeps_mean_and_variance_through_its_layers():
    net, variables = small("snn", hidden=(400, 400, 400))  # weights of variance 1 / fan in
    variables["params"] = {layer: values | {"bias": 0 * values["bias"]} for layer, values in variables["params"].items()}
    x = RNG.normal(size=(50, 7, 6)).astype(np.float32)
    _, state = jax.jit(lambda x: net.apply(variables, x, capture_intermediates=True))(x)
    y = np.asarray(jax.nn.selu(state["intermediates"]["dense3"]["__call__"][0]))
    assert abs(y.mean()) < 0.1
    assert y.var() == pytest.approx(1, abs=0.25)


def test_snn_votes():
    """In evaluation the class of a clip is that of most frames, the first of equals; in training the frames are averaged."""
    net, variables = small("snn")
    x = inputs("snn", 5)
    logits, kept = jax.jit(net.apply)(variables, x)
    frames = np.asarray(kept["frame_logits"])
    counts = np.stack([(frames.argmax(-1) == c).sum(1) for c in range(3)], 1)
    np.testing.assert_allclose(np.exp(logits), (counts + 1 / 3) / (frames.shape[1] + 1), rtol=1e-5)
    trained, _ = net.apply(variables, x, train=True)
    np.testing.assert_allclose(trained, frames.mean(1), atol=1e-6)


def test_a_majority_can_differ_from_the_mean():
    frames = jnp.array([[[9.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]])
    majority, mean = pooling.frame_vote(frames, "majority"), pooling.frame_vote(frames, "mean")
    assert majority.argmax(1).tolist() == [1, 0] and mean.argmax(1).tolist() == [0, 0]
    np.testing.assert_allclose(np.exp(majority).sum(1), 1, rtol=1e-6)


# ---------------------------------------------------------------- pooling, Schindler, Choi


@pytest.mark.parametrize("window", [(2, 2), (1, 3), (4, 1)])
def test_pooling_keeps_maxima_and_switches_put_them_back(window):
    """Left-over rows and columns count nowhere; among equals the first has the switch and the whole gradient's sum is kept."""
    x = RNG.integers(0, 4, (2, 9, 7, 3)).astype(np.float32)
    rows, columns = 9 // window[0], 7 // window[1]

    @jax.jit
    def run(x):
        pooled, at = pooling.max_pool(x, window), pooling.switches(x, window)
        return pooled, at, pooling.unpool(pooled, at, window, (9, 7)), jax.grad(lambda x: pooling.max_pool(x, window).sum())(x)

    pooled, at, image, gradient = run(x)
    expected = np.zeros_like(x)
    for b, r, c, f in np.ndindex(2, rows, columns, 3):
        cut = x[b, r * window[0] : (r + 1) * window[0], c * window[1] : (c + 1) * window[1], f]
        assert pooled[b, r, c, f] == cut.max()
        assert at[b, r, c, f] == cut.argmax()
        row, column = np.unravel_index(cut.argmax(), cut.shape)
        expected[b, r * window[0] + row, c * window[1] + column, f] = cut.max()
    assert pooled.shape == at.shape == (2, rows, columns, 3) and at.dtype == jnp.uint8
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_allclose(gradient.sum(), pooled.size, rtol=1e-5)
    assert (gradient[:, rows * window[0] :] == 0).all() and (gradient[:, :, columns * window[1] :] == 0).all()
    assert (np.asarray(gradient)[expected > 0] > 0).all()


def test_overlapping_pooling_equals_its_definition():
    """The stem's, 3 × 3 at stride 2: each window's gradient goes to the first of its maxima, and adds up where windows meet."""
    x = RNG.integers(0, 4, (2, 9, 8, 3)).astype(np.float32)
    cotangent = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
    pooled, pull = jax.vjp(lambda x: pooling.max_pool(x, (3, 3), (2, 2), 1), x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = np.zeros_like(padded)
    for b, r, c, f in np.ndindex(*cotangent.shape):
        cut = padded[b, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3, f]
        assert pooled[b, r, c, f] == cut.max()
        row, column = np.unravel_index(cut.argmax(), cut.shape)
        expected[b, 2 * r + row, 2 * c + column, f] += cotangent[b, r, c, f]
    assert pooled.shape == cotangent.shape
    np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], expected[:, 1:-1, 1:-1], rtol=0, atol=1e-6)


def test_choi_switches_invert_its_pooling():
    net, variables = small("choi_cnn")
    _, kept = jax.jit(net.apply)(variables, inputs("choi_cnn", 2))
    for n in (1, 2, 3):
        maps, pooled, at = (np.asarray(kept[f"{what}{n}"]) for what in ("maps", "pooled", "switches"))
        back = np.asarray(pooling.unpool(jnp.asarray(pooled), jnp.asarray(at), (2, 2), maps.shape[1:3]))
        assert back.shape == maps.shape
        np.testing.assert_array_equal(back[back > 0], maps[back > 0])
        np.testing.assert_array_equal(pooling.max_pool(jnp.asarray(back), (2, 2)), pooled)


def test_choi_without_biases_reads_the_variables_of_one_with_biases():
    net, variables = small("choi_cnn")
    bare, own = small("choi_cnn", use_bias=False)
    assert "bias" not in own["params"]["conv1"]
    params = variables["params"]
    zeroed = {k: v | ({"bias": 0 * v["bias"]} if k.startswith("conv") else {}) for k, v in params.items()}
    x = inputs("choi_cnn", 2)
    run = jax.jit(lambda net, params: net.apply({"params": params}, x)[1]["maps3"], static_argnums=0)
    ours, other, with_bias = run(bare, params), run(net, zeroed), run(net, params)
    np.testing.assert_array_equal(ours, other)
    assert np.abs(ours - with_bias).max() > 0.01


def test_schindler_options():
    x, keys = inputs("schindler_shallow", 3), jax.random.split(jax.random.key(2), 3)
    embeddings = {}
    for at in ("hidden", "merge"):
        net, variables = small("schindler_shallow", dropout_at=at, dropout=0.5, activation="relu")
        run = jax.jit(functools.partial(net.apply, variables))
        (plain, kept), (dropped, kept_dropped) = run(x), run(x, keys=keys)
        assert np.abs(plain - dropped).max() > 1e-3
        embeddings[at] = np.abs(kept["embedding"] - kept_dropped["embedding"]).max()
        assert np.asarray(kept["embedding"]).min() == 0  # ReLU
    assert embeddings["hidden"] == 0 < embeddings["merge"]
    net, variables = small("schindler_shallow", activation="relu", hidden_activation=False)
    linear = jax.jit(net.apply)(variables, x)[1]
    assert np.asarray(linear["embedding"]).min() < 0 <= np.asarray(linear["frequency"]).min()


# ---------------------------------------------------------------- initialisation


def test_initialisation_is_the_sources():
    recurrent = initialised("gru_attention", "encoder", "hidden_kernel", hidden=64)  # PyTorch: U(±1 / √hidden), the input's too
    own = initialised("gru_attention", "encoder", "input_bias", hidden=64)
    for values in (recurrent, own):
        assert 0.97 / 8 < np.abs(values).max() <= 1 / 8
    for name, layer, options, fans in (
        ("schindler_shallow", "frequency1", {"width": 40}, 10 * 23 * (1 + 40)),
        ("swishnet_slim", "conv8", {"width": 2}, 3 * (16 + 64)),
        ("choi_cnn", "conv2", {"maps": 40}, 9 * (40 + 40)),
    ):
        values, bound = initialised(name, layer, "kernel", **options), (6 / fans) ** 0.5  # Xavier, uniform
        assert 0.98 * bound < np.abs(values).max() <= bound * (1 + 1e-6), name
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.05)
        assert (initialised(name, layer, "bias", **options) == 0).all()
    values = initialised("snn", "dense2", "kernel", hidden=(300, 200))  # LeCun: normal, variance 1 / fan in
    assert values.std() == pytest.approx(300**-0.5, rel=0.03)
    assert np.abs(values).max() > 3 * 300**-0.5
