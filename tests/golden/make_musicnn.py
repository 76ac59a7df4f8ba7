"""Outputs of the package musicnn, run by its own code: writes tests/golden/musicnn.npz.

    pip install --no-deps musicnn==0.1.0 tf_keras
    TF_USE_LEGACY_KERAS=1 python tests/golden/make_musicnn.py

The graph is fed in float32. The package itself computes its log-mel spectrogram in float16, which overflows on loud music.
"""

from pathlib import Path

import librosa
import musicnn
import numpy as np
import tensorflow as tf
from musicnn import configuration, models

FRAMES = slice(0, None, 31)  # of the features along time that are kept


def log_mels() -> np.ndarray:
    """Returns random input (2, 187, 96) in the range of a log-mel spectrogram."""
    return np.random.default_rng(21).uniform(0, 3, (2, 187, 96)).astype(np.float32)


def waveform() -> np.ndarray:
    """Returns 7 s of chords, beats and noise at 16 kHz."""
    t, rng = np.arange(7 * 16_000) / 16_000, np.random.default_rng(22)
    chord = sum(np.sin(2 * np.pi * 220 * 2 ** (n / 12) * t) for n in (0, 4, 7, 16, 28))
    beat = np.exp(-12 * (t % 0.5)) * rng.standard_normal(len(t))
    return (0.1 * chord + 0.2 * beat + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


def patches(wave: np.ndarray) -> np.ndarray:
    """Returns the package's patches (patches, 187, 96) of a waveform, in float32."""
    mel = librosa.feature.melspectrogram(y=wave, sr=16_000, hop_length=256, n_fft=512, n_mels=96).T
    mel = np.log10(10_000 * mel + 1)
    return np.stack([mel[at : at + 187] for at in range(0, len(mel) - 186, 187)])


def run(name: str, batch: np.ndarray) -> list[np.ndarray]:
    """Returns the tags and features of a model of the package."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 187, 96])
        with tf.name_scope("model"):
            logits, *features = models.define_model(x, False, name, 50)
        tf.compat.v1.train.Saver().restore(session, f"{Path(musicnn.__file__).parent}/{name}/")
        return session.run([tf.sigmoid(logits), *features], {x: batch})


if __name__ == "__main__":
    arrays = {}
    for name in ("MSD_musicnn", "MTT_musicnn", "MSD_vgg", "MTT_vgg"):
        names = ("tags", "timbral", "temporal", "cnn1", "cnn2", "cnn3", "mean_pool", "max_pool", "embedding")
        if "vgg" in name:
            names = ("tags", "pool1", "pool2", "pool3", "pool4", "pool5")
        for key, value in zip(names, run(name, log_mels()), strict=True):
            value = np.squeeze(value)
            if key in ("timbral", "temporal", "cnn1", "cnn2", "cnn3"):
                value = value[:, FRAMES]
            if key in ("pool1", "pool2", "pool3"):
                value = value[:, FRAMES, ::7]
            arrays[f"{name}/{key}"] = value
        arrays[f"{name}/waveform"] = run(name, patches(waveform()))[0]
        arrays[f"{name}/labels"] = np.array(getattr(configuration, f"{name[:3]}_LABELS"))
    np.savez_compressed(Path(__file__).with_name("musicnn.npz"), **arrays)
