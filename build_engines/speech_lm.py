"""The CPU engine of Spark-TTS's LM: built from a checkpoint, and compared with the reference.

Three things set it apart from a plain export of Qwen2:

- its head has rows only for the tokens that can be emitted (see `tritone.vocabulary`), about one in twelve;
- the grammar of a Spark-TTS sequence is in the graph: no sampling setting can produce an invalid sequence;
- weights are quantised one by one while they are read, so building needs little more memory than the largest.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from build_engines.checkpoint import Checkpoint
from build_engines.checks import Check
from build_engines.qwen2_graph import Precision, Qwen2Graph, Rule
from build_engines.qwen2_reference import Qwen2Reference
from tritone.spark_tts.prompts import Prompts, Style
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS, SpeechTokens
from tritone.speech_lm import Sampling, SpeechLm, SpeechLmSettings, engine_properties
from tritone.vocabulary import Vocabulary

# Root mean square error of the logits over their spread. Measured: int8 0.024 (demo voice), TINY (tiny synthetic)
# and 0.064 (full synthetic), bf16 0.009 and 0.012 (demo, tiny), f32 under 1e-6. The limits leave that about three
# times the room, for other processors' kernels and other weights; logits that have nothing to do with the
# reference's, as a wrong graph gives, would be at 1.4 (the square root of 2).
MAX_LOGIT_ERROR: dict[Precision, float] = {"int8": 0.2, "bf16": 0.08, "f32": 1e-3}
NUM_VERIFIED_TOKENS = 100
VERIFIED_TEXT = "hello world"


def speech_grammar(tokens: SpeechTokens) -> list[Rule]:
    """What may follow each token of a Spark-TTS sequence; after any other token everything emittable may.

    The number of global tokens is not in it: a phase of exactly n tokens is a request for n tokens.
    """

    def one(token: int) -> range:
        return range(token, token + 1)

    return [
        Rule(one(tokens.start_acoustic), (tokens.pitch_values,)),
        Rule(tokens.pitch_values, (tokens.speed_values,)),
        Rule(tokens.speed_values, (one(tokens.end_acoustic),)),
        Rule(one(tokens.end_acoustic), (one(tokens.start_global),)),
        Rule(one(tokens.start_global), (tokens.global_tokens,)),
        Rule(tokens.global_tokens, (tokens.global_tokens,)),
        Rule(one(tokens.end_global), (one(tokens.start_semantic),)),
        Rule(one(tokens.start_semantic), (tokens.semantic_tokens,)),
        Rule(tokens.semantic_tokens, (tokens.semantic_tokens, one(tokens.im_end))),
    ]


def build_openvino_lm(checkpoint: Checkpoint, output_dir: Path, precision: Precision = "int8") -> Path:
    """Write into a folder what `tritone.speech_lm.SpeechLm` serves.

    Args:
        precision: of the weights: "int8" (one scale per row), "bf16", or "f32" for comparisons.

    Returns:
        output_dir, with openvino_model.xml and .bin, config.json, generation_config.json and vocabulary.json.
    """
    tokens = SpeechTokens.from_file(checkpoint.tokenizer_path)
    grammar = speech_grammar(tokens)
    vocabulary = Vocabulary(checkpoint.lm["vocab_size"], {ids for rule in grammar for ids in rule.allowed})
    model = Qwen2Graph(checkpoint, vocabulary, grammar, precision).model()

    output_dir.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, output_dir / "openvino_model.xml", compress_to_fp16=False)
    vocabulary.save(output_dir / "vocabulary.json")
    # GenAI writes to the logits of the end token, so both files must name its row in the cut head
    end_row = int(vocabulary.row_of_id[tokens.im_end])
    _write_json(output_dir / "generation_config.json", {"eos_token_id": end_row, "bos_token_id": None})
    _write_json(output_dir / "config.json", {**checkpoint.lm, "eos_token_id": end_row, "bos_token_id": None})
    return output_dir


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def verify_lm(checkpoint: Checkpoint, engine_dir: Path, precision: Precision) -> list[Check]:
    """Let the engine speak freely, then hold every step's logits to the reference's."""
    prompts = Prompts(checkpoint.tokenizer_path)
    tokens = prompts.tokens
    prompt = prompts.controlled(VERIFIED_TEXT, Style(gender=0, pitch=2, speed=2))
    sequence = _sampled_sequence(engine_dir, precision, tokens, prompt)
    stretch = slice(len(prompt) - 1, -1)  # the positions after which the engine had a choice

    vocabulary = Vocabulary.load(engine_dir / "vocabulary.json")
    emittable_ids = vocabulary.id_of_row[: vocabulary.num_emittable]
    logits = engine_logits(engine_dir, sequence, precision)[stretch]
    reference = Qwen2Reference(checkpoint.lm, checkpoint.lm_file).logits(sequence, stretch)[:, emittable_ids]
    allowed = allowed_rows(speech_grammar(tokens), vocabulary, sequence[stretch])
    rows = vocabulary.row_of_id[sequence[len(prompt) :]]
    sampled = np.flatnonzero(rows < vocabulary.num_emittable)  # all but what the prompts add between two phases
    num_forbidden = np.sum(~allowed[sampled, rows[sampled]])

    error = np.sqrt(np.mean((logits - reference)[allowed] ** 2)) / reference.std()
    gap = logits.min(where=allowed, initial=np.inf) - logits.max(where=~allowed, initial=-np.inf)
    return [
        Check.at_most("logit error over the logits' spread", float(error), "RMS", MAX_LOGIT_ERROR[precision]),
        Check.at_least("tokens that the grammar forbids lie below all others by", float(gap), "logits", 500),
        Check.at_most("sampled tokens that the grammar forbids", float(num_forbidden), "tokens", 0),
    ]


def engine_logits(engine_dir: Path, ids: list[int], precision: Precision) -> np.ndarray:
    """Logits [position, emittable row] after every position of one sequence, in a single pass."""
    rows = Vocabulary.load(engine_dir / "vocabulary.json").row_of_id[ids][np.newaxis]
    engine = ov.Core().compile_model(engine_dir / "openvino_model.xml", "CPU", engine_properties(precision))
    inputs = {
        "input_ids": rows,
        "attention_mask": np.ones_like(rows),
        "position_ids": np.arange(rows.size)[np.newaxis],
        "beam_idx": np.zeros(1, np.int32),
    }
    return engine(inputs)["logits"][0]


def allowed_rows(grammar: list[Rule], vocabulary: Vocabulary, ids: list[int]) -> np.ndarray:
    """Whether each row may follow each id: bool [id, emittable row]."""
    allowed = np.ones((len(ids), vocabulary.num_emittable), bool)
    for position, token in enumerate(ids):
        for rule in grammar:
            if token in rule.after:
                allowed[position] = False
                for following in rule.allowed:
                    allowed[position, vocabulary.row_of_id[following]] = True
    return allowed


def _sampled_sequence(engine_dir: Path, precision: Precision, tokens: SpeechTokens, prompt: list[int]) -> list[int]:
    """The prompt, then pitch, speed, voice and speech as the engine draws them with the published settings."""
    lm = SpeechLm(engine_dir, SpeechLmSettings(precision=precision, kv_cache_tokens=1024))
    try:
        sampling = Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=0)
        num_tokens_to_voice = 4 + NUM_GLOBAL_TOKENS  # pitch, speed, end of the acoustic part, start of the voice
        voice = [*prompt, *lm.generate(prompt, num_tokens_to_voice, sampling=sampling), tokens.end_global]
        return voice + lm.generate(voice, NUM_VERIFIED_TOKENS, sampling=sampling, end_id=tokens.im_end)
    finally:
        lm.close()
