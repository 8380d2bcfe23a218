"""espeak-ng's library: text to samples, with the phonemes and words and where they begin."""

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tritone.audio import resample

SAMPLE_RATE_HZ = 16_000
_LIBRARY = "libespeak-ng.so.1"

# Of speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 1
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
# Room for one whole utterance in a piece of audio would do; the library cuts longer ones, and the pieces are joined.
_BUFFER_MS = 200


class EspeakMissing(Exception):
    """libespeak-ng cannot be used: the message says what to install."""


@dataclass(frozen=True)
class Mark:
    """Where a phoneme or a word begins.

    Attributes:
        time_s: since the beginning of the samples.
        label: a phoneme in espeak's own notation, empty for a pause; the word's characters for a word.
        begin: of a word, the index of its first character in the text.
    """

    time_s: float
    label: str
    begin: int = 0


@dataclass(frozen=True)
class Spoken:
    """One utterance: samples float32 [n] within -1..1 at 16 kHz, and its marks in the order of time."""

    samples: np.ndarray
    phonemes: list[Mark]
    words: list[Mark]


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, which exists once in a process: get it with `Espeak.open()`."""

    @classmethod
    @functools.cache
    def open(cls) -> "Espeak":
        """Load the library and its data.

        Raises:
            EspeakMissing: it is not installed, or its data is not.
        """
        return cls()

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise EspeakMissing(
                f"{_LIBRARY} cannot be loaded ({error}): on Debian, `apt-get install libespeak-ng1`"
            ) from error
        self._native_rate_hz = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, None, _INITIALIZE_PHONEME_EVENTS
        )
        if self._native_rate_hz <= 0:
            raise EspeakMissing("libespeak-ng finds no data: on Debian, `apt-get install espeak-ng-data`")
        self._pieces: list[np.ndarray] = []
        self._phonemes: list[Mark] = []
        self._words: list[tuple[float, int, int]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only its address
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int) -> Spoken:
        """Have `text` spoken.

        Args:
            voice: a language and a variant, as "en-us+m3".
            words_per_minute: 80 to 450.
            pitch, pitch_range: 0 to 99; 50 is the voice's own.

        Raises:
            ValueError: there is no such voice.
        """
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice}")
        for parameter, value in (
            (_PARAMETER_RATE, words_per_minute),
            (_PARAMETER_PITCH, pitch),
            (_PARAMETER_RANGE, pitch_range),
        ):
            library.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._phonemes, self._words = [], [], []
        encoded = text.encode() + b"\0"
        library.espeak_Synth(encoded, len(encoded), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
        samples = np.concatenate([np.empty(0, np.int16), *self._pieces])
        # Empty words end a clause, and lie anywhere; what lies where the last one did is its second part: "41" is two.
        words: list[Mark] = []
        for time_s, begin, length in self._words:
            if length > 0 and (not words or words[-1].begin != begin):
                words.append(Mark(time_s, text[begin : begin + length], begin))
        return Spoken(
            resample(samples.astype(np.float32) / -np.iinfo(np.int16).min, self._native_rate_hz, SAMPLE_RATE_HZ),
            self._phonemes,
            words,
        )

    def _receive(self, samples: "ctypes._Pointer", num_samples: int, events: "ctypes._Pointer") -> int:
        """A piece of audio and what begins in it or later; 0 asks for more."""
        if num_samples > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        for event in _until_end(events):
            time_s = event.sample / self._native_rate_hz
            if event.type == _EVENT_PHONEME:
                self._phonemes.append(Mark(time_s, event.id.string.decode()))
            elif event.type == _EVENT_WORD:
                self._words.append((time_s, event.text_position - 1, event.length))
        return 0


def _until_end(events: "ctypes._Pointer") -> Iterator[_Event]:
    index = 0
    while events[index].type != _EVENT_END_OF_LIST:
        yield events[index]
        index += 1
