"""The cases of `bench train_step`: networks, their inputs, and their training step in this library."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genre_jax import config as configs
from genre_jax import forward, logbook, models, optim, parallel, train
from genre_jax.bench import cards, torch_names
from genre_jax.config_section import component_options
from genre_jax.planning.flops import flops
from genre_jax.weights import layouts

LEARNING_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its batch. The training step minimises the cross-entropy with AMSGrad.

    Attributes:
      model: name of the network.
      classes: number of classes.
      shape: shape of one input of the network (images are height, width, channels).
      batch: inputs per step.
      options: options of the network.
      rename: converts our dotted module name to the module name of the peer in `torch_networks.py`.
      small: attributes that a dry run replaces, which makes it fast.
    """

    model: str
    classes: int
    shape: tuple[int, ...]
    batch: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    rename: Callable[[str], str] = str
    small: dict[str, Any] = dataclasses.field(default_factory=dict)


def _image(classes: int, rename: Callable[[str], str], **case: Any) -> Case:
    """Return the case of a published network for colour images behind the thesis's stem."""
    usual: dict[str, Any] = {"shape": (224, 224, 1), "batch": 8, "small": {"shape": (64, 64, 1)}}
    return Case(classes=classes, rename=torch_names.behind_stem(rename), **usual | case)


SMALL_BYTENET: dict[str, Any] = {
    "options": {"width": 4, "max_dilation": 4, "strides": (4, 1), "decoder_sets": 1},
    "shape": (400, 1),
}
BYTENET_512: dict[str, Any] = SMALL_BYTENET | {"options": SMALL_BYTENET["options"] | {"max_dilation": 512}}
STILL = {"dropout": 0.0}  # random masks, and therefore losses, differ between the libraries
SMALL_HEAD = STILL | {"hidden": 6}

CASES = {
    "burrows_conv1d": Case("burrows_conv1d", 8, (2500, 80), 32, STILL, small={"shape": (20, 33)}),
    "burrows_conv2d": Case("burrows_conv2d", 8, (96, 1366, 1), 8, STILL, small={"shape": (47, 62, 1)}),
    "burrows_mlp": Case("burrows_mlp", 8, (80,), 32, STILL, small={"batch": 4}),
    "bytenet": Case("bytenet", 67, (20_000, 1), 2, rename=torch_names.bytenet, small=SMALL_BYTENET),
    "bytenet_512": Case("bytenet", 67, (20_000, 1), 2, {"max_dilation": 512}, rename=torch_names.bytenet, small=BYTENET_512),
    "choi_cnn": Case("choi_cnn", 10, (257, 173, 1), 8, STILL, small={"shape": (40, 37, 1), "options": SMALL_HEAD}),
    "dense_cnn": Case("dense_cnn", 10, (224, 224, 1), 16, STILL, small={"shape": (13, 11, 1), "options": SMALL_HEAD}),
    "densenet121": _image(10, layouts.densenet, model="densenet121"),
    "folmer_cnn": Case("folmer_cnn", 10, (224, 224, 1), 16, STILL, small={"shape": (13, 11, 1), "options": SMALL_HEAD}),
    "folmer_mlp": Case("folmer_mlp", 10, (224, 224, 1), 16, STILL, small={"shape": (13, 11, 1)}),
    "gru_attention": Case("gru_attention", 67, (161, 112), 8, small={"shape": (9, 5), "options": {"hidden": 6, "features": 4}}),
    "mobilenet_v1": _image(
        3, str, model="mobilenet_v1", shape=(200, 64, 1), batch=32, options=STILL, small={"shape": (70, 45, 1), "batch": 4}
    ),
    "resnet34": _image(67, layouts.resnet, model="resnet34"),
    "resnet101": _image(67, layouts.resnet, model="resnet101", small={"shape": (128, 128, 1)}),
    "schindler_deep": Case("schindler_deep", 10, (80, 80, 1), 15, STILL, small={"shape": (41, 43, 1), "batch": 3}),
    "schindler_shallow": Case("schindler_shallow", 10, (80, 80, 1), 15, STILL, small={"shape": (41, 43, 1), "batch": 3}),
    "snn": Case("snn", 3, (200, 60), 128, STILL, small={"batch": 4}),
    "swishnet_slim": Case("swishnet_slim", 3, (200, 20), 128, STILL | {"readout": "last"}, small={"batch": 4}),
    "swishnet_wide": Case("swishnet_wide", 3, (200, 20), 128, STILL | {"readout": "last"}, small={"batch": 4}),
}


def case_of(name: str, dry_run: bool = False, **changes: Any) -> Case:
    """Return the case called `name`, with the `changes` that are not empty; `dry_run` makes it small."""
    small = CASES[name].small if dry_run else {}
    return dataclasses.replace(CASES[name], **small | {key: value for key, value in changes.items() if value})


def versions() -> dict[str, str]:
    """Return the values of a run's `environment.json`, without the command because this is not the user's process."""
    return {key: value for key, value in logbook.environment().items() if key != "command"}


def build(name: str, variants: list[dict[str, str]], dtype: str, dry_run: bool, changes: dict[str, Any]) -> dict[str, "Step"]:
    """Return label → contestant: the case `name` with each of `variants`, which are options that change no number."""
    case = case_of(name, dry_run, **changes)
    labels = (" ".join(["genre_jax", *(f"{key}={value}" for key, value in chosen.items())]) for chosen in variants)
    return {label: Step(case, chosen, dtype) for label, chosen in zip(labels, variants, strict=True)}


