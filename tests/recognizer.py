"""An offline speech recogniser for tests: which of some known sentences does a recording say?"""

from collections.abc import Sequence

import numpy as np
from pocketsphinx import Decoder

SAMPLE_RATE_HZ = 16_000
_SILENCE_S = 0.2  # around the recording: the acoustic model was trained on speech that starts and ends in silence
_NOISE_AMPLITUDE = 0.003  # of full scale: digital silence is nothing that the acoustic model knows

# Of 300 demo lines in six voices, 280 are told apart with pocketsphinx's own settings and 298 with these. Its narrow
# beams lose the right sentence before its end, and its search for the best path through the word lattice gives up on
# short sentences or leaves their last word out. A choice among few sentences can afford to be thorough.
_SEARCH = {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80, "bestpath": False}


class Recognizer:
    """Forced choice among sentences with pocketsphinx's own English model.

    Every word must be in pocketsphinx's dictionary, in lower case. Each recording is judged alone: nothing is
    adapted from one to the next.

    Raises:
        ValueError: a sentence has a word that the dictionary lacks.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        self._decoder = Decoder(lm=None, samprate=SAMPLE_RATE_HZ, loglevel="FATAL", **_SEARCH)
        for word in {word for sentence in sentences for word in sentence.split()}:
            if self._decoder.lookup_word(word) is None:
                raise ValueError(f"the recogniser's dictionary lacks {word!r}")
        grammar = f"#JSGF V1.0; grammar choice; public <choice> = {' | '.join(sentences)};"
        self._decoder.add_jsgf_string("choice", grammar)
        self._decoder.activate_search("choice")

    def choose(self, waveform: np.ndarray) -> str:
        """The sentence that is likeliest said in `waveform` (float32 [n] within -1..1, 16 kHz); "" if none fits."""
        padded = np.pad(waveform, round(_SILENCE_S * SAMPLE_RATE_HZ))
        noise = np.random.default_rng(0).normal(scale=_NOISE_AMPLITUDE, size=len(padded))
        samples = np.clip(padded + noise, -1, 1) * np.iinfo(np.int16).max
        self._decoder.start_utt()
        self._decoder.process_raw(samples.astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else hypothesis.hypstr
