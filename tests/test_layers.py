"""The shared layers against their definitions in float64, and the shapes and causality of the networks made of them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genre_jax import models
from genre_jax.console import UserError
from genre_jax.models import blocks, bytenet, dilated, layers, residual
from genre_jax.models.bytenet import ByteNet

RNG = np.random.default_rng(0)
EPSILON = 1e-5


def largest_difference(one, other):
    return max(np.abs(np.asarray(a) - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


# ---------------------------------------------------------------- normalisation


def affine(features: int):
    return {"scale": RNG.normal(1, 0.3, features), "bias": RNG.normal(0, 0.3, features)}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(7, 3), (5, 9, 3), (3, 5, 7, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_batch_norm_equals_its_definition(shape, masked):
    """PyTorch's: biased variance for normalising, unbiased in the running one, running = 0.9 running + 0.1 batch."""
    features, axes = shape[-1], tuple(range(len(shape) - 1))
    params = affine(features)
    running = {"mean": np.zeros(features), "var": np.ones(features)}
    with jax.enable_x64(True):
        norm = layers.BatchNorm(param_dtype=jnp.float64)
        statistics = jax.tree.map(jnp.asarray, running)
        for step in range(3):
            x = RNG.normal(2 + step, 3, shape)
            mask = np.array([1, 0, 1, 1, 0, 1, 1][: shape[0]], np.float32) if masked else None
            kept = x[mask > 0] if masked else x
            mean, var = kept.mean(axes), kept.var(axes)
            running["mean"] = 0.9 * running["mean"] + 0.1 * mean
            running["var"] = 0.9 * running["var"] + 0.1 * kept.var(axes, ddof=1)
            variables = {"params": params, "batch_stats": statistics}
            y, updated = norm.apply(variables, jnp.asarray(x), train=True, mask=mask, mutable=["batch_stats"])
            statistics = updated["batch_stats"]
            expected = (x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"]
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
            for key, value in running.items():
                np.testing.assert_allclose(statistics[key], value, rtol=1e-12)
        x = RNG.normal(2, 3, shape)
        y = norm.apply({"params": params, "batch_stats": statistics}, jnp.asarray(x), train=False)
    expected = (x - running["mean"]) / np.sqrt(running["var"] + EPSILON) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


def test_batch_norm_of_almost_constant_features():
    """Where the variance is of epsilon's size it matters that epsilon stands under the root."""
    x = 100 + RNG.normal(0, 1e-3, (64, 4))
    with jax.enable_x64(True):
        norm = layers.BatchNorm(param_dtype=jnp.float64)
        y, _ = norm.init_with_output(jax.random.key(0), jnp.asarray(x), train=True)
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON), atol=1e-9)


def test_batch_norm_counts_over_devices():
    """Uneven masks: 5 of 8 examples count, 1, 0, 3 and 1 of them on four devices; the result is that of one device."""
    x = RNG.normal(1, 2, (8, 5, 3)).astype(np.float32)
    mask = np.array([1, 0, 0, 0, 1, 1, 1, 1], np.float32)
    one, many = layers.BatchNorm(), layers.BatchNorm(axis_name="d")
    variables = one.init(jax.random.key(0), x, train=False)
    whole, updated = one.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
    parts, updated_parts = jax.vmap(
        lambda x, mask: many.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"]), axis_name="d"
    )(x.reshape(4, 2, 5, 3), mask.reshape(4, 2))
    np.testing.assert_allclose(parts.reshape(whole.shape), whole, atol=1e-5)
    for device in range(4):
        assert largest_difference(jax.tree.map(lambda leaf: leaf[device], updated_parts), updated) < 1e-5  # noqa: B023


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    """At mean 300 bfloat16 steps by 2: sums in bfloat16 would be lost."""
    x = jnp.asarray(RNG.normal(300, 30, (512, 9, 3)), jnp.bfloat16)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    statistics, exact = updated["batch_stats"], np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in statistics.values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(statistics["mean"], 0.1 * exact.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * exact.var((0, 1), ddof=1), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y, float), (exact - exact.mean((0, 1))) / exact.std((0, 1)), atol=0.02)


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 9, 3), (3, 5, 7, 2)])
def test_instance_norm_equals_its_definition(shape, is_affine):
    x = RNG.normal(1, 0.01, shape)  # a variance near epsilon, so that epsilon's place shows
    axes = tuple(range(1, len(shape) - 1))
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    params = affine(shape[-1]) if is_affine else {}
    if is_affine:
        expected = expected * params["scale"] + params["bias"]
    with jax.enable_x64(True):
        y = layers.InstanceNorm(affine=is_affine, param_dtype=jnp.float64).apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)


