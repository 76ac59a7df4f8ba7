"""The front ends of the published systems: modules whose defaults are what the source states.

Each docstring gives source and output for one clip; where a source is silent, what is chosen here is said to be a choice.
"""

from genre_jax.frontends.modules import Cqt, LogMel, LogMelHtk, LogMelImage, Mfcc, MfccHtk, Spectrogram

# Document 000 (Pollack 2018), 16 kHz, 3 s: the spectrogram is `LogMelImage`; the attention network reads `LogMel`, (161, 112).


class PollackMfcc(Mfcc):
    """Document 000: 12 MFCC at 16 kHz (600 / 300, 128 mels), minus mean, over largest magnitude, image (224, 224, 1)."""

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
    """Document 004 at 22,050 Hz: magnitude STFT 512 / 256, zero padding, 80 mels, ln(x + 1e-6).

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
    """Document 004 at 22,050 Hz: 80 bins of 12 an octave from C1, hop 256, ln(|x| + 1e-6); 20,462 samples → (80, 80, 1)."""

    hop_length: int = 256
    n_bins: int = 80
    compression: str = "ln"
    image: bool = True


class FolmerLogMel(LogMelImage):
    """Document 001 at 22,050 Hz: power mel 2048 / 1024 / 90 in dB; 30 s → 90 × 646, resized to (224, 224, 1).

    Reference of the decibels (here the clip's maximum), padding (zeros) and corners of the resize (not aligned): choices.
    """

    n_fft: int = 2048
    hop_length: int = 1024
    pad_mode: str = "constant"
    n_mels: int = 90
    align_corners: bool = False


class BurrowsMfcc(Mfcc):
    """Document 002 at 44,100 Hz: 80 MFCC, hop 512, 2,500 of the 2,584 frames of 30 s, each coefficient standardised.

    Gives (2500, 80): its 1-D network slides over the 80 coefficients and has the 2,500 frames as channels.
    """

    n_mfcc: int = 80
    frames: int = 2500
    scale: str = "standardise"


class BurrowsMfccMean(Mfcc):
    """Document 002: the means over time of 80 MFCC, standardised: (80,)."""

    n_mfcc: int = 80
    statistics: tuple[str, ...] = ("mean",)
    scale: str = "standardise"


class BurrowsMelgram(LogMel):
    """Document 002 at 12,000 Hz: power mel 512 / 256 / 96 in dB (of 1: a choice); 29.12 s about the centre → (96, 1366, 1)."""

    n_fft: int = 512
    hop_length: int = 256
    pad_mode: str = "constant"
    n_mels: int = 96
    compression: str = "db"
    frames: int = 1366
    image: bool = True


class ChoiStft(Spectrogram):
    """Document 003's auralisation at 11,025 Hz: magnitude STFT 512 / 256; 4 s → (257, 173, 1)."""

    n_fft: int = 512
    hop_length: int = 256
    image: bool = True


class SwishNetMfcc(MfccHtk):
    """SwishNet (arXiv 1812.00149) at 16 kHz: 20 MFCC of 32 mels, 25 ms every 10 ms; 32,240 samples → (200, 20)."""

    n_mels: int = 32
    n_mfcc: int = 20


class SwishNetLogMel(LogMelHtk):
    """The input of its teacher, MobileNet: 64 log mel bands; 32,240 samples → (200, 64)."""

    n_mels: int = 64
