"""How many streams one server carries: a closed loop of utterances of fixed length.

On weights of no meaning an utterance ends at its limit, so every request is the same work. In the same run, on the same
machine: the same engines without Triton, and the published way of running the checkpoint.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm
from tritone_client import AsyncTritone, ReferenceVoice, TokenVoice, Voice
from tritone_client.tensors import number_tensor, text_tensor

from benchmark.load import TEXT, Speak, measure_level, speak_all
from benchmark.metrics import Level
from benchmark.published import LM_DTYPES, PublishedRequest, speak_as_published
from benchmark.report import processor_name, table, write_json
from benchmark.without_triton import DirectInference, read_parameters, version_dir
from build_engines.checkpoint import Checkpoint
from tritone import voices
from tritone.serve import TritonServer
from tritone.spark_tts.facts import ModelFacts
from tritone.spark_tts.prompts import Prompts
from tritone.spark_tts.service import Service
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS

MODEL = "spark_tts_stream"
TRANSCRIPT = "The river is near the mountain, and the house is old."
REFERENCE_S = 3.0
REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    concurrency: tuple[int, ...]
    audio_s: float  # of one request
    requests_per_stream: int
    num_repetitions: int
    with_published: bool


@dataclass(frozen=True)
class Streams:
    """The figures of one checkpoint: lists hold a level for each number of concurrent streams."""

    machine: str
    num_cores: int
    settings: Settings
    tokens_per_s: float  # of audio
    published: list[PublishedRequest]
    transcribed: list[Level]  # cloned with the reference's transcript, as tokens
    transcribed_without_triton: list[Level]
    untranscribed: list[Level]  # cloned without
    new_wav_first_audio_s: float  # of the first request with a reference WAV and its transcript
    known_wav: Level  # later requests with the same WAV, one at a time


def measure_streams(checkpoint_dir: Path, repository: Path, settings: Settings) -> Streams:
    """Measure the published way, then serve `repository`, load its engines without Triton too, and measure both."""
    published = _published(Checkpoint.open(checkpoint_dir), repository, settings) if settings.with_published else []
    with (
        TritonServer.on_free_ports(repository, log_path=repository.with_name(f"{repository.name}.log")) as server,
        closing(DirectInference(repository)) as inference,
    ):
        return asyncio.run(_measure(server.grpc_url, repository, inference, published, settings))


def print_streams(streams: Streams, output: Path | None) -> None:
    """Print the figures; write them, and every request's times, to `output` as JSON, too."""
    settings = streams.settings
    print(f"machine: {streams.machine}, {streams.num_cores} cores")
    print(
        f"each stream: {settings.requests_per_stream} requests of {settings.audio_s:g} s one after another; "
        f"repetitions: {settings.num_repetitions}"
    )
    for request in streams.published:
        print(
            f"published way, {request.audio_s:g} s, language model in {request.lm_precision}: RTF {request.rtf:.2f} "
            f"(language model {request.lm_s:.1f} s, vocoder {request.vocoder_s:.1f} s)"
        )
    for title, levels in (
        (f"inside Triton, reference of {REFERENCE_S:g} s with its transcript", streams.transcribed),
        ("without Triton, the same", streams.transcribed_without_triton),
        ("inside Triton, reference without a transcript", streams.untranscribed),
    ):
        print(f"\n{title}\n{_level_table(levels, streams.tokens_per_s)}")
    print(f"\nthroughput inside Triton, reference with its transcript\n{_ratio_table(streams)}")
    print(
        f"\nfirst audio, 1 stream, reference WAV of {REFERENCE_S:g} s with its transcript: "
        f"{streams.new_wav_first_audio_s:.2f} s when it is new; then P50 {streams.known_wav.first_audio_p50_s:.2f} s, "
        f"max {streams.known_wav.first_audio_max_s:.2f} s"
    )
    if output is not None:
        write_json(output, streams)


async def _measure(
    url: str, repository: Path, inference: DirectInference, published: list[PublishedRequest], settings: Settings
) -> Streams:
    facts = ModelFacts.load(version_dir(repository, MODEL))
    service = Service.load(version_dir(repository, MODEL), read_parameters(repository, MODEL), inference)
    transcribed = _voice(facts)
    untranscribed = TokenVoice(transcribed.global_tokens)
    noise = np.random.default_rng(0).normal(scale=0.1, size=int(REFERENCE_S * facts.sample_rate_hz))
    wav = ReferenceVoice(noise.astype(np.float32), TRANSCRIPT)
    async with AsyncTritone(url, timeout_s=REQUEST_TIMEOUT_S) as client:
        inside = _inside_triton(client, transcribed, settings.audio_s)
        without = _without_triton(service, transcribed, facts.sample_rate_hz, settings.audio_s)
        inside_levels, without_levels = await _levels([inside, without], settings, "with a transcript")
        (untranscribed_levels,) = await _levels(
            [_inside_triton(client, untranscribed, settings.audio_s)], settings, "without a transcript"
        )
        from_wav = _inside_triton(client, wav, settings.audio_s)
        with tqdm(desc="reference WAV", unit="request") as progress:
            (new_wav,) = await speak_all(from_wav, 1, 1, progress)
            (known_wav,) = await measure_level([from_wav], 1, settings.requests_per_stream, 1, progress)
    return Streams(
        machine=processor_name(),
        num_cores=psutil.cpu_count(),
        settings=settings,
        tokens_per_s=facts.tokens_per_s,
        published=published,
        transcribed=inside_levels,
        transcribed_without_triton=without_levels,
        untranscribed=untranscribed_levels,
        new_wav_first_audio_s=new_wav.first_audio_s,
        known_wav=known_wav,
    )


