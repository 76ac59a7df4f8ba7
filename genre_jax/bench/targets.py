"""Compilation for cards that are not in this machine. It needs Linux and JAX's CUDA plugin.

The values of each card are from XLA's own descriptions (openxla/xla, xla/backends/gpu/target_config/specs). Without the card,
XLA cannot time cuDNN and Triton kernels and takes its default kernels.
"""

import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from genre_jax import parallel
from genre_jax.console import UserError, pick

# The share of a GPU's memory that JAX allocates by default (XLA_PYTHON_CLIENT_MEM_FRACTION). It is the limit of a run.
SHARE = 0.75


class Target(NamedTuple):
    """XLA's description of a card. Sizes are in bytes; `lanes` and `shared` are per core (multiprocessor)."""

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
    """Run JAX on the CPU, and let it load its CUDA plugin without a driver. Call this before JAX computes anything."""
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program of a card cannot be read without the card


def use(name: str, count: int = 1) -> int:
    """Compile for `count` cards of the target `name` from now on in this process; return the bytes per card that a run may use.

    Raise `UserError` if the name is not in `TARGETS`, or if JAX's CUDA plugin is not installed.
    """
    target = pick("target", name, TARGETS)
    leave_cards_alone()
    description = _DESCRIPTION.format(target)
    try:
        topology = topologies.get_topology_desc(name, "cuda", target_config=description, topology=f"1x1x{count}")
    except RuntimeError as error:
        raise UserError(f"--target={name} needs JAX's CUDA plugin, but no card: pip install '.[cuda]' ({error})") from error
    parallel.compile_for(topology.devices)
    return int(SHARE * target.memory)
