r"""Train a run on several hosts of a Ray cluster with the JaxTrainer of Ray Train.

    python launch/ray_train.py --workers=4 --gpus=8 --max_failures=10 -- \
        --config=bytenet --workdir=/shared/runs/1 --config.data.data_dir=/shared/data
    python launch/ray_train.py --workers=4 --tpu=TPU-V6E --topology=4x4 --chips=4 --max_failures=10 -- \
        --config=bytenet --workdir=/shared/runs/1 --config.data.data_dir=/shared/data

Needs Ray (`pip install 'ray[train]'`) and genre_jax on all nodes of the cluster, and the address of the cluster in RAY_ADDRESS;
without it Ray starts on this machine alone. All nodes must see the workdir, the data and --storage. JaxTrainer is alpha; this
script was tried with Ray 2.60 on CPUs, and not on GPUs and TPUs. --gpus=0 without --tpu trains on CPUs, for a test.

Ray reserves the hosts. Each worker starts genre_jax.main as a process of its own, because Ray runs its function in a thread,
where a program cannot handle signals.

--dry_run prints what the trainer would get; it needs no Ray.
Stop: Ctrl-C, or `ray job stop ID`. When a worker ends, its process gets SIGTERM, and saves the state.
Resume, also with another number of workers: the same command again. With --max_failures=N Ray does this by itself N times; the
default is 0.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from typing import Any

import arguments
from absl import flags

from genre_jax import console
from genre_jax.console import UserError, say


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_string("name", "genre_jax", "Name of the run in Ray.")
    flags.DEFINE_integer("workers", 2, "Number of workers: one for each host.", lower_bound=1)
    flags.DEFINE_integer("gpus", 0, "Number of NVIDIA GPUs of each worker.", lower_bound=0)
    flags.DEFINE_string("tpu", "", "Type of the TPU as Ray names it, such as TPU-V6E.")
    flags.DEFINE_string("topology", "", "Topology of the TPU slice, such as 4x4.")
    flags.DEFINE_integer("chips", 4, "Number of TPU chips of each worker.", lower_bound=1)
    flags.DEFINE_integer("cpus", 1, "CPU cores that Ray reserves for each worker.", lower_bound=1)
    flags.DEFINE_string("storage", "", "Shared folder or bucket for Ray's records of the run; the default is Ray's.")
    flags.DEFINE_integer("max_failures", 0, "How often Ray starts all workers again after a failure.", lower_bound=0)
    flags.DEFINE_bool("dry_run", False, "Print what the trainer would get, and start nothing.")


def main(argv: list[str]) -> int:
    """Train, or print what would be trained. Returns the exit code."""
    args = flags.FLAGS
    words = arguments.of_main(argv)
    scaling, run = scaling_config(args), run_config(args)
    if args.dry_run:
        example = command(words, "HOST:PORT", args.workers, 0)
        say(f"ScalingConfig: {scaling}\nRunConfig: {run}\nworker 0: {shlex.join(example)}")
        say("each worker gets its number as --process_id, and the address of worker 0 as HOST:PORT")
        return 0
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"  # before the import
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.exceptions import TrainingFailedError
        from ray.train.v2.jax import JaxConfig, JaxTrainer
    except ImportError as error:
        raise UserError(f"Ray Train is not installed: pip install 'ray[train]' (the import failed with {error})") from error
    trainer = JaxTrainer(
        work,
        train_loop_config={"arguments": words},
        # For GPUs, Ray would take the first ones of the node for each worker; `work` connects the processes instead.
        jax_config=None if args.tpu else JaxConfig(use_tpu=False, use_gpu=False),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(**run | {"failure_config": FailureConfig(**run["failure_config"])}),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise UserError(f"a worker failed, and its lines above say why ({str(error).splitlines()[0]})") from error
    return 0


def scaling_config(args: Any) -> dict[str, Any]:
    """The arguments of Ray's ScalingConfig. Raises `UserError` if flags contradict one another."""
    if args.gpus and args.tpu:
        raise UserError(f"--gpus={args.gpus} and --tpu={args.tpu} exclude one another: leave one of them out")
    if bool(args.tpu) != bool(args.topology):
        raise UserError("--tpu and --topology belong together: give both, such as --tpu=TPU-V6E --topology=4x4")
    resources = {"CPU": args.cpus} | ({"GPU": args.gpus} if args.gpus else {}) | ({"TPU": args.chips} if args.tpu else {})
    config = {"num_workers": args.workers, "resources_per_worker": resources, "placement_strategy": "SPREAD"}
    if args.tpu:
        return config | {"use_tpu": True, "topology": args.topology, "accelerator_type": args.tpu}
    return config | {"use_gpu": bool(args.gpus)}


def run_config(args: Any) -> dict[str, Any]:
    """The arguments of Ray's RunConfig."""
    config = {"name": args.name, "failure_config": {"max_failures": args.max_failures}}
    return config | ({"storage_path": args.storage} if args.storage else {})


def command(words: list[str], coordinator: str, processes: int, process_id: int) -> list[str]:
    """The command of a worker."""
    connection = [f"--coordinator={coordinator}", f"--processes={processes}", f"--process_id={process_id}"]
    return [sys.executable, "-m", "genre_jax.main", *words, *connection]


def work(config: dict[str, Any]) -> None:
    """What each worker does: it agrees on the address of worker 0, and starts main with it."""
    import ray
    from ray import train
    from ray.train.collective import broadcast_from_rank_zero

    context = train.get_context()
    rank, address = context.get_world_rank(), None
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    address = broadcast_from_rank_zero(address)
    environment = dict(os.environ)
    if gpus := ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    # On Linux the process gets SIGTERM when Ray kills the worker.
    guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    started = command(config["arguments"], address, context.get_world_size(), rank)
    done = subprocess.run([*guard, *started], env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"genre_jax.main of worker {rank} ended with exit code {done.returncode}")


if __name__ == "__main__":
    define_flags()
    console.run(main, arguments.parse_flags)
