"""Part `vocoder`: prenet and wave generator tuned together, from codes to samples."""

from collections.abc import Mapping

import numpy as np
import torch

from build_engines import synthetic
from build_engines.demo_voice.clips import draw_clips
from build_engines.demo_voice.codes import SAMPLES_PER_FRAME
from build_engines.demo_voice.data import Dataset
from build_engines.demo_voice.prenet import feature_distances, make_vocoder
from build_engines.demo_voice.semantic import Hearing, directions, make_encoder
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.spectra import NUM_PULSES, Features, WaveLoss
from build_engines.demo_voice.training import Losses, Training, fuse, in_bfloat16, start_from
from build_engines.networks.speaker_encoder import SpeakerEncoder

# The features stay near the true ones that the wave generator knows, or the two drift apart from what they learnt.
_FEATURE_WEIGHT = 0.5
# Some of what tells voices apart is too faint to count among all that is heard: a trained ear points it out.
_VOICE_WEIGHT = 3.0
# And what tells sounds apart: by spectra alone 68% of the phonemes were heard right where of espeak's 89% are.
_PHONEME_WEIGHT, _AGE_WEIGHT = 0.5, 0.15
_DEAF_FRAMES = 2  # at either end of a clip, where it is not heard what lies around them
# Of the clips are spoken with the true pulses, the others with those of the codes, as all speech is in use.
_TRUE_PULSES_SHARE = 0.5
# Frames at either end are heard by the networks and not judged: there the codes around a clip are missing.
_MARGIN_FRAMES = 8


def training(
    data: Dataset,
    settings: Settings,
    device: torch.device,
    prenet: Mapping[str, torch.Tensor],
    wave: Mapping[str, torch.Tensor],
    speaker: Mapping[str, torch.Tensor],
    semantic: Mapping[str, torch.Tensor],
) -> Training:
    """The whole vocoder's training, from the states of its two trained halves.

    Args:
        speaker, semantic: the states of the trained encoders, who listen whether voice and sounds are still the same.
    """
    config = synthetic.bicodec_config(settings.size)
    budget = settings.vocoder
    vocoder = make_vocoder(data, settings, device)
    start_from(vocoder.decoder, wave)
    for name, part in (("quantizer", vocoder.quantizer), ("speaker", vocoder.speaker), ("prenet", vocoder.prenet)):
        prefix = f"{name}."
        start_from(part, {key.removeprefix(prefix): value for key, value in prenet.items() if key.startswith(prefix)})
    fuse(vocoder.decoder, settings)
    features, distance = Features(config["mel_params"]).to(device), WaveLoss(config["mel_params"]).to(device)
    who, what, hearing = SpeakerEncoder(config), make_encoder(data, settings), Hearing(data.codes).to(device)
    for listener, state in ((who, speaker), (what, semantic)):
        start_from(listener, state)
        listener.eval().requires_grad_(False).to(device)
    alike = alike_utterances(data)
    num_same = round(_TRUE_PULSES_SHARE * budget.batch_size)
    judged = slice(_MARGIN_FRAMES * SAMPLES_PER_FRAME, -_MARGIN_FRAMES * SAMPLES_PER_FRAME)

    def losses(random: np.random.Generator) -> Losses:
        num_frames = budget.num_frames + 2 * _MARGIN_FRAMES
        among = alike[random.integers(len(alike))]  # what the clips have too much of is then that voice's
        clips = draw_clips(data, budget.batch_size, num_frames, random, device, among)
        with in_bfloat16(device):
            found = vocoder.features(clips.global_tokens, clips.semantic_tokens).float()
        # no code tells where the true pulses lie, and to be compared with the clip pulse by pulse it has to be that
        pulses = features.pulses(clips.samples[:num_same], clips.f0s_hz[:num_same])
        given = torch.cat([found[..., :-NUM_PULSES], torch.cat([pulses, found[num_same:, :, -NUM_PULSES:]])], dim=2)
        with in_bfloat16(device):
            said = vocoder.decoder(given.transpose(1, 2))
        said, wanted = said.float()[:, judged], clips.samples[:, judged]
        waves = distance(said, wanted, num_same)
        mels = [who.mel(samples) for samples in (said, wanted)]
        with in_bfloat16(device):
            voices = [who.speaker_encoder(mel).float().mean(dim=2) for mel in mels]
            latents = what.encoder(what.wav2vec2(said)).float()
        voice = (voices[0] - voices[1]).abs().mean()
        found_directions = directions(what, latents)[..., _DEAF_FRAMES:-_DEAF_FRAMES]
        first = _MARGIN_FRAMES + _DEAF_FRAMES
        heard = hearing(found_directions, clips.classes[:, first : first + found_directions.shape[2]])
        feature = feature_distances(found, features(clips.samples, clips.told_f0s_hz, clips.ages))
        total = waves["total"] + _FEATURE_WEIGHT * feature["total"] + _VOICE_WEIGHT * voice
        total += _PHONEME_WEIGHT * heard["phoneme"] + _AGE_WEIGHT * heard["age"]
        features_off = {"feature": feature["mel"], "pulses": feature["pulses"]}
        return {**waves, **features_off, **heard, "voice": voice, "total": total}

    parameters = [parameter for parameter in vocoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, budget.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    return Training(vocoder, [optimizer], losses)


def alike_utterances(data: Dataset) -> list[np.ndarray]:
    """The utterances of each voice at each of its pitches, int64 [n] each."""
    alike: dict[tuple[int, int], list[int]] = {}
    for index, utterance in enumerate(data.utterances):
        alike.setdefault((utterance.voice, utterance.pitch_label), []).append(index)
    return [np.array(indices) for _voice_and_pitch, indices in sorted(alike.items())]
