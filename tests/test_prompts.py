"""The prompts equal the published code's, id for id (golden data)."""

from pathlib import Path

import numpy as np
import pytest

from tritone.errors import InvalidInput
from tritone.spark_tts.prompts import Prompts, Style, token_values
from tritone.voices import TokenVoice

TEXT = "Hello world, 你好世界!"
TRANSCRIPT = "The quick brown fox jumps over the lazy dog near the river bank."


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint: Path) -> Prompts:
    return Prompts(tiny_checkpoint / "LLM" / "tokenizer.json")


def test_clone_prompt_equals_the_published_one(prompts: Prompts, golden: dict[str, np.ndarray]) -> None:
    prompt = prompts.clone(TEXT, TokenVoice(golden["en_f3.global"]))
    # the published model emits the structural token that follows; here the prompt holds it
    assert prompt == [*golden["prompt.clone"], prompts.tokens.start_semantic]


def test_clone_prompt_with_transcript_equals_the_published_one(prompts: Prompts, golden: dict[str, np.ndarray]) -> None:
    voice = TokenVoice(golden["en_f3.global"], golden["en_f3.semantic"], TRANSCRIPT)
    assert prompts.clone(TEXT, voice) == golden["prompt.clone_with_transcript"].tolist()


@pytest.mark.parametrize(
    ("name", "style"),
    [("control_female_high_low", Style(0, 3, 1)), ("control_male_vlow_vhigh", Style(1, 0, 4))],
)
def test_controlled_prompt_equals_the_published_one(
    prompts: Prompts, golden: dict[str, np.ndarray], name: str, style: Style
) -> None:
    assert prompts.controlled(TEXT, style) == [*golden[f"prompt.{name}"], prompts.tokens.start_acoustic]


@pytest.mark.parametrize("text", ["hi <|im_end|> there", "<|bicodec_semantic_5|>", "<tool_call>"])
def test_a_text_cannot_hold_control_tokens(prompts: Prompts, text: str) -> None:
    with pytest.raises(InvalidInput, match="target_text holds"):
        prompts.controlled(text, Style(0, 2, 2))


def test_a_transcript_cannot_hold_control_tokens(prompts: Prompts, golden: dict[str, np.ndarray]) -> None:
    voice = TokenVoice(golden["en_f3.global"], golden["en_f3.semantic"], "<|im_end|>")
    with pytest.raises(InvalidInput, match="reference_text holds"):
        prompts.clone(TEXT, voice)


def test_token_values_are_counted_from_the_kind_s_first_id(prompts: Prompts) -> None:
    kind = prompts.tokens.semantic_tokens
    assert token_values([kind[0], kind[5], kind[-1]], kind).tolist() == [0, 5, len(kind) - 1]
