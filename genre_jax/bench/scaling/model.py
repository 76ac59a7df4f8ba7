"""A model of the time of a training step on N devices, its fit to measured rows, and its prediction.

    step(N) = compute(clips per device) + all_reduce(N)

or, if the all-reduce is hidden behind the backward pass, the larger of the two. The all-reduce is a ring inside each host and a
ring over the hosts: among n members that send B bytes each of 2 (n - 1) rounds sends B / n bytes over the link, and waits for
the link's latency. All devices of a host share its link to other hosts.

XLA merges the all-reduces of the gradient into one. The others of a step (statistics of batch norms, sums of the loss) are
small, wait for one another, and take only latency: 2 log2(n) messages each, as in the trees that NCCL uses for small sizes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from genre_jax.console import UserError

LATENCY = 1e-5  # seconds, for links that name none


class Link(NamedTuple):
    """A connection: bytes per second in each direction, and seconds until a message arrives."""

    name: str
    bytes_a_second: float
    latency: float = LATENCY


def parse_link(text: str) -> Link:
    """Return the link of a text NAME BYTES_PER_SECOND [SECONDS], as in "100G Ethernet 12.5e9 2e-5"."""
    words = text.split()
    numbers: list[float] = []
    while words and len(numbers) < 2:
        try:
            numbers.insert(0, float(words[-1]))
        except ValueError:
            break
        words.pop()
    if not words or not numbers or not all(0 < number < float("inf") for number in numbers):
        raise UserError(
            "--links must be NAME BYTES_PER_SECOND [SECONDS_OF_LATENCY], separated by commas, as in 'NVLink 300e9 2e-6', "
            f"not {text!r}"
        )
    return Link(" ".join(words), *numbers)


def ring(members: int, size: float, link: Link, messages: int = 1) -> float:
    """Return the seconds of a ring all-reduce of `size` bytes, and of `messages` - 1 small ones that wait for one another."""
    rounds, small = 2 * (members - 1), 2 * math.ceil(math.log2(members))
    return rounds / members * size / link.bytes_a_second + (rounds + max(0, messages - 1) * small) * link.latency


def all_reduce(devices: int, per_host: int, size: float, inside: Link, between: Link, messages: int = 1) -> float:
    """Return the seconds of the all-reduces of a step; `per_host` devices share a host, and `between` connects the hosts."""
    local = min(devices, per_host)
    return ring(local, size, inside, messages) + ring(-(-devices // local), size, between, messages)


def step(compute: float, communication: float, overlap: bool) -> float:
    """Return the seconds of a step."""
    return max(compute, communication) if overlap else compute + communication


class Job(NamedTuple):
    """What is predicted: a network's training step on a kind of device. `batch` is the number of clips per device.

    `clip_bytes` are the bytes of a cut in int16; `messages` and `size` are those of the all-reduces of a step.
    """

    flops_a_clip: float
    flops_a_second: float
    batch: int
    size: int
    messages: int
    clip_bytes: int

    def compute(self, clips: float) -> float:
        """Return the seconds for `clips` clips on a device."""
        return clips * self.flops_a_clip / self.flops_a_second


def predict(
    job: Job, kind: str, counts: Iterable[int], per_host: int, inside: Link, between: Link, overlap: bool
) -> list[dict[str, Any]]:
    """Return a row for each number of devices. `kind` is "weak" (`job.batch` clips a device) or "strong".

    In strong scaling the batch is that of weak scaling on the largest number of devices, and one device computes it in
    micro-batches. "efficiency" is the speed per device relative to a device without all-reduces.
    """
    counts = list(counts)
    rows = []
    for devices in counts:
        clips = job.batch if kind == "weak" else job.batch * max(counts) / devices
        compute = job.compute(clips)
        communication = all_reduce(devices, per_host, job.size, inside, between, job.messages)
        seconds = step(compute, communication, overlap)
        hosts = -(-devices // per_host)
        speed = devices * clips / seconds
        rows.append(
            {
                "kind": kind, "devices": devices, "hosts": hosts, "link": between.name, "overlap": overlap,
                "global_batch": round(devices * clips), "compute_s": compute, "all_reduce_s": communication,
                "step_s": seconds, "clips_per_second": speed, "efficiency": compute / seconds,
                "clips_per_second_and_host": speed / hosts, "int16_bytes_per_second_and_host": speed / hosts * job.clip_bytes,
            }
        )  # fmt: skip
    return rows


class Fit(NamedTuple):
    """The model of the measured machine: compute(clips) = `fixed` + `a_clip` · clips, and a link per kind of topology.

    `shared` says that all devices share the processor cores of one machine, so that `clips` are those of all devices.
    """

    fixed: float
    a_clip: float
    shared: bool
    links: dict[str, Link]

    def step(self, row: dict[str, Any]) -> float:
        """Return the seconds of a measured row's step, without overlap."""
        clips = row["global_batch"] if self.shared else row["global_batch"] / row["devices"]
        seconds = self.fixed + self.a_clip * clips
        link = self.links.get(_topology(row))
        return seconds + (ring(row["devices"], row["all_reduce_bytes"], link, row["all_reduces"]) if link else 0.0)


def fit(rows: Sequence[dict[str, Any]], shared: bool) -> Fit | None:
    """Fit compute to the steps of one device, and links to the all-reduces that were measured alone.

    The steps of several devices are not used, so that they can check the model. None without a row of one device.
    """
    single = sorted({(row["global_batch"], row["step_s"]) for row in rows if row["devices"] == 1})
    if not single:
        return None
    clips, seconds = np.array(single).T
    if len(set(clips)) > 1:
        fixed, a_clip = least_squares(np.stack([np.ones_like(clips), clips], 1), seconds)
    else:
        fixed, a_clip = 0.0, float(np.mean(seconds / clips))
    links = {}
    for name in dict.fromkeys(_topology(row) for row in rows if row["devices"] > 1):
        several = [row for row in rows if row["devices"] > 1 and _topology(row) == name]
        rounds = np.array([2.0 * (row["devices"] - 1) for row in several])
        sent = rounds * [row["gradient_bytes"] / row["devices"] for row in several]
        slowness, latency = least_squares(np.stack([sent, rounds], 1), np.array([row["all_reduce_s"] for row in several]))
        links[name] = Link(name, 1 / slowness if slowness else float("inf"), latency)
    return Fit(fixed, a_clip, shared, links)


def _topology(row: dict[str, Any]) -> str:
    return "one process" if row["hosts"] == 1 else "several processes"


def least_squares(matrix: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the two factors ≥ 0 of the columns of `matrix` whose relative errors are least in the mean square."""
    scaled = matrix / values[:, None]
    ones = np.ones(len(values))
    both = np.linalg.lstsq(scaled, ones, rcond=None)[0]
    if len(values) > 1 and (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = [max(0.0, float(column @ ones / (column @ column))) for column in scaled.T]
    errors = [float(((column * factor - ones) ** 2).sum()) for column, factor in zip(scaled.T, alone, strict=True)]
    return (alone[0], 0.0) if errors[0] <= errors[1] else (0.0, alone[1])


def check(rows: Sequence[dict[str, Any]], model: Fit) -> list[float]:
    """Return for each row the model's error: its step divided by the measured step, less 1."""
    return [model.step(row) / row["step_s"] - 1 for row in rows]