async def _levels(systems: Sequence[Speak], settings: Settings, description: str) -> list[list[Level]]:
    """For each of `systems` its levels, after a warm-up request."""
    num_requests = sum(settings.concurrency) * settings.requests_per_stream * settings.num_repetitions + 1
    with tqdm(total=len(systems) * num_requests, desc=description, unit="request") as progress:
        for speak in systems:
            await speak_all(speak, 1, 1, progress)
        levels = [
            await measure_level(systems, num_streams, settings.requests_per_stream, settings.num_repetitions, progress)
            for num_streams in settings.concurrency
        ]
    return [list(of_one_system) for of_one_system in zip(*levels, strict=True)]


def _inside_triton(client: AsyncTritone, voice: Voice, audio_s: float) -> Speak:
    async def speak(seed: int) -> AsyncGenerator[float, None]:
        async with aclosing(client.stream(TEXT, voice=voice, seed=seed, max_audio_s=audio_s)) as pieces:
            async for piece in pieces:
                yield piece.duration_s

    return speak


def _without_triton(service: Service, voice: Voice, sample_rate_hz: int, audio_s: float) -> Speak:
    async def speak(seed: int) -> AsyncGenerator[float, None]:
        inputs = {
            "target_text": text_tensor(TEXT),
            "seed": number_tensor("seed", seed, np.uint64),
            "max_audio_s": number_tensor("max_audio_s", audio_s, np.float32),
            **voice.tensors(),
        }
        async with aclosing(service.stream(inputs)) as responses:
            async for tensors in responses:
                yield tensors["waveform"].size / sample_rate_hz

    return speak


def _published(checkpoint: Checkpoint, repository: Path, settings: Settings) -> list[PublishedRequest]:
    facts = ModelFacts.load(version_dir(repository, MODEL))
    voice = _voice(facts)
    prompt = Prompts(checkpoint.tokenizer_path).clone(
        TEXT, voices.TokenVoice(voice.global_tokens, voice.semantic_tokens, voice.transcript)
    )
    num_new_tokens = int(settings.audio_s * facts.tokens_per_s)
    return [
        speak_as_published(checkpoint, prompt, voice.global_tokens, num_new_tokens, precision)
        for precision in LM_DTYPES
    ]


def _voice(facts: ModelFacts) -> TokenVoice:
    """A voice of random tokens, always the same."""
    generator = np.random.default_rng(0)
    return TokenVoice(
        generator.integers(facts.num_global_codes, size=NUM_GLOBAL_TOKENS, dtype=np.int32),
        generator.integers(facts.num_semantic_codes, size=int(REFERENCE_S * facts.tokens_per_s), dtype=np.int32),
        TRANSCRIPT,
    )


def _level_table(levels: Sequence[Level], tokens_per_s: float) -> str:
    header = (
        *("streams", "RTF", "audio s/s", "tokens/s", "s a request"),
        *("first audio P50, s", "max, s", "starving", "longest pause, s"),
    )
    rows = [
        (
            str(level.num_streams),
            f"{level.rtf:.3f}",
            f"{level.audio_s_per_s:.2f}",
            f"{level.audio_s_per_s * tokens_per_s:.0f}",
            f"{level.mean_audio_s:.2f}",
            f"{level.first_audio_p50_s:.2f}",
            f"{level.first_audio_max_s:.2f}",
            f"{level.starving_share:.0%}",
            f"{level.longest_starvation_s:.2f}",
        )
        for level in levels
    ]
    return table(header, rows)


def _ratio_table(streams: Streams) -> str:
    header = ("streams", "to without Triton", *(f"to published {run.lm_precision}" for run in streams.published))
    rows = [
        (
            str(inside.num_streams),
            f"{without.rtf / inside.rtf:.0%}",
            *(f"{run.rtf / inside.rtf:.1f} x" for run in streams.published),
        )
        for inside, without in zip(streams.transcribed, streams.transcribed_without_triton, strict=True)
    ]
    return table(header, rows)
