"""ByteNet: the thesis's lengths and counts, causality, remat policies and backends, norms, gates and heads, and its reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import largest_difference, learn_by_heart, outputs_of

from genre_jax import models
from genre_jax.console import UserError
from genre_jax.models import cpu
from genre_jax.models.bytenet import block, block_set, network
from genre_jax.models.bytenet.network import ByteNet

RNG = np.random.default_rng(0)

SMALL = {"width": 4, "max_dilation": 1, "strides": (4,), "decoder_sets": 1}


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


def small_set(
    dilations,
    length,
    *,
    width=4,
    taps=3,
    causal=False,
    norm="instance",
    gated=False,
    rate=0.0,
    remat="none",
    backend="shift",
    dtype="float32",
    shards=None,
):
    spec = block.BlockSpec(taps, dilations, causal, norm, gated, rate, jnp.dtype(dtype), backend, length, shards)
    return block_set.BlockSet(width, spec, remat, jnp.dtype(dtype))


def without_norms(monkeypatch):
    monkeypatch.setattr(block, "norm_relu", lambda x, affine: jnp.maximum(x, 0))


def conv_reach(causal: bool, dilation: int, monkeypatch) -> tuple[int, int]:
    """How far before and after the changed step 20 a block's output changes; instance norm, which sees all, is left out."""
    without_norms(monkeypatch)
    block = small_set((dilation,), 41, causal=causal)
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


@pytest.mark.parametrize("head", ["pooled", "attention"])
def test_pooled_and_attention_heads_take_any_length(head):
    net = ByteNet(num_classes=5, head=head, **SMALL)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 99, 1)))
    for length in (1, 1000):
        x = jnp.asarray(RNG.normal(size=(2, length, 1)), jnp.float32)
        apply = jax.jit(lambda variables, x: net.apply(variables, x, capture_intermediates=True))
        (logits, intermediates), state = apply(variables, x)
        assert logits.shape == (2, 5) and intermediates["embedding"].shape == (2, 4)
        steps = np.asarray(state["intermediates"]["decoder_out"]["__call__"][0])
        weights = np.full(steps.shape[:2], 1 / steps.shape[1])
        if head == "attention":
            kernel, bias = (np.asarray(variables["params"]["attention"][name]) for name in ("kernel", "bias"))
            score = np.exp(steps @ kernel[0, :, 0] + bias)
            weights = score / score.sum(1, keepdims=True)
            np.testing.assert_allclose(intermediates["attention"], weights, rtol=1e-4)
            assert length == 1 or weights.std() > 1e-6
        np.testing.assert_allclose(intermediates["embedding"], np.einsum("bt,btc->bc", weights, steps), atol=1e-5)


def test_the_fixed_head_takes_one_length():
    fixed = ByteNet(num_classes=5, **SMALL)
    variables = jax.eval_shape(fixed.init, jax.random.key(0), jnp.zeros((1, 99, 1)))
    with pytest.raises(Exception, match=r'"kernel" in "/fc"'):
        jax.eval_shape(fixed.apply, variables, jnp.zeros((1, 120, 1)))
    with pytest.raises(
        UserError, match=r"^unknown model.head 'pooling' \(did you mean 'pooled'\?\): choose one of attention, fixed, pooled$"
    ):
        ByteNet(num_classes=5, head="pooling")


POLICIES = [*((remat, "shift") for remat in ("none", "dots", "block", "lean")), ("none", "lax")]
OTHERS = [
    ("none", "shift"),
    ("tree", "shift"),
    ("inputs", "shift"),
    ("offload", "shift"),
    ("tree", "phases"),
    ("offload", "lax"),
]
LEAN = [("none", "shift"), ("dots", "shift")]
VARIANTS = [
    ("float64", 3, False, "instance", False, POLICIES),
    *(
        pytest.param(*variant, marks=pytest.mark.slow)
        for variant in (
            ("float64", 1, True, "layer", False, LEAN),
            ("float64", 3, False, "instance", True, LEAN),
            ("float32", 1, True, "instance", False, LEAN),
            ("float32", 3, False, "layer", True, LEAN),
            ("float64", 2, False, "instance", False, OTHERS),
        )
    ),
]


@pytest.mark.parametrize(
    ("dtype", "batch", "causal", "norm", "gated", "policies"),
    VARIANTS,
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_policies_and_backends_change_neither_value_nor_gradient(dtype, batch, causal, norm, gated, policies, monkeypatch):
    """Dropout included, on an odd length that the larger dilations exceed, in chunks; parameters do not know of either."""
    monkeypatch.setattr(cpu, "CHUNK", {"cpu": 10 * 3 * 8})  # ten steps of three clips
    dilations, results = (1, 4, 16, 64), []
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(RNG.normal(size=(batch, 41, 8)), dtype)
        keys = jax.random.split(jax.random.key(3), batch)
        for remat, backend in policies:
            net = small_set(
                dilations, 41, causal=causal, norm=norm, gated=gated, rate=0.3, remat=remat, backend=backend, dtype=dtype
            )
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
    net = small_set((1, 1), 400, taps=1, rate=0.5)
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
    outer, inner = block_set.segments(blocks_in_set)
    assert 0 <= blocks_in_set - outer * inner <= inner
    assert outer + inner <= 2 * np.sqrt(blocks_in_set + 1)


def test_program_does_not_grow_with_depth():
    """The scan's program at 14 dilations is that at 5, to a few lines; unrolled it is more than twice as long."""

    def lines(backend, max_dilation):
        net = small_set(network.dilations(max_dilation), 33, remat="block", backend=backend)
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
    without_norms(monkeypatch)
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
        ({"backend": "fft"}, r"^unknown model.backend 'fft': choose one of auto, lax, phases, shift, timed$"),
    ],
)
def test_unknown_options_are_named(option, sentence):
    with pytest.raises(UserError, match=sentence):
        ByteNet(num_classes=5, **option)


@pytest.mark.slow
def test_learns_eight_clips_by_heart():
    """The thesis's network but for its length, 1,024 samples."""
    audio = jnp.asarray(RNG.normal(0, 0.1, (8, 1024, 1)), jnp.float32)
    assert learn_by_heart(models.build("bytenet", num_classes=8), audio, jnp.arange(8), 1e-3, 150) < 0.05
