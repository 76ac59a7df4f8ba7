r"""Train a run on several hosts of a Kubernetes cluster: prints a manifest, or applies it with kubectl.

    python launch/kube.py --kind=jobset --name=NAME --image=IMAGE --hosts=4 --gpus=8 [--dry_run] -- MAIN'S ARGUMENTS
    python launch/kube.py --kind=trainjob --name=run1 --image=IMAGE --hosts=4 --gpus=8 --claim=shared -- \
        --config=bytenet --workdir=/shared/runs/run1 --config.data.data_dir=/shared/data
    python launch/kube.py --kind=jobset --name=run1 --image=IMAGE --hosts=4 --tpu=tpu-v5-lite-podslice --topology=4x4 \
        --chips=4 -- --config=bytenet --workdir=gs://BUCKET/runs/run1 --config.data.data_dir=gs://BUCKET/data \
        --config.data.order=by_shard --config.data.sampling=uniform

Needs kubectl, and in the cluster the JobSet controller (jobset) or Kubeflow Trainer ≥ 2.2 with its runtime jax-distributed
(trainjob). The image holds genre_jax with the extra for the accelerator. Each host is a pod, and trains with all of its
accelerators. All pods must see the workdir and the data: in a bucket, or below --mount, where the pods mount a claim that many
pods can mount (--claim).

--dry_run prints the manifest, and applies nothing.
Stop: `kubectl delete jobset NAME` (or trainjob). The pods get SIGTERM, save the state, and end within --grace seconds.
Resume, also with another number of hosts: the same command again. A JobSet also starts all pods again by itself after a pod
has failed or was evicted, up to --max_restarts times.
"""

import posixpath
import re
import shlex
import shutil
import subprocess
from pathlib import PurePosixPath
from typing import Any

import arguments
import yaml
from absl import flags

from genre_jax import console
from genre_jax.console import UserError, say

PORT = 29_500  # of the coordinator, in the first pod
SHARED_MEMORY = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}  # NCCL needs more than a container's 64 MB


def define_flags() -> None:
    """Define the flags of this command. Not at import, because the tests import it beside other commands."""
    flags.DEFINE_enum("kind", "jobset", list(MANIFESTS), "Kind of the resource: a JobSet, or a TrainJob of Kubeflow Trainer.")
    flags.DEFINE_string("name", None, "Name of the resource: small letters, digits and hyphens.")
    flags.DEFINE_string("namespace", None, "Namespace; the default is that of kubectl's context.")
    flags.DEFINE_string("image", None, "Container image with genre_jax.")
    flags.DEFINE_integer("hosts", 2, "Number of hosts, each of them a pod.", lower_bound=1)
    flags.DEFINE_integer("gpus", 0, "Number of NVIDIA GPUs of each host.", lower_bound=0)
    flags.DEFINE_string("tpu", "", "Type of the TPU slice as GKE names it, such as tpu-v5-lite-podslice.")
    flags.DEFINE_string("topology", "", "Topology of the TPU slice, such as 4x4.")
    flags.DEFINE_integer("chips", 4, "Number of TPU chips of each host.", lower_bound=1)
    flags.DEFINE_string("cpus", "", "CPU cores that each pod requests, such as 16.")
    flags.DEFINE_string("memory", "", "Memory that each pod requests, such as 128Gi.")
    flags.DEFINE_string("claim", "", "A persistent volume claim that all pods mount.")
    flags.DEFINE_string("mount", "/shared", "Where the pods mount the claim.")
    flags.DEFINE_string("service_account", "", "Service account of the pods, which needs access to the bucket.")
    flags.DEFINE_integer("max_restarts", 10, "How often a JobSet starts all pods again.", lower_bound=0)
    flags.DEFINE_integer("grace", 180, "Seconds that a pod has to save its state.", lower_bound=1)
    flags.DEFINE_bool("dry_run", False, "Print the manifest, and apply nothing.")


def main(argv: list[str]) -> int:
    """Print or apply the manifest that the flags describe, and return kubectl's exit code."""
    args = flags.FLAGS
    words = arguments.of_main(argv)
    check(args)
    check_workdir(args, words)
    manifest = MANIFESTS[args.kind](args, [word.replace("$(", "$$(") for word in words])  # Kubernetes expands $(NAME)
    text = yaml.safe_dump(manifest, sort_keys=False, width=1000)
    if args.dry_run:
        say(text.rstrip())
        return 0
    if shutil.which("kubectl") is None:
        raise UserError("kubectl is not installed here: install it, or pipe the output of --dry_run to it elsewhere")
    command = ["kubectl", "apply", "--filename=-"]
    code = subprocess.run(command, input=text, text=True, check=False).returncode
    if code == 0:
        namespace = ["--namespace", args.namespace] if args.namespace else []
        follow = ["kubectl", "logs", "--follow", f"--selector=jobset.sigs.k8s.io/jobset-name={args.name}", *namespace]
        say(f"follow it with: {shlex.join(follow)}")
    return code


