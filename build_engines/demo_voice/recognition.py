"""An offline recogniser that judges what speech says: freely among known words, or among known sentences."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pocketsphinx import Decoder

from build_engines.demo_voice.espeak import SAMPLE_RATE_HZ

_SILENCE_S = 0.2  # around the recording: the acoustic model was trained on speech that starts and ends in silence
_NOISE_AMPLITUDE = 0.003  # of full scale: digital silence is nothing that the acoustic model knows
# Wide beams: narrow ones lose the right words before their end. The search for the best path through the lattice gives
# up on short sentences or leaves their last word out.
SEARCH = {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80, "bestpath": False}
# espeak is not the speaker that the acoustic model knows: beside its sounds the bigrams count more than by default, and
# more Gaussians of each sound are asked. Of espeak's own words (200 fresh sentences) 41% are wrong like this, and 49%
# by default and with the best path.
_FREE_SEARCH = {**SEARCH, "lw": 13.0, "fwdflatlw": 13.0, "topn": 8}
_BEGIN, _END = "<s>", "</s>"
_DISCOUNT = 0.5  # taken from every bigram that was seen, for those that were not


class Recognizer:
    """pocketsphinx's own English model. Each recording is judged alone: nothing is adapted from one to the next.

    Args:
        words: the only ones there are, in lower case.
        texts: sentences of these words, whose neighbourships are the language model of the free search.
        choices: the sentences of the forced choice.

    Raises:
        ValueError: the dictionary lacks a word.
    """

    def __init__(self, words: Sequence[str], texts: Sequence[Sequence[str]], choices: Sequence[str]) -> None:
        pronunciations = _pronunciations(words)
        with TemporaryDirectory() as folder:
            dictionary, bigrams = Path(folder, "words.dict"), Path(folder, "bigrams.arpa")
            dictionary.write_text("\n".join(pronunciations) + "\n")
            bigrams.write_text(arpa_bigrams(words, texts))
            self._free = Decoder(lm=str(bigrams), dict=str(dictionary), loglevel="FATAL", **_FREE_SEARCH)
            self._forced = Decoder(lm=None, dict=str(dictionary), loglevel="FATAL", **SEARCH)
        self._forced.add_jsgf_string("choice", f"#JSGF V1.0; grammar g; public <choice> = {' | '.join(choices)};")
        self._forced.activate_search("choice")

    def transcribe(self, samples: np.ndarray) -> list[str]:
        """The words that are likeliest said in `samples` (float32 [n] within -1..1, 16 kHz)."""
        return decode(self._free, samples).split()

    def choose(self, samples: np.ndarray) -> str:
        """The choice that is likeliest said; "" if none fits."""
        return decode(self._forced, samples)


def num_word_errors(found: Sequence[str], expected: Sequence[str]) -> int:
    """The fewest words to change, leave out or put in."""
    distances = list(range(len(expected) + 1))
    for row, word in enumerate(found, start=1):
        diagonal, distances[0] = distances[0], row
        for column, wanted in enumerate(expected, start=1):
            kept = diagonal + (word != wanted)
            diagonal = distances[column]
            distances[column] = min(kept, diagonal + 1, distances[column - 1] + 1)
    return distances[-1]


def arpa_bigrams(words: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    """A bigram model in ARPA's format: seen pairs are discounted, others fall back to single words, counted from 1."""
    unigrams = Counter(dict.fromkeys([*words, _END], 1))
    bigrams: Counter[tuple[str, str]] = Counter()
    for text in texts:
        unigrams.update([*text, _END])
        bigrams.update(pairwise([_BEGIN, *text, _END]))
    total = unigrams.total()
    probability = {word: count / total for word, count in unigrams.items()}
    followed: Counter[str] = Counter()
    num_followers: Counter[str] = Counter()
    covered: dict[str, float] = dict.fromkeys([*unigrams, _BEGIN], 0.0)
    for (first, second), count in bigrams.items():
        followed[first] += count
        num_followers[first] += 1
        covered[first] += probability[second]

    def backoff(word: str) -> float:
        if not followed[word] or covered[word] >= 1:
            return 0.0
        return math.log10(_DISCOUNT * num_followers[word] / followed[word] / (1 - covered[word]))

    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines.append(f"-99 {_BEGIN} {backoff(_BEGIN):.4f}")
    lines += [f"{math.log10(probability[word]):.4f} {word} {backoff(word):.4f}" for word in sorted(unigrams)]
    lines += ["", "\\2-grams:"]
    for (first, second), count in sorted(bigrams.items()):
        lines.append(f"{math.log10((count - _DISCOUNT) / followed[first]):.4f} {first} {second}")
    return "\n".join([*lines, "", "\\end\\", ""])


def _pronunciations(words: Sequence[str]) -> list[str]:
    """The lines of pocketsphinx's dictionary for some words, their variants "word(2)", ... among them."""
    decoder = Decoder(lm=None, loglevel="FATAL")
    lines = []
    for word in words:
        phones = decoder.lookup_word(word)
        if phones is None:
            raise ValueError(f"the recogniser's dictionary lacks {word!r}")
        variant = 1
        while phones is not None:
            lines.append(f"{word if variant == 1 else f'{word}({variant})'} {phones}")
            variant += 1
            phones = decoder.lookup_word(f"{word}({variant})")
    return lines


def decode(decoder: Decoder, samples: np.ndarray) -> str:
    """What a decoder hears in `samples` (float32 [n] within -1..1, 16 kHz); "" if nothing fits."""
    padded = np.pad(samples, round(_SILENCE_S * SAMPLE_RATE_HZ))
    noise = np.random.default_rng(0).normal(scale=_NOISE_AMPLITUDE, size=len(padded))
    decoder.start_utt()
    decoder.process_raw((np.clip(padded + noise, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else hypothesis.hypstr
