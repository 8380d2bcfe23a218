"""Where the command line's speech goes, an audio file or WAV on standard output, and what is shown meanwhile."""

import struct
from io import RawIOBase
from typing import BinaryIO, Self, TextIO

import numpy as np

from tritone_client.audio import SAMPLE_RATE_HZ, AudioFile

STANDARD_OUTPUT = "-"

_BYTES_PER_SAMPLE = 2
_UNKNOWN_LENGTH = 0xFFFFFFFF  # what players and ffmpeg take to mean "until the end"


class PipedWav:
    """16-bit WAV, mono, on a stream that may be a pipe (soundfile can write WAV only where it can seek back).

    A pipe is told that the length is unknown; in a file (`tritone say ... -o - > out.wav`) close() fills it
    in.
    """

    def __init__(self, stream: BinaryIO | RawIOBase) -> None:
        self._stream = stream
        self._num_samples = 0
        self._stream.write(self._header(_UNKNOWN_LENGTH))

    def write(self, waveform: np.ndarray) -> None:
        """Appends float32 [n] within -1..1; what is louder is clipped."""
        samples = np.round(np.clip(waveform, -1, 1) * np.iinfo(np.int16).max)
        self._stream.write(samples.astype("<i2").tobytes())
        self._stream.flush()  # a player at the other end should not wait
        self._num_samples += len(waveform)

    def close(self) -> None:
        if self._stream.seekable():
            self._stream.seek(0)
            self._stream.write(self._header(self._num_samples * _BYTES_PER_SAMPLE))
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _header(num_data_bytes: int) -> bytes:
        num_riff_bytes = min(num_data_bytes + 36, _UNKNOWN_LENGTH)
        pcm, mono, num_format_bytes = 1, 1, 16
        return struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", num_riff_bytes, b"WAVE", b"fmt ", num_format_bytes, pcm, mono),
            *(SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * _BYTES_PER_SAMPLE, _BYTES_PER_SAMPLE, 8 * _BYTES_PER_SAMPLE),
            *(b"data", num_data_bytes),
        )


class ProgressLine:
    """How much was spoken so far: one line of a terminal, rewritten each time and removed in the end.

    What is no terminal, a log file for one, gets nothing.
    """

    def __init__(self, stream: TextIO) -> None:
        self._terminal = stream if stream.isatty() else None

    def show(self, duration_s: float) -> None:
        self._write(f"\r{duration_s:.1f} s of speech so far")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\r\x1b[K")  # erases from the cursor to the line's end

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(text)
            self._terminal.flush()


def open_output(path: str, standard_output: BinaryIO) -> AudioFile | PipedWav:
    """Something to write() speech to, piece by piece, and to close.

    Raises:
        OSError: the file cannot be written.
    """
    if path == STANDARD_OUTPUT:
        return PipedWav(standard_output)
    return AudioFile(path)
