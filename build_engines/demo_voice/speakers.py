"""What is measured: a checkpoint through PyTorch in float32, and through the real server."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tritone_client import ControlledVoice, ReferenceVoice, Speech, Tritone, Voice

from build_engines.checkpoint import Checkpoint
from build_engines.codec import reference
from build_engines.demo_voice.measures import GENDERS, LABELS
from build_engines.demo_voice.qwen2 import Cache, Qwen2
from build_engines.networks.weights import load_weights
from build_engines.repository import BUILD_DIR, build_repository, repository_dir
from tritone.audio import normalize_volume, reference_clip
from tritone.serve import TritonServer
from tritone.spark_tts.prompts import Prompts, Style, token_values
from tritone.spark_tts.tokens import NUM_GLOBAL_TOKENS
from tritone.voices import TokenVoice

# The published sampling.
_TEMPERATURE, _TOP_K, _TOP_P = 0.8, 50, 0.95
_MAX_SEMANTIC_TOKENS = 1000  # 20 s: no measured text lasts half as long
_SERVER_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Said:
    """What came of a text: float32 samples at 16 kHz, and whether the speech ended by itself."""

    samples: np.ndarray
    is_complete: bool


class Speaker(Protocol):
    """Anything that says texts."""

    def say_all(self, lines: Sequence[tuple[str, Voice]]) -> Iterator[Said]:
        """Texts, each in a voice and with its place as the seed, in their order."""
        ...


class TorchSpeaker:
    """A checkpoint's networks, as they are built from; no engine has a part in it."""

    def __init__(self, directory: Path) -> None:
        checkpoint = Checkpoint.open(directory)
        self._num_reference_samples = checkpoint.num_reference_samples
        self._prompts = Prompts(checkpoint.tokenizer_path)
        self._speaker_encoder = reference(checkpoint, "speaker_encoder")
        self._semantic_encoder = reference(checkpoint, "semantic_encoder")
        self._vocoder = reference(checkpoint, "vocoder")
        self._lm = Qwen2(checkpoint.lm, checkpoint.lm["vocab_size"]).eval().requires_grad_(False)
        load_weights(self._lm, checkpoint.lm_file, "model")

    @torch.inference_mode()
    def say(self, text: str, voice: Voice, seed: int) -> Said:
        """The same seed gives the same speech."""
        t = self._prompts.tokens
        generator = torch.Generator().manual_seed(seed)
        cache: Cache | None = None

        def draw(given: list[int], allowed: range, other: int | None = None) -> int:
            nonlocal cache
            logits, cache = self._lm.step(torch.tensor(given), cache)
            candidates = logits[allowed.start : allowed.stop]
            if other is None:
                return allowed[_sample(candidates, generator)]
            drawn = _sample(torch.cat([candidates, logits[other : other + 1]]), generator)
            return other if drawn == len(allowed) else allowed[drawn]

        if isinstance(voice, ControlledVoice):
            style = Style(GENDERS.index(voice.gender), LABELS.index(voice.pitch), LABELS.index(voice.speed))
            given = self._prompts.controlled(text, style)
            for wanted, kind in ((voice.pitch_value, t.pitch_values), (voice.speed_value, t.speed_values)):
                given.append(draw(given, kind) if wanted is None else kind[wanted])
                given = given[-1:] if wanted is None else given
            given += [t.end_acoustic, t.start_global]
            speaker_ids: list[int] = []
            for _ in range(NUM_GLOBAL_TOKENS):
                speaker_ids.append(draw(given, t.global_tokens))
                given = speaker_ids[-1:]
            given += [t.end_global, t.start_semantic]
            global_tokens = token_values(speaker_ids, t.global_tokens)
        elif isinstance(voice, ReferenceVoice):
            token_voice = self._listen(voice)
            given, global_tokens = self._prompts.clone(text, token_voice), token_voice.global_tokens
        else:
            raise TypeError(f"a {type(voice).__name__} is not measured")

        speech: list[int] = []
        while len(speech) < _MAX_SEMANTIC_TOKENS:
            # at least one token is speech, as the server has it
            token_id = draw(given, t.semantic_tokens, t.im_end if speech else None)
            if token_id == t.im_end:
                break
            speech.append(token_id)
            given = [token_id]
        tokens = global_tokens, token_values(speech, t.semantic_tokens)
        waveform = self._vocoder(*(torch.from_numpy(values)[None] for values in tokens))[0]
        return Said(waveform.numpy(), len(speech) < _MAX_SEMANTIC_TOKENS)

    def _listen(self, voice: ReferenceVoice) -> TokenVoice:
        waveform = normalize_volume(voice.waveform).astype(np.float32)
        clip = reference_clip(waveform, self._num_reference_samples)
        global_tokens = self._speaker_encoder(torch.from_numpy(clip)[None])[0].numpy()
        if not voice.transcript:
            return TokenVoice(global_tokens)
        semantic_tokens = self._semantic_encoder(torch.from_numpy(waveform)[None])[0].numpy()
        return TokenVoice(global_tokens, semantic_tokens, voice.transcript)