def test_norms_of_silence_are_finite_with_their_gradients():
    for norm, options in ((layers.BatchNorm(), {"train": True}), (layers.InstanceNorm(), {})):
        x = jnp.zeros((2, 5, 3))
        variables = norm.init(jax.random.key(0), x, **options)

        def total(x, norm=norm, variables=variables, options=options):
            return norm.apply(variables, x, **options, mutable=["batch_stats"])[0].sum()

        assert np.isfinite(jax.grad(total)(x)).all()


# ---------------------------------------------------------------- dropout, initialisers


def test_dropout_rate_and_scaling():
    keys = jax.random.split(jax.random.key(1), 50)
    y = np.asarray(layers.Dropout(0.3).apply({}, jnp.ones((50, 40, 20)), keys))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.01)  # 4 standard deviations are 0.009
    assert np.std((y == 0).mean((1, 2))) < 0.05


def test_dropout_knows_the_key_and_not_the_place():
    keys = jax.random.split(jax.random.key(1), 6)
    x = jnp.asarray(RNG.normal(size=(6, 33)))
    y = layers.Dropout(0.5).apply({}, x, keys)
    order = np.array([4, 0, 5])
    np.testing.assert_array_equal(layers.Dropout(0.5).apply({}, x[order], keys[order]), y[order])
    dropped = np.asarray(y) == 0
    assert len(np.unique(dropped, axis=0)) == 6


def test_dropout_without_keys_or_rate_is_the_identity():
    x = jnp.asarray(RNG.normal(size=(2, 9)))
    assert layers.Dropout(0.5).apply({}, x, None) is x
    assert layers.Dropout(0.0).apply({}, x, jax.random.split(jax.random.key(0), 2)) is x


def test_two_dropout_layers_draw_apart():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return layers.Dropout(0.5)(x, keys), layers.Dropout(0.5)(x, keys)

    one, other = Two().apply({}, jnp.ones((3, 64)), jax.random.split(jax.random.key(0), 3))
    assert 0.3 < np.mean(np.asarray(one) == other) < 0.7


def test_initialisers_have_their_bounds():
    """PyTorch's default U(±1 / sqrt(fan in)), and torchvision's He normal over outputs, 2 / (k² · out)."""
    key = jax.random.key(0)
    for shape, fan_in in (((3, 16, 400), 48), ((3, 5, 4, 400), 60), ((25, 400), 25)):
        kernel = np.asarray(layers.torch_kernel(key, shape))
        bound = fan_in**-0.5
        assert 0.99 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.03)
    bias = np.asarray(layers.torch_bias(25)(key, (4000,)))
    assert -0.2 <= bias.min() < -0.199 and 0.199 < bias.max() <= 0.2
    kernel = np.asarray(layers.he_fan_out(key, (3, 3, 32, 64)))
    assert kernel.std() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert abs(kernel.mean()) < 0.001


# ---------------------------------------------------------------- ByteNet

SMALL = {"width": 4, "max_dilation": 1, "strides": (4,), "decoder_sets": 1}


def outputs_of(net, input_shape, *names: str) -> dict[str, tuple[int, ...]]:
    """The shape of what each of the named submodules gives, nothing computed."""

    def forward(key, x):
        _, state = net.init_with_output(key, x, capture_intermediates=lambda module, _: module.name in names)
        return state["intermediates"]

    x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    with_state = jax.eval_shape(forward, jax.random.key(0), x)
    return {name: with_state[name]["__call__"][0].shape for name in names}


def test_bytenet_lengths_and_counts_are_the_thesis():
    net = models.build("bytenet", num_classes=67)
    names = [f"encoder{s}" for s in range(6)] + ["encoder_out", "decoder_out"]
    shapes = outputs_of(net, net.input_shape, *names)
    assert [shapes[name][1] for name in names] == [57_344, 7_169, 1_793, 1_793, 897, 897, 225, 225]
    assert shapes["encoder_out"] == (1, 225, 224) and shapes["decoder_out"] == (1, 225, 112)
    params = models.abstract_variables(net)["params"]
    encoder = {name: value for name, value in params.items() if name.startswith(("encoder", "reduce"))}
    assert models.count(encoder) == 3_616_032
    assert models.count({name: value for name, value in params.items() if name not in encoder}) == 4_425_187
    assert models.count(params["encoder0"]) == 5 * 88_704
    assert [models.count(params[f"reduce{s}"]) for s in (0, 1, 3, 5)] == [401_632, 200_928, 100_576, 200_928]


