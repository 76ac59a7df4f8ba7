"""Cards that need not be here: XLA compiles for them on any Linux machine with JAX's CUDA plugin, and says what it plans.

The figures are those by which XLA itself describes each card (openxla/xla, xla/backends/gpu/target_config/specs).
Without the card cuDNN and Triton kernels are not timed, so that XLA takes its first choices.
"""

import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from genre_jax import parallel
from genre_jax.console import UserError, unknown

# What JAX takes of a GPU's memory unless told otherwise (XLA_PYTHON_CLIENT_MEM_FRACTION), and so the limit of a run there.
SHARE = 0.75


class Target(NamedTuple):
    """What XLA must know of a card; sizes in bytes, `lanes` and `shared` of each of its cores (multiprocessors)."""

    name: str
    capability: str
    cores: int
    lanes: int
    gigahertz: float
    shared: int
    shared_a_block: int
    cache: int
    memory: int
    memory_a_second: int


HOPPER = "major: 9 feature_extension: ACCELERATED_FEATURES"
TARGETS = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", "major: 8", 108, 64, 1.41, 167_936, 166_912, 41_943_040, 85_100_068_864, 2_039_040_000_000
    ),
    "h100": Target(
        "NVIDIA H100 80GB HBM3", HOPPER, 132, 128, 1.98, 233_472, 232_448, 52_428_800, 84_942_979_072, 3_352_320_000_000
    ),
    "h200": Target("NVIDIA H200", HOPPER, 132, 128, 1.98, 233_472, 232_448, 52_428_800, 151_397_597_184, 4_800_000_000_000),
}

_DESCRIPTION = """
gpu_device_info {{
  name: "{0.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ {0.capability} }}
  core_count: {0.cores}
  fpus_per_core: {0.lanes}
  clock_rate_ghz: {0.gigahertz}
  shared_memory_per_core: {0.shared}
  shared_memory_per_block_optin: {0.shared_a_block}
  shared_memory_per_block: 49152
  l2_cache_size: {0.cache}
  device_memory_size: {0.memory}
  memory_bandwidth: {0.memory_a_second}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{0.name}"
"""


def leave_cards_alone() -> None:
    """Let JAX run on the CPU, and load its CUDA plugin without a driver. To be called before JAX computes anything."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # what it kept of a card's program cannot be read without the card


def use(name: str, count: int = 1) -> int:
    """Compile for `count` cards from here on, in all of this process; returns the bytes that a run may take of each.

    Raises `UserError` for a name that is not listed, and without JAX's CUDA plugin.
    """
    if name not in TARGETS:
        raise unknown("target", name, TARGETS)
    leave_cards_alone()
    description = _DESCRIPTION.format(TARGETS[name])
    try:
        topology = topologies.get_topology_desc(name, "cuda", target_config=description, topology=f"1x1x{count}")
    except RuntimeError as error:
        raise UserError(
            f"--target={name} needs JAX's CUDA plugin, which no card has to be there for: pip install '.[cuda]' ({error})"
        ) from error
    parallel.compile_for(topology.devices)
    return int(SHARE * TARGETS[name].memory)
