"""Part `listening`: what the trained encoders hear in some utterances, for the language model to learn from."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from build_engines import synthetic
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.semantic import make_encoder
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.training import start_from
from build_engines.networks.speaker_encoder import SpeakerEncoder
from tritone.audio import reference_clip

SHARD_UTTERANCES = 100
_REFERENCE_S = 6

Heard = dict[int, tuple[np.ndarray, np.ndarray]]  # by utterance: global tokens [32], semantic tokens [frames]


def listen(
    data: Dataset,
    directory: Path,
    settings: Settings,
    device: torch.device,
    speaker: Mapping[str, torch.Tensor],
    semantic: Mapping[str, torch.Tensor],
) -> None:
    """Write what is heard in the first utterances, in shards; those that are there stay.

    Args:
        speaker, semantic: the states of the two trained encoders.
    """
    config = synthetic.bicodec_config(settings.size)
    speaker_encoder = SpeakerEncoder(config)
    start_from(speaker_encoder, speaker)
    semantic_encoder = make_encoder(data, settings)
    start_from(semantic_encoder, semantic)
    networks = speaker_encoder.eval().to(device), semantic_encoder.eval().to(device)
    num_samples = _REFERENCE_S * config["mel_params"]["sample_rate"]
    directory.mkdir(parents=True, exist_ok=True)
    with tqdm(total=settings.num_heard, desc="listening", unit=" utterances") as progress:
        for begin in range(0, settings.num_heard, SHARD_UTTERANCES):
            indices = range(begin, min(begin + SHARD_UTTERANCES, settings.num_heard, len(data)))
            path = directory / f"{begin:06}.npz"
            if not path.exists():
                heard = {}
                for index in indices:
                    waveform = data.waveform(index)
                    inputs = (reference_clip(waveform, num_samples), waveform)
                    with torch.inference_mode():
                        tokens = [
                            network(torch.from_numpy(wav)[None].to(device))[0].cpu().numpy()
                            for network, wav in zip(networks, inputs, strict=True)
                        ]
                    heard[str(index)] = np.concatenate(tokens)
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.savez(file, **heard)
                os.replace(partial, path)
            progress.update(len(indices))


def load_heard(directory: Path, num_global_tokens: int) -> Heard:
    """What `listen` wrote."""
    heard: Heard = {}
    for path in sorted(directory.glob("*.npz")):
        with np.load(path) as arrays:
            for index, tokens in arrays.items():
                heard[int(index)] = (tokens[:num_global_tokens], tokens[num_global_tokens:])
    return heard
