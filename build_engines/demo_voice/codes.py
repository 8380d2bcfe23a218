"""The demo voice's codes, defined rather than found by clustering: every network then has a known target.

Semantic codes: which phoneme, and for how many frames it has lasted. Global codes: which voice, and its F0.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from build_engines.demo_voice.espeak import Mark
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS

SAMPLES_PER_FRAME = 320
FRAMES_PER_S = 50
NUM_CODES = 8192
FSQ_LEVELS = (4, 4, 4, 4, 4, 4)

# Ages beyond these are one: of phonemes nobody hears the difference; of pauses the language model must know when they
# end, or it may never end them.
# A pause is as many phonemes, one after the other, as it has times eight ages.
NUM_AGES = 8
_NUM_PAUSE_AGES = 4 * NUM_AGES
_PAUSE = ""
_PAUSE_LABELS = ("_", "_:", "")

# Codes spread over the 8192, so that nothing can rely on the used ones being the first.
_CODE_STRIDE, _CODE_OFFSET = 13, 5

# F0 lies on a thermometer: of 32 tokens x 3 steps, as many are up as log F0 is above the lowest. Any function of F0 is
# then nearly a linear one of the digits, and a wrong digit shifts F0 by one step of 2%. A second one, half a step
# off, halves the steps.
_LOWEST_F0_HZ, _HIGHEST_F0_HZ = 65.0, 450.0
_F0_STEPS_PER_TOKEN = 3
_NUM_F0_STEPS = _F0_STEPS_PER_TOKEN * NUM_GLOBAL_TOKENS
NUM_VOICE_DIGITS = 3
_F0_DIGITS = slice(NUM_VOICE_DIGITS, NUM_VOICE_DIGITS + 2)
_CONSTANT_DIGIT = 2


class SemanticCodes:
    """The classes (phoneme, age) and the codes that stand for them.

    Args:
        phonemes: espeak's names of all phonemes but pauses.
    """

    def __init__(self, phonemes: Sequence[str]) -> None:
        self.phonemes = tuple(phonemes)
        self._index = {phoneme: index for index, phoneme in enumerate(self.phonemes)}
        self.num_classes = NUM_AGES * len(self.phonemes) + _NUM_PAUSE_AGES
        if _CODE_STRIDE * self.num_classes > NUM_CODES:
            raise ValueError(f"{self.num_classes} classes are more than {NUM_CODES} codes hold at this stride")

    @classmethod
    def of(cls, utterances: Sequence[Sequence[Mark]]) -> "SemanticCodes":
        """Of the phonemes that occur."""
        return cls(sorted({mark.label for marks in utterances for mark in marks if not is_pause(mark)}))

    @property
    def codes(self) -> np.ndarray:
        """The code of every class, int64 [classes]."""
        return _CODE_STRIDE * np.arange(self.num_classes) + _CODE_OFFSET

    @property
    def num_phonemes(self) -> int:
        """Of the classes; what a pause is made of counts."""
        return self.num_classes // NUM_AGES

    @property
    def silence(self) -> int:
        """Of a pause's beginning, what a phoneme's index is of a phoneme."""
        return len(self.phonemes)

    @property
    def first_classes(self) -> np.ndarray:
        """With which a sound begins, in the order of the phonemes, a pause last; int64 [phonemes + 1]."""
        return NUM_AGES * np.arange(len(self.phonemes) + 1)

    def indices(self, marks: Sequence[Mark]) -> list[int]:
        """Of the phonemes among marks, pauses left out."""
        return [self._index[mark.label] for mark in marks if not is_pause(mark)]

    @property
    def phonemes_and_ages(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every class, int64 [classes] each."""
        return np.divmod(np.arange(self.num_classes), NUM_AGES)

    def classes(self, marks: Sequence[Mark], num_frames: int) -> np.ndarray:
        """The class of every frame, int16 [frames]; what lies before the first mark is a pause."""
        starts = np.array([0.0, *(mark.time_s for mark in marks)])
        labels = [_PAUSE, *(_PAUSE if is_pause(mark) else mark.label for mark in marks)]
        centres_s = (np.arange(num_frames) + 0.5) / FRAMES_PER_S
        current = np.searchsorted(starts, centres_s, side="right") - 1
        # neighbouring pauses are one
        run = np.cumsum([0, *(a != _PAUSE or b != _PAUSE for a, b in itertools.pairwise(labels))])[current]
        first_frame = np.searchsorted(run, run, side="left")
        ages = np.arange(num_frames) - first_frame
        is_silent = np.array([label == _PAUSE for label in labels])[current]
        bases = np.array([NUM_AGES * self._index.get(label, self.silence) for label in labels])[current]
        return (bases + np.minimum(ages, np.where(is_silent, _NUM_PAUSE_AGES, NUM_AGES) - 1)).astype(np.int16)

    def ages(self, classes: np.ndarray) -> np.ndarray:
        """How many frames before each one belong to the same sound, int64 [frames]; these count on beyond all ages."""
        frames = np.arange(len(classes))
        return frames - np.maximum.accumulate(np.where(self._is_first(classes), frames, 0))

    def stretched(self, classes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is said by classes [frames], slower or faster.

        Args:
            factors: how many times as long each frame's sound is to last, float [frames]; the first frame's counts.

        Returns:
            The classes [new frames], and for each of them the frame in which the same is said.
        """
        begins = np.flatnonzero(self._is_first(classes))
        lengths = np.diff([*begins, len(classes)])
        ends = np.round(np.cumsum(lengths * factors[begins])).astype(int)
        new_lengths = np.maximum(np.diff([0, *ends]), 1)
        sound = np.repeat(np.arange(len(begins)), new_lengths)
        ages = np.arange(len(sound)) - np.repeat(np.cumsum(new_lengths) - new_lengths, new_lengths)
        firsts = classes[begins][sound]
        last_ages = np.where(firsts < NUM_AGES * len(self.phonemes), NUM_AGES, _NUM_PAUSE_AGES) - 1
        frames = begins[sound] + ages * lengths[sound] // new_lengths[sound]
        return (firsts + np.minimum(ages, last_ages)).astype(classes.dtype), frames

    def _is_first(self, classes: np.ndarray) -> np.ndarray:
        """Whether a sound begins there: the eighth age of a pause, say, begins none."""
        return np.isin(classes, self.first_classes)


def is_pause(mark: Mark) -> bool:
    """Whether espeak says nothing there."""
    return mark.label in _PAUSE_LABELS


def global_digits(voice: int, f0_hz: float) -> np.ndarray:
    """The FSQ digits of a voice at an F0, int64 [32 tokens, 6]."""
    height = _height(f0_hz)
    bases = _F0_STEPS_PER_TOKEN * np.arange(NUM_GLOBAL_TOKENS)
    digits = np.full((NUM_GLOBAL_TOKENS, len(FSQ_LEVELS)), _CONSTANT_DIGIT)
    digits[:, :NUM_VOICE_DIGITS] = _voice_digits(voice)
    heights = np.floor(height + np.array([0.0, 0.5]))
    digits[:, _F0_DIGITS] = np.clip(heights - bases[:, None], 0, _F0_STEPS_PER_TOKEN)
    return digits


def tells_f0(digits: np.ndarray) -> np.ndarray:
    """Which digits [..., 32 tokens, 6] tell an F0 from its neighbours, bool: where its thermometers end, and beside."""
    ends = digits[..., _F0_DIGITS.start].sum(axis=-1)[..., None] // _F0_STEPS_PER_TOKEN
    is_near = np.abs(np.arange(NUM_GLOBAL_TOKENS) - ends) <= 1
    is_f0 = np.zeros(len(FSQ_LEVELS), bool)
    is_f0[_F0_DIGITS] = True
    return is_near[..., None] & is_f0


def told_f0_hz(f0_hz: float) -> float:
    """What the digits tell of an F0: the middle of the half step that it lies in."""
    height = (np.floor(2 * np.clip(_height(f0_hz), 0, _NUM_F0_STEPS)) + 0.5) / 2
    return float(_LOWEST_F0_HZ * (_HIGHEST_F0_HZ / _LOWEST_F0_HZ) ** (height / _NUM_F0_STEPS))


def global_tokens(digits: np.ndarray) -> np.ndarray:
    """Digits [..., 6] to tokens int64 [...]; the first digit is the least significant."""
    return digits @ np.array([4**place for place in range(len(FSQ_LEVELS))])


def used_global_tokens() -> np.ndarray:
    """Every global token that a voice can have, ascending."""
    corners = (0, FSQ_LEVELS[0] - 1)
    digits = [
        (a, b, c, d, e, _CONSTANT_DIGIT)
        for a in corners
        for b in corners
        for c in corners
        for d in range(FSQ_LEVELS[3])
        for e in range(FSQ_LEVELS[4])
    ]
    return np.sort(global_tokens(np.array(digits)))


def _height(f0_hz: float) -> float:
    """Of an F0 on the thermometer, in steps."""
    return float(np.log(f0_hz / _LOWEST_F0_HZ) / np.log(_HIGHEST_F0_HZ / _LOWEST_F0_HZ) * _NUM_F0_STEPS)


@functools.cache
def _voice_digits(voice: int) -> np.ndarray:
    """[32, 3] outermost digits at random: 96 bits tell voices apart however many of them are heard wrong."""
    bits = np.random.default_rng([0, voice]).integers(2, size=(NUM_GLOBAL_TOKENS, NUM_VOICE_DIGITS))
    return bits * (FSQ_LEVELS[0] - 1)