class Shaped(nn.Module):
    """A replacement for a front end, which reshapes waveforms to the network's input `(batch, *shape)`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, waveform: jax.Array) -> jax.Array:
        return waveform.reshape(len(waveform), *self.shape)


class Step:
    """The training step of a run (`train.TrainStep` with a donated state) on one device, with random int16 inputs."""

    def __init__(self, case: Case, variant: dict[str, str], dtype: str):
        self.case, self.config = case, _config(case, variant, dtype)
        options = component_options(self.config.model)
        model = models.build(case.model, num_classes=case.classes, dtype=dtype, axis_name=parallel.AXIS, **options)
        frontend: Any = Shaped(case.shape)
        network = forward.Forward(frontend, model, jnp.dtype(jnp.float32))
        optimizer = optim.build("amsgrad", 0.0, **component_options(self.config.optimizer))
        devices = parallel.Devices(1)
        step = train.TrainStep(network, optimizer, lambda step: jnp.full((), LEARNING_RATE), self.config, parallel.AXIS)
        self.step: Any = devices.train_step(step)
        self.variables = random_variables(models.abstract_variables(model, case.shape))
        params, batch_stats = self.variables["params"], self.variables.get("batch_stats", {})
        state = train.TrainState(
            np.zeros((), np.int32), params, batch_stats, {}, {}, optimizer.init(params), np.zeros((), np.int32)
        )
        key = jax.random.key(0)
        constants = {"augment_key": key, "dropout_key": key, "class_weights": np.ones(case.classes)}
        self.state, self.constants = devices.replicate((state, constants))
        self.batch = jax.device_put(devices.shard(_batch(case)))  # transferred before the step, as the peer's inputs are

    def problem(self, path: str) -> dict[str, Any]:
        """Write inputs, labels and initial weights in PyTorch's layout to a file for the peer; return the case as a dict."""
        inputs = np.asarray(self.batch["audio"]).reshape(self.case.batch, *self.case.shape).astype(np.float32) / 32768
        arrays: Any = {"inputs": inputs, "labels": np.asarray(self.batch["labels"])[0].argmax(-1)}
        for name, value in torch_names.torch_arrays(self.variables, self.case.rename).items():
            arrays[f"weights/{name}"] = value
        np.savez(path, **arrays)
        options = {key: value for key, value in self.config.model.to_dict().items() if key != "name"}
        case = {"model": self.case.model, "classes": self.case.classes, "batch": self.case.batch, "shape": self.case.shape}
        return case | {"options": options}

    def work(self) -> dict[str, Any]:
        """Return the number of parameters (with those of a frozen stem), FLOPs per step, and the card's peak FLOP/s.

        For float32 the peak is that of TensorFloat-32, which XLA uses for products by default. None means an unknown card.
        """
        card, dtype = cards.card(), self.config.dtype
        return {
            "parameters": models.count(self.variables["params"]),
            "flops": flops(self.step, self.state, self.constants, self.batch),
            "card_flops_a_second": card and card.flops_a_second["tensorfloat32" if dtype == "float32" else dtype],
        }

    def run(self, steps: int) -> tuple[float, float, float]:
        """Run `steps` steps; return the clock seconds, the CPU seconds of all threads, and the loss of the last step."""
        started, on_cores = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.state, metrics = self.step(self.state, self.constants, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - started, time.process_time() - on_cores, float(metrics["loss"])


def _config(case: Case, variant: dict[str, str], dtype: str) -> Any:
    """Return a run's config with the case's model and AMSGrad."""
    config = configs.base("bench")
    config.dtype, config.data.samples = dtype, math.prod(case.shape)
    configs.choose(config, "model", case.model, **case.options | variant)
    configs.choose(config, "optimizer", "amsgrad")
    return config


def random_variables(shapes: Any) -> Any:
    """Return random variables of these shapes, without a compilation.

    Biases are small. Otherwise the norms of a new ByteNet get channels whose mean is far above their deviation, and in any
    library the loss in float32 then differs from that in float64 by 1e-4 or more.
    """
    rng = np.random.default_rng(0)

    def draw(path, like):
        if path[-1].key in ("scale", "var", "variances", "weights"):
            return np.ones(like.shape, like.dtype)
        return rng.normal(0, math.prod(like.shape[:-1]) ** -0.5 if like.ndim > 1 else 0.1, like.shape).astype(like.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _batch(case: Case) -> dict[str, np.ndarray]:
    """Return a batch of noise and random labels in the format of the input pipeline."""
    rng, numbers = np.random.default_rng(0), np.arange(case.batch, dtype=np.int32)
    audio = rng.normal(0, 4000, (case.batch, math.prod(case.shape)))
    return {
        "audio": np.clip(np.round(audio), -32768, 32767).astype(np.int16),
        "labels": np.eye(case.classes, dtype=np.uint8)[rng.integers(0, case.classes, case.batch)],
        "mask": np.ones(case.batch, np.float32),
        "clip": numbers, "variant": np.zeros_like(numbers), "visit": np.zeros_like(numbers),
    }  # fmt: skip
