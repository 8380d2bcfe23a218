"""What is heard where the pieces of a stream meet: the streamed waveform against the same tokens decoded at once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tritone_client.tensors import number_tensor, text_tensor

from benchmark.load import AUDIO_S, TEXT
from benchmark.metrics import SeamJumps, seam_jumps
from benchmark.report import table
from benchmark.without_triton import read_parameters, version_dir
from build_engines.codec import signal_to_noise_db
from tritone.spark_tts.codec import Vocoder
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.models import Tensors
from tritone.spark_tts.service import Service
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS, SpeechTokens
from tritone.windows import CrossFade

MODEL = "spark_tts_stream"
NUM_UTTERANCES = 4
CHUNK_TOKENS = 50  # all chunks of a stream, one second; a server's own grow with its lead
OVERLAP_TOKENS = 5  # 0.1 s: what the published server decodes twice, and all the context that its chunks have

Decode = Callable[[Tensors], np.ndarray]  # a request to the vocoder with one row -> samples [n]
Pieces = Sequence[np.ndarray]  # the samples of one utterance, which its client puts end to end
Ways = dict[str, list[Pieces]]  # by way of decoding, each utterance
AT_ONCE = "at once"


@dataclass(frozen=True)
class Seams:
    """How one way of decoding differs from decoding at once, over all utterances together."""

    way: str
    snr_db: float  # against decoding at once in the same precision ...
    f32_snr_db: float  # ... and in float32
    jumps: SeamJumps


def measure_seams(repository: Path) -> dict[str, list[Seams]]:
    """By precision of the vocoder, float32 and the one that it is served with: each way of decoding random tokens."""
    parameters = read_parameters(repository, "vocoder")
    by_precision: dict[str, list[Seams]] = {}
    reference = None
    for precision in dict.fromkeys(("f32", parameters["precision"])):
        vocoder = Vocoder.load(version_dir(repository, "vocoder"), parameters | {"precision": precision})
        ways = decode_each_way(
            version_dir(repository, MODEL),
            read_parameters(repository, MODEL),
            partial(_decode, vocoder),
            f"vocoder in {precision}",
        )
        reference = ways[AT_ONCE] if reference is None else reference
        by_precision[precision] = compare_ways(ways, reference)
    return by_precision


def print_seams(by_precision: dict[str, list[Seams]]) -> None:
    """Print the figures as a table."""
    print(
        f"{NUM_UTTERANCES} utterances of {AUDIO_S:g} s; streams in chunks of {CHUNK_TOKENS} random tokens, "
        f"plain ones with {OVERLAP_TOKENS} tokens of overlap; jumps between two samples, full scale is 1"
    )
    header = (
        *("vocoder", "SNR to at once, dB", "to f32, dB"),
        *("largest jump at a seam", "elsewhere", "added by a seam"),
    )
    rows = [
        (
            *(f"{precision}, {seams.way}", f"{seams.snr_db:.1f}", f"{seams.f32_snr_db:.1f}"),
            *(f"{jump:.4f}" for jump in (seams.jumps.at_seams, seams.jumps.elsewhere, seams.jumps.added)),
        )
        for precision, ways in by_precision.items()
        for seams in ways
    ]
    print(table(header, rows))


def decode_each_way(directory: Path, parameters: dict[str, str], decode: Decode, description: str) -> Ways:
    """Random tokens decoded at once, streamed by the pipeline, and streamed in plain chunks with the same borders.

    Args:
        directory, parameters: of the streaming model.
        description: of the progress bar.
    """
    facts, generator = ModelFacts.load(directory), np.random.default_rng(0)
    num_overlap = OVERLAP_TOKENS * facts.samples_per_token
    ways: Ways = {AT_ONCE: [], "Tritone": [], "plain chunks, cut": [], "plain chunks, cross-faded": []}
    for _ in tqdm(range(NUM_UTTERANCES), desc=description, unit="utterance"):
        voice = generator.integers(facts.num_global_codes, size=NUM_GLOBAL_TOKENS, dtype=np.int32)
        said = generator.integers(facts.num_semantic_codes, size=int(AUDIO_S * facts.tokens_per_s), dtype=np.int32)
        streamed = asyncio.run(_pipeline_pieces(directory, parameters, decode, voice, said))
        ends = [num_samples // facts.samples_per_token for num_samples in accumulate(map(len, streamed))]
        chunks = [
            decode(_vocoder_inputs(voice, said[max(0, begin - OVERLAP_TOKENS) : end]))
            for begin, end in pairwise((0, *ends))
        ]
        at_once = decode(_vocoder_inputs(voice, said))
        utterance: tuple[Pieces, ...] = (
            [at_once],
            streamed,
            _cut(chunks, num_overlap),
            _cross_faded(chunks, num_overlap),
        )
        for utterances, pieces in zip(ways.values(), utterance, strict=True):
            utterances.append(pieces)
    return ways


def compare_ways(ways: Ways, f32_at_once: Sequence[Pieces]) -> list[Seams]:
    """Each of `ways` against decoding at once, and against the same in float32."""
    return [
        Seams(
            way,
            signal_to_noise_db(_joined(utterances), _joined(ways[AT_ONCE])),
            signal_to_noise_db(_joined(utterances), _joined(f32_at_once)),
            _worst([seam_jumps(pieces, whole) for pieces, (whole,) in zip(utterances, ways[AT_ONCE], strict=True)]),
        )
        for way, utterances in ways.items()
    ]


async def _pipeline_pieces(
    directory: Path, parameters: dict[str, str], decode: Decode, voice: np.ndarray, said: np.ndarray
) -> list[np.ndarray]:
    """What the streaming model sends when its language model says `said`."""
    tokens, facts = SpeechTokens.from_file(directory / "tokenizer.json"), ModelFacts.load(directory)
    ids = np.array(tokens.semantic_tokens, np.int32)[said]
    service = Service.load(directory, parameters | {"max_chunk": str(CHUNK_TOKENS)}, _Scripted(ids, decode))
    inputs = {
        "target_text": text_tensor(TEXT),
        "global_tokens": voice[np.newaxis],
        "max_audio_s": number_tensor("max_audio_s", len(said) / facts.tokens_per_s, np.float32),
    }
    return [tensors["waveform"].reshape(-1) async for tensors in service.stream(inputs)]


class _Scripted:
    """Implements `spark_tts.models.Inference`: a language model that says `ids`, and a vocoder."""

    def __init__(self, ids: np.ndarray, decode: Decode) -> None:
        self._ids = ids
        self._decode = decode

    async def call(self, model: str, inputs: Tensors, outputs: list[str]) -> dict[str, np.ndarray]:
        return {"waveform": self._decode(inputs)[np.newaxis]}

    async def stream(
        self, model: str, inputs: Tensors, outputs: list[str], stop: Tensors
    ) -> AsyncGenerator[dict[str, np.ndarray], None]:
        # all at once, so that the chunks do not depend on the time
        yield {"output_ids": self._ids[np.newaxis], "sequence_length": np.array([len(self._ids)], np.int32)}


def _decode(vocoder: Vocoder, inputs: Tensors) -> np.ndarray:
    (waveform,) = vocoder.run(vocoder.rows(inputs))
    return waveform


def _vocoder_inputs(voice: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    return {"global_tokens": voice[np.newaxis], "semantic_tokens": said[np.newaxis]}


def _cut(chunks: Sequence[np.ndarray], num_overlap: int) -> Pieces:
    """Each chunk without what its predecessor ended with."""
    return [chunks[0], *(chunk[num_overlap:] for chunk in chunks[1:])]


def _cross_faded(chunks: Sequence[np.ndarray], num_overlap: int) -> Pieces:
    """Each chunk faded in over what its predecessor ended with."""
    cross_fade = CrossFade()
    *others, last = chunks
    return [*(cross_fade.join(chunk, num_overlap) for chunk in others), cross_fade.join(last, 0)]


def _joined(utterances: Sequence[Pieces]) -> np.ndarray:
    return np.concatenate([piece for pieces in utterances for piece in pieces])


def _worst(jumps: Sequence[SeamJumps]) -> SeamJumps:
    return SeamJumps(*(max(figures) for figures in zip(*map(astuple, jumps), strict=True)))