def conv_reach(causal: bool, dilation: int, monkeypatch) -> tuple[int, int]:
    """How far before and after the changed step 20 a block's output changes; instance norm, which sees all, is left out."""
    monkeypatch.setattr(residual, "instance_norm", lambda x, scale, bias: x)
    block = blocks.BlockSet(4, 3, (dilation,), causal, 0.0, "none", "shift", jnp.float32, jnp.float32)
    x = jnp.asarray(RNG.uniform(1, 2, (1, 41, 8)))
    params = block.init(jax.random.key(0), x, None)
    params = jax.tree.map(jnp.abs, params)  # every ReLU open
    changed = block.apply(params, x.at[0, 20].add(1), None) - block.apply(params, x, None)
    steps = np.flatnonzero(np.abs(np.asarray(changed[0])).max(-1) > 1e-6)
    return int(steps.min()) - 20, int(steps.max()) - 20


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_decoder_blocks_are_causal_and_encoder_blocks_centred(dilation, monkeypatch):
    assert conv_reach(True, dilation, monkeypatch) == (0, 2 * dilation)
    assert conv_reach(False, dilation, monkeypatch) == (-dilation, dilation)


def test_reductions_pad_at_the_end():
    """The first step of a reduced sequence holds the first samples, unpadded: (9 + 4) // 4 = 3 steps of 4."""
    net = ByteNet(num_classes=2, width=1, max_dilation=0, strides=(4,), decoder_sets=0, head="pooled")
    x = jnp.arange(1.0, 10)[None, :, None]
    params = jax.tree.map(jnp.ones_like, net.init(jax.random.key(0), x)["params"])
    for name in params:
        params[name]["bias"] = jnp.zeros_like(params[name]["bias"])
    _, intermediates = net.apply({"params": params}, x)
    sums = np.array([1 + 2 + 3 + 4, 5 + 6 + 7 + 8, 9])
    np.testing.assert_allclose(intermediates["encoded"][0, :, 0], sums * 2 * 2)  # two equal channels, twice summed


def test_pooled_head_takes_any_length_and_the_fixed_one_does_not():
    pooled = ByteNet(num_classes=5, head="pooled", **SMALL)
    variables = jax.jit(pooled.init)(jax.random.key(0), jnp.zeros((1, 99, 1)))
    for length in (1, 1000):
        logits, intermediates = jax.jit(pooled.apply)(variables, jnp.asarray(RNG.normal(size=(2, length, 1)), jnp.float32))
        assert logits.shape == (2, 5) and intermediates["embedding"].shape == (2, 4)
        assert np.isfinite(logits).all()
    fixed = ByteNet(num_classes=5, **SMALL)
    variables = jax.eval_shape(fixed.init, jax.random.key(0), jnp.zeros((1, 99, 1)))
    with pytest.raises(Exception, match=r'"kernel" in "/fc"'):
        jax.eval_shape(fixed.apply, variables, jnp.zeros((1, 120, 1)))
    with pytest.raises(
        UserError, match=r"^unknown model.head 'pooling' \(did you mean 'pooled'\?\): choose one of fixed, pooled$"
    ):
        ByteNet(num_classes=5, head="pooling")


POLICIES = [*((remat, "shift") for remat in blocks.REMAT), ("none", "lax"), ("tree", "phases")]


@pytest.mark.parametrize(("dtype", "batch", "causal"), [("float64", 3, False), ("float32", 1, True)])
def test_policies_and_backends_change_neither_value_nor_gradient(dtype, batch, causal, monkeypatch):
    """Dropout included, on an odd length that the larger dilations exceed, in chunks; parameters do not know of either."""
    monkeypatch.setattr(dilated, "CHUNK", 10)
    policies = POLICIES if dtype == "float64" else [("none", "shift"), ("lean", "shift")]
    dilations, results = (1, 4, 16, 64), []
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(RNG.normal(size=(batch, 41, 8)), dtype)
        keys = jax.random.split(jax.random.key(3), batch)
        for remat, backend in policies:
            net = blocks.BlockSet(4, 3, dilations, causal, 0.3, remat, backend, x.dtype, x.dtype)
            params = jax.jit(net.init)(jax.random.key(0), x)["params"]

            def total(params, x, net=net):
                return jnp.square(net.apply({"params": params}, x, keys)).sum()

            results.append(jax.device_get(jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, x)))
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(results[0]))
    for policy, result in zip(policies[1:], results[1:], strict=True):
        assert jax.tree.structure(result) == jax.tree.structure(results[0])
        assert largest_difference(result, results[0]) < (1e-10 if dtype == "float64" else 1e-5) * scale, policy


