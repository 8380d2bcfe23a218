"""The yardstick speaks a whole utterance, of exactly the length asked for."""

from pathlib import Path

import numpy as np
import pytest

from benchmark.published import LM_DTYPES, LmPrecision, speak_as_published
from build_engines.checkpoint import Checkpoint


@pytest.mark.parametrize("lm_precision", LM_DTYPES)
def test_the_published_way_speaks_all_tokens(
    tiny_checkpoint: Path, golden: dict[str, np.ndarray], lm_precision: LmPrecision
) -> None:
    prompt = golden["prompt.clone_with_transcript"].tolist()
    voice = np.arange(32, dtype=np.int32)
    request = speak_as_published(Checkpoint.open(tiny_checkpoint), prompt, voice, 25, lm_precision)
    assert request.audio_s == 0.5
    assert request.lm_s > 0 and request.vocoder_s > 0
    assert request.rtf == (request.lm_s + request.vocoder_s) / 0.5
