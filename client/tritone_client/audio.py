"""Audio files to and from the samples that the server works with: mono float32 at 16 kHz."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE_HZ = 16000


def to_server_audio(waveform: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Audio of any sample rate, [n] or [n, channels], as float32 [m] at 16 kHz.

    As Spark-TTS does: the first channel alone (not the mean of all), resampled by soxr at very high quality.
    Volume is left alone: the server normalises it.

    Raises:
        ValueError: waveform is neither [n] nor [n, channels].
    """
    if waveform.ndim not in (1, 2):
        raise ValueError(f"audio must have the shape [n] or [n, channels], got {list(waveform.shape)}")
    mono = waveform if waveform.ndim == 1 else waveform[:, 0]
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if sample_rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, sample_rate_hz, SAMPLE_RATE_HZ, quality="VHQ")
    return mono


def read_server_audio(path: str | PathLike[str]) -> np.ndarray:
    """An audio file (whatever soundfile reads, any rate and channel count) as float32 [n] at 16 kHz.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not audio that soundfile can read.
    """
    with open(path, "rb") as file:
        try:
            waveform, sample_rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is not an audio file that can be read: {error.error_string}") from error
    return to_server_audio(waveform, sample_rate_hz)


class AudioFile(soundfile.SoundFile):
    """A mono audio file to write, in the format that its suffix names (.wav is 16 bit).

    Raises, here and in write():
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | PathLike[str], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
        with _libsndfile_errors_as_os_errors(path):
            super().__init__(path, "w", samplerate=sample_rate_hz, channels=1)

    def write(self, waveform: np.ndarray) -> None:
        """Appends float32 [n] within -1..1."""
        # In short blocks: libsndfile's Vorbis encoder puts all that it is given at once on the stack, and minutes of
        # speech overflow that.
        with _libsndfile_errors_as_os_errors(self.name):
            for start in range(0, len(waveform), self.samplerate):
                super().write(waveform[start : start + self.samplerate])


@contextmanager
def _libsndfile_errors_as_os_errors(path: str | PathLike[str]) -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path} cannot be written: {error.error_string}") from error


def check_writable_suffix(path: str | PathLike[str]) -> None:
    """Tells, before anything is synthesised, that a file's suffix names no format that soundfile writes.

    Raises:
        ValueError: it names none.
    """
    suffix = Path(path).suffix
    if suffix[1:].upper() not in soundfile.available_formats():
        raise ValueError(f"{path}: the suffix {suffix!r} is not a known audio format; use .wav, .flac, .mp3, .ogg, ...")
