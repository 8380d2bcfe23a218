from pathlib import Path

import numpy as np
import pytest

from build_engines.checkpoint import Checkpoint
from build_engines.qwen2_reference import Qwen2Reference
from tritone.spark_tts.tokens import SpeechTokens


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Qwen2Reference:
    return Qwen2Reference(checkpoint.lm, checkpoint.lm_file)


@pytest.mark.parametrize(
    "prompt", ["clone_with_transcript", "clone", "control_female_high_low", "control_male_vlow_vhigh"]
)
def test_logits_equal_the_published_ones(reference: Qwen2Reference, golden: dict[str, np.ndarray], prompt: str) -> None:
    expected = golden[f"logits.{prompt}"]

    logits = reference.logits(golden[f"prompt.{prompt}"])[0]

    assert np.abs(logits - expected).max() < 1e-3 * expected.std()


def test_greedy_continuation_equals_the_published_one(
    reference: Qwen2Reference, golden: dict[str, np.ndarray], checkpoint: Checkpoint
) -> None:
    tokens = SpeechTokens.from_file(checkpoint.tokenizer_path)

    continuation = reference.greedy(
        golden["prompt.clone_with_transcript"], 40, [*tokens.semantic_tokens, tokens.im_end]
    )

    assert continuation == golden["greedy.clone_with_transcript"].tolist()


def test_logits_of_a_position_do_not_depend_on_later_tokens(
    reference: Qwen2Reference, golden: dict[str, np.ndarray]
) -> None:
    ids = golden["prompt.clone"]

    np.testing.assert_allclose(
        reference.logits(ids, slice(None))[19], reference.logits(ids[:20])[0], rtol=1e-4, atol=1e-4
    )
