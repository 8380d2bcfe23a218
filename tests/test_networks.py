"""Every stage of the networks against the published code's outputs for the tiny checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch

from build_engines import synthetic
from build_engines.checkpoint import Checkpoint
from build_engines.codec import signal_to_noise_db
from build_engines.networks.fsq import FiniteScalarQuantizer
from build_engines.networks.mel import MelSpectrogram
from build_engines.networks.semantic_encoder import SemanticEncoder
from build_engines.networks.speaker_encoder import SpeakerEncoder
from build_engines.networks.vocoder import Vocoder, prenet_field_tokens, receptive_field_tokens
from build_engines.networks.wave_generator import wave_generator_field_tokens
from build_engines.networks.weights import fold_weight_norm
from tritone.audio import reference_clip

CLIPS = ("en_f3", "zh_m", "en_m2_short")
Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def speaker_encoder(checkpoint: Checkpoint) -> SpeakerEncoder:
    return SpeakerEncoder.from_checkpoint(checkpoint).requires_grad_(False)


@pytest.fixture(scope="module")
def semantic_encoder(checkpoint: Checkpoint) -> SemanticEncoder:
    return SemanticEncoder.from_checkpoint(checkpoint).requires_grad_(False)


@pytest.fixture(scope="module")
def vocoder(checkpoint: Checkpoint) -> Vocoder:
    return Vocoder.from_checkpoint(checkpoint).requires_grad_(False)


def batch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).unsqueeze(0)


@pytest.mark.parametrize("clip", CLIPS)
def test_mel_equals_the_published_one(clip: str, golden: Golden, speaker_encoder: SpeakerEncoder) -> None:
    mel = speaker_encoder.mel(batch(reference_clip(golden[f"{clip}.wav16k"], 96000)))
    assert mel.shape == (1, 128, 301)
    assert signal_to_noise_db(mel[0, :, :40].numpy(), golden[f"{clip}.mel"]) > 100


@pytest.mark.parametrize("clip", CLIPS)
def test_wav2vec2_features_equal_the_published_ones(
    clip: str, golden: Golden, semantic_encoder: SemanticEncoder
) -> None:
    features = semantic_encoder.wav2vec2(batch(golden[f"{clip}.wav16k"]))
    assert signal_to_noise_db(features[0, :8].numpy(), golden[f"{clip}.feat_first8"]) > 100


@pytest.mark.parametrize("clip", CLIPS)
def test_global_tokens_equal_the_published_ones(clip: str, golden: Golden, speaker_encoder: SpeakerEncoder) -> None:
    tokens = speaker_encoder(batch(reference_clip(golden[f"{clip}.wav16k"], 96000)))
    assert tokens.dtype == torch.int32
    np.testing.assert_array_equal(tokens[0], golden[f"{clip}.global"])


@pytest.mark.parametrize("clip", CLIPS)
def test_semantic_tokens_equal_the_published_ones(clip: str, golden: Golden, semantic_encoder: SemanticEncoder) -> None:
    tokens = semantic_encoder(batch(golden[f"{clip}.wav16k"]))
    assert tokens.dtype == torch.int32
    np.testing.assert_array_equal(tokens[0], golden[f"{clip}.semantic"])


def test_speaker_vector_equals_the_published_one(golden: Golden, vocoder: Vocoder) -> None:
    np.testing.assert_allclose(vocoder.speaker(batch(golden["voc.global"]))[0], golden["voc.d_vector"], atol=1e-5)


@pytest.mark.parametrize("name", [*CLIPS, "voc"])
def test_waveform_equals_the_published_one(name: str, golden: Golden, vocoder: Vocoder) -> None:
    waveform = vocoder(batch(golden[f"{name}.global"]), batch(golden[f"{name}.semantic"]))
    assert waveform.shape == (1, 320 * len(golden[f"{name}.semantic"]))
    assert signal_to_noise_db(waveform[0].numpy(), golden[f"{name}.waveform"]) > 100


def test_a_batch_gives_what_its_clips_give_alone(golden: Golden, semantic_encoder: SemanticEncoder) -> None:
    clips = torch.from_numpy(np.stack([golden[f"{clip}.wav16k"][:19464] for clip in CLIPS]))
    torch.testing.assert_close(semantic_encoder(clips), torch.cat([semantic_encoder(clip[None]) for clip in clips]))


def test_tokens_of_the_finite_scalar_quantizer_survive_a_round_trip() -> None:
    quantizer = FiniteScalarQuantizer(3, [4, 5, 3]).requires_grad_(False)
    for projection in (quantizer.project_in, quantizer.project_out):
        torch.nn.init.eye_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
    tokens = torch.arange(4 * 5 * 3)
    codes = quantizer.detokenize(tokens)
    assert len(torch.unique(codes, dim=0)) == len(tokens)
    # Undo the squashing: each level's value, shifted by half a step where their number is even, over half their range.
    half_range, offset = 1.001 * torch.tensor([1.5, 2.0, 1.0]), torch.tensor([0.5, 0.0, 0.0])
    values = codes * torch.tensor([2.0, 2.0, 1.0])
    latents = torch.atanh((values + offset) / half_range) - torch.atanh(offset / half_range)
    torch.testing.assert_close(quantizer.tokenize(latents).long(), tokens)


def test_training_sees_the_gradient_through_the_rounding() -> None:
    quantizer = FiniteScalarQuantizer(8, [4, 4, 4])
    latents = torch.randn(2, 5, 8, requires_grad=True)
    quantized = quantizer(latents)
    torch.testing.assert_close(quantized, quantizer.detokenize(quantizer.tokenize(latents)))
    (gradient,) = torch.autograd.grad(quantized.square().sum(), latents)
    assert (gradient != 0).any(dim=-1).all()


def test_the_mel_of_silence_has_a_finite_gradient(checkpoint: Checkpoint) -> None:
    wav = torch.zeros(1, 1000, requires_grad=True)
    MelSpectrogram(checkpoint.bicodec["mel_params"])(wav).sum().backward()
    assert wav.grad is not None and wav.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 1, 5)])
def test_weight_norm_is_folded_along_the_axis_that_it_was_taken_on(shape: tuple[int, ...]) -> None:
    lengths, directions = torch.rand(shape) + 1, torch.randn(6, 4, 5)
    weight = fold_weight_norm(lengths, directions)
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    torch.testing.assert_close(torch.linalg.vector_norm(weight, dim=axes, keepdim=True), lengths)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(weight, directions, dim=1), torch.ones(6, 5))


def first_and_last_change(before: torch.Tensor, after: torch.Tensor) -> tuple[int, int]:
    changed = (before != after).nonzero().flatten()
    return int(changed.min()), int(changed.max())


def test_a_sample_depends_on_the_tokens_of_its_receptive_field_and_on_no_others(checkpoint: Checkpoint) -> None:
    # In float64, where even the faint influence of the outermost token is more than rounding.
    vocoder = Vocoder.from_checkpoint(checkpoint).double().requires_grad_(False)
    field = receptive_field_tokens(checkpoint.bicodec)
    generator = torch.Generator().manual_seed(0)
    global_tokens = torch.randint(4096, (1, 32), generator=generator)
    tokens = torch.randint(8192, (1, 2 * field + 21), generator=generator)
    position = field + 10
    changed_tokens = tokens.clone()
    changed_tokens[0, position] = (changed_tokens[0, position] + 1) % 8192
    first, last = first_and_last_change(vocoder(global_tokens, tokens)[0], vocoder(global_tokens, changed_tokens)[0])
    assert (first // 320, last // 320) == (position - field, position + field)


def test_the_receptive_field_is_that_of_the_prenet_and_of_the_wave_generator(
    checkpoint: Checkpoint, vocoder: Vocoder
) -> None:
    bicodec = checkpoint.bicodec
    prenet_field, wave_field = prenet_field_tokens(bicodec["prenet"]), wave_generator_field_tokens(bicodec["decoder"])
    assert prenet_field + wave_field == receptive_field_tokens(bicodec)
    features = torch.randn(1, 32, 101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changed = features.clone()
    changed[:, :, 50] += 1
    generator = Vocoder.from_checkpoint(checkpoint).decoder.double().requires_grad_(False)
    first, last = first_and_last_change(generator(features)[0], generator(changed)[0])
    assert (first // 320, last // 320) == (50 - wave_field, 50 + wave_field)


def test_the_receptive_field_of_the_published_sizes() -> None:
    bicodec = synthetic.bicodec_config(synthetic.SIZES["full"])
    assert (prenet_field_tokens(bicodec["prenet"]), wave_generator_field_tokens(bicodec["decoder"])) == (57, 10)


def test_a_window_with_full_context_equals_the_whole(golden: Golden, checkpoint: Checkpoint, vocoder: Vocoder) -> None:
    field = receptive_field_tokens(checkpoint.bicodec)
    global_tokens, tokens = batch(golden["zh_m.global"]), batch(golden["zh_m.semantic"])
    begin, end = 150, 190
    window = vocoder(global_tokens, tokens[:, begin - field : end + field])[
        :, field * 320 : (field + end - begin) * 320
    ]
    whole = vocoder(global_tokens, tokens)[:, begin * 320 : end * 320]
    assert signal_to_noise_db(window.numpy(), whole.numpy()) > 100