class TorchSpeakers:
    """A `TorchSpeaker` in each process of a pool."""

    def __init__(self, processes: ProcessPoolExecutor) -> None:
        self._processes = processes

    def say_all(self, lines: Sequence[tuple[str, Voice]]) -> Iterator[Said]:
        return self._processes.map(_say, *zip(*lines, strict=True), range(len(lines)))


_speaker: TorchSpeaker  # of a process of the pool


def _open_speaker(directory: Path) -> None:
    global _speaker
    torch.set_num_threads(1)  # of two processes of two threads each, none gets far
    _speaker = TorchSpeaker(directory)


def _say(text: str, voice: Voice, seed: int) -> Said:
    return _speaker.say(text, voice, seed)


@contextmanager
def torch_speakers(checkpoint_dir: Path) -> Iterator[TorchSpeakers]:
    """As many as the machine has cores; the same speech whatever their number."""
    with ProcessPoolExecutor(
        os.cpu_count(), get_context("spawn"), initializer=_open_speaker, initargs=(checkpoint_dir,)
    ) as processes:
        yield TorchSpeakers(processes)


class ServerSpeaker:
    """A running server; every other line is streamed, so that both ways are measured."""

    def __init__(self, client: Tritone) -> None:
        self._client = client

    def say_all(self, lines: Sequence[tuple[str, Voice]]) -> Iterator[Said]:
        for seed, (text, voice) in enumerate(lines):
            if seed % 2:
                speech = Speech.join(self._client.stream(text, voice=voice, seed=seed))
            else:
                speech = self._client.synthesize(text, voice=voice, seed=seed)
            yield Said(speech.waveform, speech.end_reason == "complete")


def cpu_repository(checkpoint_dir: Path) -> Path:
    """The model repository of a checkpoint's CPU engines, built where they are missing."""
    return build_repository(checkpoint_dir, repository_dir(checkpoint_dir, "int8"), "int8")


@contextmanager
def server_speaker(repository: Path) -> Iterator[ServerSpeaker]:
    """Speak through a real server on a model repository."""
    server = TritonServer.on_free_ports(repository, log_path=BUILD_DIR / "evaluate.log")
    with server, Tritone(server.grpc_url, timeout_s=_SERVER_TIMEOUT_S) as client:
        yield ServerSpeaker(client)


def _sample(logits: torch.Tensor, generator: torch.Generator) -> int:
    """Temperature, then the most likely 50, then the fewest of them that have 95% together."""
    values, order = (logits / _TEMPERATURE).topk(min(_TOP_K, len(logits)))
    probabilities = values.softmax(dim=0)
    probabilities[probabilities.cumsum(dim=0) - probabilities > _TOP_P] = 0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
