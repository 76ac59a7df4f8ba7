"""Trained networks that classify the frames of a recording block by block: `load` → `SlidNetwork` or `WindowNetwork`.

A network with a `left_context` on an HTK front end is slid: each frame of the recording is computed once, with the left context
carried from block to block. Any other network classifies windows at a hop, and a frame takes the nearest window.

Both compile one shape a process. `start` begins a recording: it returns an object with `push` and `finish`.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from genre_jax import evaluate, forward
from genre_jax.console import UserError
from genre_jax.frontends.modules import LogMelHtk
from genre_jax.prepare import audio
from genre_jax.weights import pretrained

FRAME_SECONDS = 0.01  # frame of the networks that are not slid
_DELTA_REACH = 4  # frames before and after a frame that its deltas see
_BATCH = 16  # windows that are computed at once
# New frames of a slid network in a call. A live stream waits for them, and computes the context again for few of them.
BLOCK, LIVE_BLOCK = 4096, 10


class Stream(Protocol):
    """The logits of one recording."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples float32 (samples,); return the logits (frames, labels) of the frames that are decided by now."""

    def finish(self) -> np.ndarray:
        """Return the logits of the last frames."""


class Network(Protocol):
    """What both kinds of networks have.

    Attributes:
      config, labels: those of the run.
      sample_rate: of its input in Hz.
      hop, frame: distance and length of the frames in samples.
      causal: whether a frame has seen no later samples than its own; a decision then waits for `lookahead` more seconds.
      reach: seconds from the start of a frame to the last sample that its logits depend on.
      whole: the network with one vector of logits for a whole window, as its run evaluates it.
    """

    config: ConfigDict
    labels: tuple[str, ...]
    sample_rate: int
    hop: int
    frame: int
    causal: bool
    reach: float
    whole: "Compiled"

    def start(self) -> Stream:
        """Begin a recording."""


