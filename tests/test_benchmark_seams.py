"""Ways of streaming compared on a stand-in for the vocoder, whose reach is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark.seams import compare_ways, decode_each_way
from build_engines.checkpoint import Checkpoint
from build_engines.repository import model_facts
from tritone.spark_tts.models import Tensors

REACH_TOKENS = 8  # to each side: more than the plain chunks' overlap, less than the look-ahead


@pytest.fixture
def directory(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """What the streaming model's version folder holds."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    model_facts(checkpoint).save(tmp_path)
    shutil.copyfile(checkpoint.tokenizer_path, tmp_path / "tokenizer.json")
    return tmp_path


def moving_average(inputs: Tensors) -> np.ndarray:
    """Each sample is the mean of the samples up to REACH_TOKENS away, where 320 samples have their token's value."""
    (tokens,) = inputs["semantic_tokens"]
    samples = np.repeat(tokens / 8192 - 0.5, 320)
    reach = REACH_TOKENS * 320
    sums = np.concatenate([[0], np.cumsum(samples)])
    index = np.arange(len(samples))
    last, first = np.minimum(index + reach + 1, len(samples)), np.maximum(index - reach, 0)
    waveform = (sums[last] - sums[first]) / (2 * reach + 1)
    begin = int(inputs.get("keep_begin", np.array(0)).item())
    end = int(inputs.get("keep_end", np.array(len(tokens))).item())
    return waveform[begin * 320 : end * 320].astype(np.float32)


def test_only_the_pipeline_streams_what_is_decoded_at_once(directory: Path) -> None:
    ways = decode_each_way(directory, {}, moving_average, "test")
    at_once, tritone, cut, cross_faded = compare_ways(ways, ways["at once"])
    assert at_once.snr_db == float("inf")
    assert tritone.snr_db > 100 and tritone.f32_snr_db > 100
    assert tritone.jumps.at_seams <= tritone.jumps.elsewhere
    assert cut.snr_db < 40 and cross_faded.snr_db < 40
    assert cut.jumps.at_seams > 10 * cut.jumps.elsewhere
    assert cut.jumps.added > 100 * tritone.jumps.added
    assert cross_faded.jumps.at_seams < cut.jumps.at_seams / 10