def check(args: Any) -> None:
    """Raise `UserError` if a flag is missing, or if flags contradict one another."""
    arguments.need(name=args.name, image=args.image)
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", args.name):
        raise UserError(
            f"--name must be 1 to 40 small letters, digits and hyphens that begin with a letter, and was given {args.name!r}"
        )
    if args.gpus and args.tpu:
        raise UserError(f"--gpus={args.gpus} and --tpu={args.tpu} exclude one another: leave one of them out")
    if bool(args.tpu) != bool(args.topology):
        raise UserError("--tpu and --topology belong together: give both, such as --tpu=tpu-v5-lite-podslice --topology=4x4")


def check_workdir(args: Any, words: list[str]) -> None:
    """Raise `UserError` if the workdir in main's arguments would vanish with the pods."""
    workdir = ([""] + [word.partition("=")[2] for word in words if word.startswith("--workdir=")])[-1]
    if "://" not in workdir and not (args.claim and PurePosixPath(posixpath.normpath(workdir)).is_relative_to(args.mount)):
        raise UserError(
            "--workdir in the arguments of genre_jax.main must be a URL, such as --workdir=gs://BUCKET/runs/run1, or with "
            f"--claim a folder below {args.mount}, because the disk of a pod does not remain, and was given {workdir!r}"
        )


def jobset(args: Any, words: list[str]) -> dict[str, Any]:
    """The JobSet: one indexed Job with a pod for each host. Its headless service gives the first pod a name."""
    connection = (f"{args.name}-hosts-0-0.{args.name}:{PORT}", args.hosts, "$(JOB_COMPLETION_INDEX)")
    container = {
        "name": "main",
        "image": args.image,
        "command": ["python"],
        "args": _main(words, *connection),
        "ports": [{"containerPort": PORT}],
        "resources": _resources(args),
        **_mounts(args),
    }
    pod = {"restartPolicy": "Never", **_pod(args), "containers": [container]}
    job = {
        "parallelism": args.hosts,
        "completions": args.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a pod cannot join again: the JobSet starts all of them
        "template": {"spec": pod},
    }
    metadata = _metadata(args)
    if args.tpu:  # all pods on one slice
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": args.name, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": args.max_restarts},
            "replicatedJobs": [{"name": "hosts", "replicas": 1, "template": {"spec": job}}],
        },
    }


def trainjob(args: Any, words: list[str]) -> dict[str, Any]:
    """The TrainJob. Its runtime jax-distributed sets the environment variables JAX_… of each pod."""
    connection = ("$(JAX_COORDINATOR_ADDRESS)", "$(JAX_NUM_PROCESSES)", "$(JAX_PROCESS_ID)")
    trainer = {
        "image": args.image,
        "command": ["python"],
        "args": _main(words, *connection),
        "numNodes": args.hosts,
        "resourcesPerNode": _resources(args),
    }
    pod = _pod(args)
    if mounts := _mounts(args):
        pod["containers"] = [{"name": "node", **mounts}]
    patch = {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(args),
        "spec": {
            "runtimeRef": {"name": "jax-distributed"},
            "trainer": trainer,
            "runtimePatches": [{"manager": "genre-jax.launch/kube", "trainingRuntimeSpec": {"template": {"spec": patch}}}],
        },
    }


MANIFESTS = {"jobset": jobset, "trainjob": trainjob}


def _main(words: list[str], coordinator: str, processes: int | str, process_id: str) -> list[str]:
    connection = [f"--coordinator={coordinator}", f"--processes={processes}", f"--process_id={process_id}"]
    return ["-m", "genre_jax.main", *words, *connection]


def _metadata(args: Any) -> dict[str, Any]:
    return {"name": args.name, **({"namespace": args.namespace} if args.namespace else {})}


def _resources(args: Any) -> dict[str, Any]:
    requests = {name: value for name, value in (("cpu", args.cpus), ("memory", args.memory)) if value}
    limits = {"nvidia.com/gpu": args.gpus} if args.gpus else {"google.com/tpu": args.chips} if args.tpu else {}
    parts = {"requests": {**requests, **limits}, "limits": limits}
    return {name: {key: str(value) for key, value in part.items()} for name, part in parts.items() if part}


def _pod(args: Any) -> dict[str, Any]:
    """The fields of the pod that both kinds take."""
    pod: dict[str, Any] = {"terminationGracePeriodSeconds": args.grace}
    if args.service_account:
        pod["serviceAccountName"] = args.service_account
    if args.tpu:
        labels = {"gke-tpu-accelerator": args.tpu, "gke-tpu-topology": args.topology}
        pod["nodeSelector"] = {f"cloud.google.com/{name}": value for name, value in labels.items()}
    volumes = [{"name": "shared", "persistentVolumeClaim": {"claimName": args.claim}}] if args.claim else []
    if args.gpus:
        volumes.append(SHARED_MEMORY)
    return pod | ({"volumes": volumes} if volumes else {})


def _mounts(args: Any) -> dict[str, Any]:
    mounts = [{"name": "shared", "mountPath": args.mount}] if args.claim else []
    if args.gpus:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})
    return {"volumeMounts": mounts} if mounts else {}


if __name__ == "__main__":
    define_flags()
    console.run(main, arguments.parse_flags)