def frames_of(network: Network, samples: int) -> int:
    """Return how many frames a recording of `samples` ≥ 1 has; the last one may be incomplete."""
    return 1 + max(0, -(-(samples - network.frame) // network.hop))


def load(source: str | Path, live: bool = False, hop: float = 0.1, lookahead: float | None = None) -> Network:
    """Load a trained network.

    Args:
      source: a workdir, a file of `save_pretrained`, or hf://….
      live: whether decisions are needed soon, and not many at once.
      hop: seconds between the windows of a network that is not slid.
      lookahead: seconds from a frame to the end of its window; None: half the window, or up to 0.5 s of it if `live`. Slid
        networks ignore it.

    Raises `UserError` if the source is not a trained network, or predicts several labels a clip.
    """
    trained = pretrained.load_trained(source)
    if evaluate.task(trained.config) != "single":
        raise UserError(
            f"{source} predicts several labels at once, and a segment has one: `genre-jax tag` shows its labels over time"
        )
    if _can_be_slid(trained):
        return SlidNetwork(trained, LIVE_BLOCK if live else BLOCK)
    return WindowNetwork(trained, 1 if live else _BATCH, hop, lookahead, live)


def with_readout_of_frames(config: ConfigDict) -> ConfigDict:
    """Return the config of the same network with logits of each frame."""
    config = ConfigDict(config.to_dict())
    if "readout" in config.model:
        config.model.readout = "frames"
    return config


def _can_be_slid(trained: pretrained.Trained) -> bool:
    """Whether each frame depends on few frames around it, and on nothing that is computed from the whole clip."""
    network = forward.build(trained.config, len(trained.labels))
    front = network.frontend
    framewise = isinstance(front, LogMelHtk) and front.scale in ("none", "standardise") and not front.conditioning
    whole = framewise and not (front.statistics or front.frames or front.image or network.gain_cap)
    return whole and hasattr(network.model, "left_context")


class Compiled:
    """A network, its variables on the device, and the float64 setting of its run."""

    def __init__(self, trained: pretrained.Trained, config: ConfigDict):
        self._double = config.dtype == "float64"
        with jax.enable_x64(self._double):
            self.forward = forward.build(config, len(trained.labels))
            self._variables = jax.device_put(trained.variables)

    def __call__(self, program: Any, *arguments: Any) -> np.ndarray:
        with jax.enable_x64(self._double):
            return np.asarray(program(self.forward, self._variables, *arguments), np.float64 if self._double else np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _logits_of_frames(network: forward.Forward, variables: Any, pcm: jax.Array, count: jax.Array) -> jax.Array:
    """Return the logits (frames, labels) of samples int16 (samples,), of which the first `count` frames exist."""
    x = network.features(variables, network.waveform({"audio": pcm[None]}))
    if deltas := network.frontend.deltas:
        # The deltas of the last frames of a recording are those of the last frame that has frames enough after it.
        static, number = x.shape[-1] // (1 + deltas), jnp.arange(x.shape[1])
        last = count - 1 - _DELTA_REACH
        x = jnp.concatenate([x[..., :static], x[:, jnp.minimum(number, last), static:]], -1)
    _, intermediates, _ = network.logits(variables, x)
    return intermediates["frame_logits"][0]


@functools.partial(jax.jit, static_argnums=0)
def _logits_of_windows(network: forward.Forward, variables: Any, pcm: jax.Array) -> jax.Array:
    """Return the logits (windows, labels) of windows int16 (windows, samples)."""
    peak = jnp.maximum(pcm.max(-1), 0) / 32768
    return network(variables, {"audio": pcm, "maximum": peak.astype(network.wide)})[0]


def classifier(network: Network) -> Callable[[np.ndarray], np.ndarray]:
    """Return the network as its run evaluates it: windows int16 (windows, samples) of any length → logits (windows, labels)."""
    compiled = network.whole

    def classify(windows: np.ndarray) -> np.ndarray:
        try:
            return compiled(_logits_of_windows, windows)
        except flax.errors.ScopeParamShapeError as error:
            raise UserError(
                f"this network reads windows of {network.config.data.samples / network.sample_rate:g} s alone, and was given "
                f"{windows.shape[1] / network.sample_rate:g} s: set --context to that length"
            ) from error

    return classify


class SlidNetwork:
    """A causal or frame-wise network that computes each frame of a recording once; see `Network`."""

    def __init__(self, trained: pretrained.Trained, block: int):
        """Take `block` new frames at a time, ≥ 1."""
        self.config, self.labels = trained.config, trained.labels
        self.sample_rate = self.config.data.sample_rate
        self.compiled, self.whole = Compiled(trained, with_readout_of_frames(self.config)), Compiled(trained, self.config)
        front: Any = self.compiled.forward.frontend
        model: Any = self.compiled.forward.model
        self.hop, self.frame, self.block = front.hop_length, front.win_length, block
        self.least = 1 + 2 * _DELTA_REACH if front.deltas else 1  # frames of the shortest recording
        self.after = _DELTA_REACH if front.deltas else 0
        # Pre-emphasis begins anew in the first frame of a block, and so do the deltas in the first four: both are left out.
        self.before = model.left_context + (1 + self.after if front.preemph or front.deltas else 0)
        self.frames = self.before + block + self.after
        self.causal = model.left_context > 0
        self.reach = ((self.after + block - 1) * self.hop + self.frame) / self.sample_rate

    def start(self) -> "_SlidStream":
        """Begin a recording."""
        return _SlidStream(self)

    def logits(self, pcm: np.ndarray, count: int) -> np.ndarray:
        """Return the logits (count, labels) of the first `count` frames of samples int16 (samples,)."""
        window = np.zeros((self.frames - 1) * self.hop + self.frame, np.int16)
        window[: len(pcm)] = pcm[: len(window)]
        return self.compiled(_logits_of_frames, window, count)[:count]


class _SlidStream:
    """The logits of one recording by a `SlidNetwork`.

    A block of frames at the start of the recording begins with frame 0, and the network then pads as it does at the start of a
    clip. All other blocks begin `before` frames earlier. Zeros fill the rest of a block; nothing depends on them.
    """

    def __init__(self, network: SlidNetwork):
        self._net = network
        self._held = np.zeros(0, np.int16)  # from the first sample of frame `_first`
        self._first = self._done = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples, and return the logits of the frames that are decided by now."""
        self._held = np.concatenate([self._held, audio.to_pcm(samples, 1.0)])
        net = self._net
        complete = self._first + max(0, (len(self._held) - net.frame) // net.hop + 1)
        return self._advance(complete, complete - net.after, net.block)

    def finish(self) -> np.ndarray:
        """Return the logits of the last frames; the last one is completed with zeros, as in training."""
        end = self._first + frames_of(self._net, len(self._held))
        if end < self._net.least:
            raise UserError(
                f"the signal is too short for this network: deltas need {self._net.least} frames of "
                f"{self._net.hop / self._net.sample_rate:g} s, and it has {end}"
            )
        return self._advance(end, end, 1)

    def _advance(self, count: int, end: int, least: int) -> np.ndarray:
        """Return the logits up to frame `end` of `count` frames that exist, as long as `least` frames are left."""
        net, parts = self._net, [np.zeros((0, len(self._net.labels)), np.float32)]
        while end - self._done >= least:
            exist = min(count - self._first, net.frames)
            logits = net.logits(self._held, exist)
            until = min(end, self._first + exist - (net.after if self._first + exist < count else 0))
            parts.append(logits[self._done - self._first : until - self._first])
            self._done = until
            first = max(0, until - net.before)
            self._held, self._first = self._held[(first - self._first) * net.hop :], first
        return np.concatenate(parts)


class WindowNetwork:
    """A network that classifies windows of the length of its clips, at a hop; see `Network`.

    Window k begins at k hops. It stands for the time that lies `lookahead` before its end. The last window ends at the end of
    the recording. Each frame has the logits of the window whose time is nearest to the middle of the frame.
    """

    def __init__(self, trained: pretrained.Trained, batch: int, hop: float, lookahead: float | None, live: bool):
        """Compute `batch` windows at once; the other arguments are those of `load`."""
        self.config, self.labels = trained.config, trained.labels
        self.sample_rate, self.samples, self.batch = self.config.data.sample_rate, self.config.data.samples, batch
        self.whole = Compiled(trained, self.config)
        self.hop = self.frame = max(1, round(FRAME_SECONDS * self.sample_rate))
        self.step = round(hop * self.sample_rate)
        if self.step < 1:
            raise UserError(f"--hop must be a positive number of seconds, and was given {hop:g}")
        half = self.samples / 2 / self.sample_rate
        self.ahead = round((min(half, 0.5 if live else half) if lookahead is None else lookahead) * self.sample_rate)
        if self.ahead > self.samples:
            raise UserError(
                f"--lookahead must be at most {self.samples / self.sample_rate:g} s, the length of the windows, and was given "
                f"{lookahead:g}"
            )
        self.causal = False
        self.reach = (self.ahead + batch * self.step + self.hop) / self.sample_rate

    def start(self) -> "_WindowStream":
        """Begin a recording."""
        return _WindowStream(self)

    def logits(self, windows: np.ndarray) -> np.ndarray:
        """Return the logits (windows, labels) of at most `batch` windows int16 (windows, samples)."""
        full = np.zeros((self.batch, self.samples), np.int16)
        full[: len(windows)] = windows
        return self.whole(_logits_of_windows, full)[: len(windows)]


class _WindowStream:
    """The logits of one recording by a `WindowNetwork`."""

    def __init__(self, network: WindowNetwork):
        self._net = network
        self._held = np.zeros(0, np.int16)  # from sample `_first`, the start of the next window or, at the end, earlier
        self._first = self._next = self._done = 0  # `_next`: start of the next window; `_done`: number of the next frame
        self._times = np.zeros(0)  # of the last window that gave frames, and of all windows after it, in samples
        self._logits = np.zeros((0, len(network.labels)), np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take samples, and return the logits of the frames that are decided by now."""
        self._held = np.concatenate([self._held, audio.to_pcm(samples, 1.0)])
        net = self._net
        while self._first + len(self._held) >= self._next + (net.batch - 1) * net.step + net.samples:
            self._classify(self._next + np.arange(net.batch) * net.step)
        if not len(self._times):
            return self._logits
        # Frames up to the time of the last window have their nearest window among those that are known.
        return self._emit(max(self._done, int((self._times[-1] - net.hop / 2) // net.hop) + 1))

    def finish(self) -> np.ndarray:
        """Return the logits of the last frames. A recording that is shorter than a window is one window with zeros."""
        net, end = self._net, self._first + len(self._held)
        last = max(0, end - net.samples)
        starts = np.append(np.arange(self._next, last, net.step), last)
        if self._next > 0 and last == self._next - net.step:
            starts = starts[:0]  # the last window was there
        for n in range(0, len(starts), net.batch):
            self._classify(starts[n : n + net.batch])
        return self._emit(frames_of(net, end))

    def _classify(self, starts: np.ndarray) -> None:
        """Compute the windows that begin at `starts`, and drop the samples that no later window needs."""
        net = self._net
        windows = np.zeros((len(starts), net.samples), np.int16)
        for row, start in zip(windows, starts, strict=True):
            cut = self._held[start - self._first :][: net.samples]
            row[: len(cut)] = cut
        self._logits = np.concatenate([self._logits, net.logits(windows)])
        self._times = np.append(self._times, starts + net.samples - net.ahead)
        self._next = int(starts[-1]) + net.step
        first = max(self._first, self._next - net.step)  # the last window may begin before the next one of the hop
        self._held, self._first = self._held[first - self._first :], first

    def _emit(self, end: int) -> np.ndarray:
        """Return the logits of the frames up to frame `end`."""
        middles = (np.arange(self._done, end) + 0.5) * self._net.hop
        nearest = np.searchsorted((self._times[1:] + self._times[:-1]) / 2, middles)
        found, self._done = self._logits[nearest], end
        self._times, self._logits = self._times[-1:], self._logits[-1:]
        return found
