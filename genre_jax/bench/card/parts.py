"""The measurements of `bench card` in their order. Each is a command of another benchmark, which can be run alone, too."""

from typing import NamedTuple


class Measurement(NamedTuple):
    """One command.

    Attributes:
      part: number of the part of the card.
      name: name of the measurement, for `--only`.
      seconds: estimate for an H100 with 16 cores, from which the command decides whether the time suffices. ByteNet's steps and
        torch.compile were never timed there.
      arguments: arguments of `python -m genre_jax.bench`.
      small: arguments that `--dry_run` adds; of a flag that stands twice, the later value counts.
      peers: whether the command takes `--peer_python`.
    """

    part: int
    name: str
    seconds: float
    arguments: tuple[str, ...]
    small: tuple[str, ...]
    peers: bool


def _bytenet(dilation: int, policy: str, at_a_time: int, seconds: float) -> Measurement:
    """Return the training step of the full ByteNet on 100 clips of 10 s in bfloat16."""
    name = f"bytenet_{dilation}_{policy}_{at_a_time}"
    arguments = (
        "dilation",
        f"--max_dilation={dilation}",
        f"--remat={policy}",
        "--dtype=bfloat16",
        "--seconds=10",
        "--batch=100",
    )
    small = ("--dry_run", "--batch=4", f"--micro_batch={4 if at_a_time == 100 else 2}", "--steps=1")
    return Measurement(1, name, seconds, (*arguments, f"--micro_batch={at_a_time}"), small, False)


def _against_torch(part: int, name: str, batch: int, seconds: float, *more: str) -> Measurement:
    """Return a training step against PyTorch's, compiled and not, in bfloat16."""
    arguments = ("train_step", f"--networks={name}", "--dtype=bfloat16", f"--batch={batch}", "--rounds=5", *more)
    return Measurement(
        part, f"torch_{name}", seconds, arguments, ("--dry_run", "--batch=2", "--shape=", "--dtype=float32"), True
    )


def _front_ends(part: int, case: str, seconds: float, *small: str) -> Measurement:
    return Measurement(part, case, seconds, ("frontends", f"--cases={case}"), ("--dry_run", *small), True)


TEN_SECONDS = ("--shape=160000,1", "--ours=remat=lean", "--ours=remat=dots")
BACKENDS = ("backends", "--max_dilation=512", "--steps=160000", "--batch=10", "--dtype=bfloat16")
SMALL_BACKENDS = ("--max_dilation=2", "--steps=200", "--batch=1", "--width=4", "--dtype=float32", "--repeats=1")

# The most valuable first. What may run out of memory, and what compiles for long, comes at the end.
MEASUREMENTS = (
    _bytenet(512, "lean", 10, 75),
    _bytenet(512, "offload", 100, 75),
    _bytenet(16, "lean", 10, 60),
    _bytenet(16, "offload", 100, 60),
    _against_torch(1, "bytenet", 8, 120, *TEN_SECONDS),
    _against_torch(2, "resnet101", 128, 150),
    _front_ends(3, "log_mel_1024", 30),
    Measurement(4, "backends", 60, BACKENDS, SMALL_BACKENDS, False),
    *(_front_ends(5, case, 15) for case in ("log_mel", "mfcc", "stft")),
    _bytenet(512, "lean", 100, 75),
    _bytenet(16, "lean", 100, 60),
    _against_torch(1, "bytenet_512", 4, 200, *TEN_SECONDS),
    _against_torch(2, "densenet121", 128, 260),
)