def test_each_block_draws_its_own_dropout():
    """Blocks of equal weights and dilation 1 each drop other places, the same ones for the same key."""
    net = blocks.BlockSet(4, 1, (1, 1), False, 0.5, "none", "shift", jnp.float32, jnp.float32)
    x = jnp.asarray(RNG.normal(size=(2, 400, 8)), jnp.float32)
    params = net.init(jax.random.key(0), x)["params"]
    for name in ("norm1", "norm2", "norm3"):
        params[name]["bias"] = jnp.ones_like(params[name]["bias"])
    added = []
    for number in range(2):
        silent = params["conv3"]["kernel"].at[1 - number].set(0)
        alone = {**params, "conv3": {"kernel": silent}}
        added.append(np.asarray(net.apply({"params": alone}, x, jax.random.split(jax.random.key(0), 2)) - x) == 0)
    assert added[0].mean() == pytest.approx(0.5, abs=0.05) and added[1].mean() == pytest.approx(0.5, abs=0.05)
    assert np.mean(added[0] == added[1]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(added[0][0] == added[0][1]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("blocks_in_set", range(1, 40))
def test_segments_keep_few_inputs(blocks_in_set):
    outer, inner = blocks.segments(blocks_in_set)
    assert 0 <= blocks_in_set - outer * inner <= inner
    assert outer + inner <= 2 * np.sqrt(blocks_in_set + 1)


def test_program_does_not_grow_with_depth():
    """The scan's program at 14 dilations is that at 5, to a few lines; unrolled it is more than twice as long."""

    def lines(backend, max_dilation):
        net = blocks.BlockSet(4, 3, bytenet.dilations(max_dilation), False, 0.0, "block", backend, jnp.float32, jnp.float32)
        x = jnp.zeros((1, 33, 8))
        params = jax.eval_shape(net.init, jax.random.key(0), x)
        return len(jax.jit(jax.grad(lambda p: net.apply(p, x).sum())).lower(params).as_text().splitlines())

    assert lines("shift", 8192) <= 1.01 * lines("shift", 16)
    assert lines("lax", 8192) > 2 * lines("lax", 16)


# ---------------------------------------------------------------- what ByteNet sees


@pytest.mark.parametrize(
    ("max_dilation", "blocks_of_decoder", "dead_decoder", "dead"), [(16, 30, 0, 0), (512, 60, 12, 12), (8192, 84, 36, 51)]
)
def test_dead_blocks_of_the_thesis_network(max_dilation, blocks_of_decoder, dead_decoder, dead):
    """A dilation of at least the sequence's length has side taps in the padding alone; capped, there are none left."""
    net = models.build("bytenet", num_classes=67, max_dilation=max_dilation)
    reach = net.reach(57_344)
    decoder = [one for one in reach.sets if one.name.startswith("decoder")]
    assert [one.length for one in reach.sets] == [57_344, 7_169, 1_793, 1_793, 897, 897] + 6 * [225]
    assert (reach.blocks, reach.dead_blocks) == (2 * blocks_of_decoder, dead)
    assert sum(one.dead_blocks for one in decoder) == dead_decoder
    assert sum(len(one.dilations) for one in decoder) == blocks_of_decoder
    capped = models.build("bytenet", num_classes=67, max_dilation=max_dilation, cap_dilation=True).reach(57_344)
    assert capped.dead_blocks == 0 and capped.blocks == reach.blocks
    assert max(capped.sets[-1].dilations) == min(128, max_dilation)


@pytest.mark.parametrize("options", [{"cap_dilation": True}, {}, {"kernel": 2, "stem_kernel": 5, "stem_stride": 3}])
def test_reach_is_what_the_network_sees(options, monkeypatch):
    """Without its norms, the last output step depends on as many samples as the causal part of `reach` says, and no more."""
    monkeypatch.setattr(residual, "instance_norm", lambda x, scale, bias: x)
    net = ByteNet(num_classes=2, width=1, max_dilation=8, strides=(2,), decoder_sets=1, head="pooled", **options)
    x = jnp.asarray(RNG.uniform(1, 2, (1, 400, 1)), jnp.float32)
    params = jax.tree.map(jnp.abs, jax.jit(net.init)(jax.random.key(0), x))

    def middle(x):
        _, state = net.apply(params, x, capture_intermediates=lambda module, _: module.name == "decoder0")
        y = state["intermediates"]["decoder0"]["__call__"][0]
        return y[0, y.shape[1] * 3 // 4].sum()

    seen = np.flatnonzero(np.asarray(jax.jit(jax.grad(middle))(x))[0, :, 0])
    assert seen.max() - seen.min() + 1 == net.reach(400).receptive_field == net.reach(400).effective_field
    reach = net.reach(12)
    assert reach.effective_field <= 12 < reach.receptive_field
    assert (reach.dead_blocks == 0) == ("cap_dilation" in options)


def test_capping_keeps_the_parameters_and_changes_the_output():
    x = jnp.asarray(RNG.normal(size=(2, 30, 1)), jnp.float32)
    faithful, capped = (
        ByteNet(num_classes=3, width=2, max_dilation=64, strides=(4,), decoder_sets=1, cap_dilation=c) for c in (False, True)
    )
    params = jax.jit(faithful.init)(jax.random.key(0), x)
    one, other = (jax.jit(net.apply)(params, x)[0] for net in (faithful, capped))
    assert largest_difference(one, other) > 1e-3


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"remat": "blocks"}, r"^unknown model.remat 'blocks' \(did you mean 'block'\?\): choose one of block, "),
        ({"backend": "fft"}, r"^unknown model.backend 'fft': choose one of auto, lax, phases, shift$"),
    ],
)
def test_unknown_options_are_named(option, sentence):
    with pytest.raises(UserError, match=sentence):
        ByteNet(num_classes=5, **option)


