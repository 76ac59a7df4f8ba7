"""The front ends of published systems: modules whose defaults are the values of the source.

Each docstring names the source, the settings as FFT length / hop length in samples, and the output shape of one clip. A value
that the source does not state is marked as our choice.
"""

from genre_jax.frontends.modules import Cqt, LogMel, LogMelHtk, LogMelImage, Mfcc, MfccHtk, Spectrogram

# Document 000 (Pollack 2018), 3 s at 16 kHz: its image is `LogMelImage`; its attention network reads `LogMel`, (161, 112).


class PollackMfcc(Mfcc):
    """Document 000 at 16 kHz: 12 MFCC, 600 / 300, 128 mels, scaled by mean and largest magnitude; image (224, 224, 1)."""

    n_fft: int = 600
    hop_length: int = 300
    pad_mode: str = "reflect"
    n_mfcc: int = 12
    scale: str = "mean_max"
    image: bool = True
    height: int = 224
    width: int = 224
    align_corners: bool = True


class SchindlerLogMel(LogMel):
    """Document 004 at 22,050 Hz: 80 mels of the magnitude STFT, 512 / 256, zero padding, ln(x + 1e-6).

    20,462 samples → (80, 80, 1).
    """

    n_fft: int = 512
    hop_length: int = 256
    pad_mode: str = "constant"
    power: float = 1.0
    n_mels: int = 80
    compression: str = "ln"
    image: bool = True


class SchindlerCqt(Cqt):
    """Document 004 at 22,050 Hz: 80 bins from C1, 12 per octave, hop 256, ln(|x| + 1e-6); 20,462 samples → (80, 80, 1)."""

    hop_length: int = 256
    n_bins: int = 80
    compression: str = "ln"
    image: bool = True


class FolmerLogMel(LogMelImage):
    """Document 001 at 22,050 Hz: 90 mels of the power STFT in dB, 2048 / 1024; 30 s → 90 × 646, resized to (224, 224, 1).

    Our choices: dB below the maximum of the clip, zero padding, a resize without aligned corners.
    """

    n_fft: int = 2048
    hop_length: int = 1024
    pad_mode: str = "constant"
    n_mels: int = 90
    align_corners: bool = False


class BurrowsMfcc(Mfcc):
    """Document 002 at 44,100 Hz: 80 MFCC, hop 512, each coefficient standardised; 30 s → (2500, 80) of 2,584 frames.

    The 1-D network of the document convolves over the 80 coefficients; the 2,500 frames are its channels.
    """

    n_mfcc: int = 80
    frames: int = 2500
    scale: str = "standardise"


class BurrowsMfccMean(Mfcc):
    """Document 002: means over time of 80 MFCC, standardised, (80,)."""

    n_mfcc: int = 80
    statistics: tuple[str, ...] = ("mean",)
    scale: str = "standardise"


class BurrowsMelgram(LogMel):
    """Document 002 at 12,000 Hz: 96 mels of the power STFT, 512 / 256, in dB; the central 29.12 s → (96, 1366, 1).

    Each band is standardised, as the document's other features. Our choice: dB relative to 1.
    """

    n_fft: int = 512
    hop_length: int = 256
    pad_mode: str = "constant"
    n_mels: int = 96
    compression: str = "db"
    frames: int = 1366
    scale: str = "standardise"
    image: bool = True


class ChoiStft(Spectrogram):
    """Document 003, auralisation, at 11,025 Hz: magnitude STFT, 512 / 256; 4 s → (257, 173, 1)."""

    n_fft: int = 512
    hop_length: int = 256
    image: bool = True


class SwishNetMfcc(MfccHtk):
    """SwishNet (arXiv 1812.00149) at 16 kHz: 20 MFCC of 32 mels, frames of 25 ms every 10 ms; 32,240 samples → (200, 20)."""

    n_mels: int = 32
    n_mfcc: int = 20


class SwishNetLogMel(LogMelHtk):
    """The input of MobileNet, the teacher of SwishNet, at 16 kHz: 64 log mel energies; 32,240 samples → (200, 64)."""

    n_mels: int = 64


class MusicnnLogMel(LogMel):
    """musicnn (arXiv 1909.06654) at 16 kHz: 96 mels of the power STFT, 512 / 256, log10(1 + 10,000 x).

    48,128 samples → (187, 96).

    No padding: the package cuts its patches from the spectrogram of the whole song, and so do our windows of a song, whose
    first frame is the package's second.
    """

    n_fft: int = 512
    hop_length: int = 256
    center: bool = False
    n_mels: int = 96
    compression: str = "log10"
