"""Part `vocoder`: prenet and wave generator tuned together, from codes to samples."""

from collections.abc import Mapping

import numpy as np
import torch

from build_engines import synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.codes import SAMPLES_PER_FRAME
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.prenet import make_vocoder
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.spectra import LogMel, WaveLoss
from build_engines.demo_voice.training import Losses, Training, start_from

# The features stay near the log-mel ones that the wave generator knows, or the two drift apart from what they learnt.
_FEATURE_WEIGHT = 0.5
# Frames at either end are heard by the networks and not judged: there the codes around a clip are missing.
_MARGIN_FRAMES = 8


def training(
    data: Dataset,
    settings: Settings,
    device: torch.device,
    prenet: Mapping[str, torch.Tensor],
    wave: Mapping[str, torch.Tensor],
) -> Training:
    """The whole vocoder's training, from the states of its two trained halves."""
    config = synthetic.bicodec_config(settings.size)
    budget = settings.vocoder
    vocoder = make_vocoder(data, settings, device)
    start_from(vocoder.decoder, wave)
    for name, part in (("quantizer", vocoder.quantizer), ("speaker", vocoder.speaker), ("prenet", vocoder.prenet)):
        prefix = f"{name}."
        start_from(part, {key.removeprefix(prefix): value for key, value in prenet.items() if key.startswith(prefix)})
    log_mel, distance = LogMel(config["mel_params"]).to(device), WaveLoss(config["mel_params"]).to(device)
    judged = slice(_MARGIN_FRAMES * SAMPLES_PER_FRAME, -_MARGIN_FRAMES * SAMPLES_PER_FRAME)

    def losses(random: np.random.Generator) -> Losses:
        num_frames = budget.num_frames + 2 * _MARGIN_FRAMES
        clips = draw_clips(data, budget.batch_size, num_frames, random, device)
        features = vocoder.features(clips.global_tokens, clips.semantic_tokens)
        found = distance(vocoder.decoder(features.transpose(1, 2))[:, judged], clips.samples[:, judged])
        feature = (features - log_mel(clips.samples)).abs().mean()
        return {**found, "total": found["total"] + _FEATURE_WEIGHT * feature, "feature": feature}

    parameters = [parameter for parameter in vocoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, budget.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    return Training(vocoder, [optimizer], losses)