# ---------------------------------------------------------------- ResNet


def test_resnet34_stages_are_torchvisions():
    net = models.build("resnet34", num_classes=67)
    names = ["stem", "conv1", "layer1_2", "layer2_3", "layer3_5", "layer4_2"]
    shapes = outputs_of(net, net.input_shape, *names)
    assert [shapes[name] for name in names] == [
        (1, 224, 224, 3), (1, 112, 112, 64), (1, 56, 56, 64), (1, 28, 28, 128), (1, 14, 14, 256), (1, 7, 7, 512),
    ]  # fmt: skip
    odd = outputs_of(net, (161, 97, 1), *names)
    assert [odd[name][1:3] for name in names] == [(161, 97), (81, 49), (41, 25), (21, 13), (11, 7), (6, 4)]


@pytest.mark.parametrize("train_stem", [False, True])
def test_frozen_stem_gets_no_gradient(train_stem):
    x = jnp.asarray(RNG.normal(size=(2, 32, 32, 1)), jnp.float32)
    net = models.build("resnet18", num_classes=3, width=4, stages=(1,), instance_norm=False, train_stem=train_stem)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    assert variables["params"]["stem"]["kernel"][0, 0] == 1

    def total(params):
        return jnp.square(net.apply(variables | {"params": params}, x)[0]).sum()

    gradient = jax.jit(jax.grad(total))(variables["params"])
    assert all((np.abs(leaf).max() > 0) == train_stem for leaf in gradient["stem"].values())
    assert np.abs(gradient["conv1"]["kernel"]).max() > 0


def test_thesis_stem_is_the_z_score_of_the_image():
    x = jnp.asarray(RNG.normal(-40, 15, (2, 24, 17, 1)), jnp.float32)
    net = models.build("resnet18", num_classes=3, width=4, stages=(1,))
    variables = jax.jit(net.init)(jax.random.key(0), x)
    _, state = net.apply(variables, x, capture_intermediates=lambda module, _: module.name == "stem", mutable=["intermediates"])
    image = np.asarray(state["intermediates"]["stem"]["__call__"][0])
    z = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
    np.testing.assert_allclose(image[..., :1], z, atol=1e-4)
    signs = np.sign(variables["params"]["stem"]["kernel"][0])
    np.testing.assert_allclose(image, np.asarray(z) * np.asarray(signs), atol=2e-3)
