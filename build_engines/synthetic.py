"""Synthetic checkpoints: every file and tensor of the published layout, filled with pseudo-random values.

They stand in for the published weights where those cannot be had: `tiny` for tests, `full` (the published sizes) for
speed. What they say is noise, not speech. Every value depends only on the tensor's name, its shape and the seed, so
two machines write the same numbers.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from build_engines import checkpoint, layout

SizeName = Literal["tiny", "full"]
MARKER_FILE = "synthetic.json"

_END_OF_TEXT, _END_OF_SPEECH = "<|endoftext|>", "<|im_end|>"
# Spark-TTS's tokens in id order, behind the byte-pair tokens; a pair (name, n) is <|name_0|> .. <|name_{n-1}|>.
_SPECIAL_TOKENS: tuple[str | tuple[str, int], ...] = (
    _END_OF_TEXT,
    "<|im_start|>",
    _END_OF_SPEECH,
    *(f"<|{name}|>" for name in ("object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start")),
    *(f"<|{name}|>" for name in ("quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")),
    "<tool_call>",
    "</tool_call>",
    *(f"<|{name}|>" for name in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")),
    ("bicodec_global", 4096),
    ("bicodec_semantic", 8192),
    ("pitch_value", 1001),
    ("pitch_var_value", 11),
    ("pitch_label", 5),
    ("pitch_var_label", 5),
    ("speed_value", 11),
    ("speed_label", 5),
    ("loudness_value", 31),
    ("loudness_label", 5),
    ("age", 5),
    ("gender", 3),
    ("emotion", 101),
    *(f"<|task_{name}|>" for name in ("vc", "tts", "asr", "s2s", "t2s", "cap", "understand")),
    *(f"<|task_{name}|>" for name in ("controllable_tts", "prompt_tts", "edit")),
    *(
        f"<|{edge}_{name}|>"
        for edge in ("start", "end")
        for name in (
            "content",
            "style_label",
            "style_prompt",
            "acoustic_token",
            "global_token",
            "semantic_token",
        )
    ),
)


@dataclass(frozen=True)
class Size:
    """What differs between the sizes; everything else is as published."""

    lm_hidden_size: int
    lm_feed_forward: int
    lm_num_layers: int
    lm_num_heads: int
    lm_num_key_value_heads: int
    lm_max_window_layers: int
    vocab_size: int  # rows of the embedding, a few more than there are tokens
    num_byte_pair_tokens: int  # the id of the first special token
    wav2vec2_hidden_size: int
    wav2vec2_feed_forward: int
    wav2vec2_num_heads: int
    wav2vec2_conv_channels: int
    codec_channels: int  # between the codec's blocks, and the speaker vector
    backbone_dim: int
    backbone_feed_forward: int
    backbone_num_layers: int
    postnet_num_layers: int
    wave_channels: int


SIZES: dict[SizeName, Size] = {
    "tiny": Size(
        lm_hidden_size=64,
        lm_feed_forward=128,
        lm_num_layers=3,
        lm_num_heads=4,
        lm_num_key_value_heads=2,
        lm_max_window_layers=3,
        vocab_size=13824,
        num_byte_pair_tokens=256,
        wav2vec2_hidden_size=32,
        wav2vec2_feed_forward=64,
        wav2vec2_num_heads=2,
        wav2vec2_conv_channels=32,
        codec_channels=32,
        backbone_dim=24,
        backbone_feed_forward=48,
        backbone_num_layers=3,
        postnet_num_layers=2,
        wave_channels=64,
    ),
    "full": Size(
        lm_hidden_size=896,
        lm_feed_forward=4864,
        lm_num_layers=24,
        lm_num_heads=14,
        lm_num_key_value_heads=2,
        lm_max_window_layers=21,
        vocab_size=166000,
        num_byte_pair_tokens=151643,
        wav2vec2_hidden_size=1024,
        wav2vec2_feed_forward=4096,
        wav2vec2_num_heads=16,
        wav2vec2_conv_channels=512,
        codec_channels=1024,
        backbone_dim=384,
        backbone_feed_forward=2048,
        backbone_num_layers=12,
        postnet_num_layers=6,
        wave_channels=1536,
    ),
}


def write_synthetic_checkpoint(output_dir: Path, size: SizeName, seed: int = 0) -> Path:
    """Write a synthetic checkpoint to `output_dir` and return it; one that is already there is left as it is.

    `tiny` has 15 MB, `full` 3.9 GB; the folder appears only when it is complete. Memory stays under the size of
    wav2vec2's file (1.3 GB for `full`), which PyTorch writes at once; the others are written tensor by tensor.

    Raises:
        FileExistsError: `output_dir` holds something else.
    """
    marker = {"size": size, "seed": seed, "about": "Pseudo-random weights: this checkpoint makes noise, not speech."}
    if output_dir.exists():
        marker_path = output_dir / MARKER_FILE
        if marker_path.is_file() and json.loads(marker_path.read_text()) == marker:
            return output_dir
        raise FileExistsError(f"{output_dir} exists and is not the synthetic checkpoint of size {size}, seed {seed}")

    partial_dir = output_dir.with_name(f"{output_dir.name}.partial")
    shutil.rmtree(partial_dir, ignore_errors=True)
    files = _config_files(SIZES[size])
    for name, text in files.items():
        path = partial_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_tokenizer(partial_dir / checkpoint.TOKENIZER_FILE, SIZES[size].num_byte_pair_tokens)
    _write_weights(partial_dir, SIZES[size], seed)
    (partial_dir / MARKER_FILE).write_text(json.dumps(marker, indent=2))
    return partial_dir.rename(output_dir)


def synthetic_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The values of one tensor: normal noise scaled by the tensor's role, so that signals keep a sensible size."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "cluster_size":
        return np.ones(shape, np.float32)

    key = hashlib.sha256(f"{seed}:{name}:{list(shape)}".encode()).digest()[:8]
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    noise = generator.standard_normal(shape, dtype=np.float32)
    match leaf:
        case "running_var":
            return 1 + 0.1 * np.abs(noise)
        case "running_mean":
            return 0.1 * noise
        case "weight_g":  # the length of each filter; under 1 in the wave generator, whose output must not clip
            return (0.7 if name.startswith("decoder.") else 1.0) * (1 + 0.1 * noise)
        case "alpha" | "gamma":
            return 0.5 + 0.1 * np.abs(noise)
        case "bias":
            return 0.05 * noise
        case "latents":
            return noise
    if len(shape) == 1:  # the scale of a norm
        return 1 + 0.1 * noise
    if name.endswith("embed_tokens.weight"):  # tied to the head: gives the logits a deviation of about 2.5
        return noise * np.float32(2.5 / math.sqrt(shape[1]))
    if name.endswith("codebook.weight"):
        return noise
    return noise / np.float32(math.sqrt(math.prod(shape[1:])))


def _write_weights(directory: Path, size: Size, seed: int) -> None:
    bicodec, wav2vec2, lm = bicodec_config(size), wav2vec2_config(size), lm_config(size)
    shapes = {
        checkpoint.BICODEC_WEIGHTS_FILE: layout.bicodec_tensors(bicodec) | layout.bicodec_training_tensors(bicodec),
        checkpoint.LM_WEIGHTS_FILE: layout.lm_tensors(lm),
        checkpoint.WAV2VEC2_WEIGHTS_FILE: layout.wav2vec2_tensors(wav2vec2)
        | layout.wav2vec2_training_tensors(wav2vec2),
    }
    num_values = sum(math.prod(shape) for file_shapes in shapes.values() for shape in file_shapes.values())
    with tqdm(total=num_values, unit=" values", unit_scale=True, desc=f"writing {directory.name}") as progress:

        def tensors(file_shapes: layout.Shapes) -> Iterator[tuple[str, np.ndarray]]:
            for name, shape in file_shapes.items():
                yield name, synthetic_tensor(name, shape, seed)
                progress.update(math.prod(shape))

        for name, file_shapes in shapes.items():
            path = directory / name
            if path.suffix == ".safetensors":
                _write_safetensors(path, file_shapes, tensors)
            else:
                torch.save({key: torch.from_numpy(value) for key, value in tensors(file_shapes)}, path)


def _write_safetensors(
    path: Path, shapes: layout.Shapes, tensors: Callable[[layout.Shapes], Iterator[tuple[str, np.ndarray]]]
) -> None:
    """Write the header, then one tensor after the other; the safetensors package would need all of them at once."""
    # The only integers, 8 bytes each, go first: every value then lies at a multiple of its size.
    integers = [name for name in shapes if name.endswith("num_batches_tracked")]
    ordered = {name: shapes[name] for name in [*integers, *(name for name in shapes if name not in set(integers))]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in ordered.items():
        dtype, itemsize = ("I64", 8) if name in set(integers) else ("F32", 4)
        start, end = end, end + math.prod(shape) * itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header_bytes = json.dumps(header, separators=(",", ":")).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)
    with path.open("wb") as file:
        file.write(len(header_bytes).to_bytes(8, "little"))
        file.write(header_bytes)
        for _name, values in tensors(ordered):
            file.write(values.tobytes() if values.ndim == 0 else values.data)


def _config_files(size: Size) -> dict[str, str]:
    general = {
        "highpass_cutoff_freq": 40,
        "sample_rate": 16000,
        "segment_duration": 2.4,
        "max_val_duration": 12,
        "latent_hop_length": 320,
        "ref_segment_duration": 6,
        "volume_normalize": True,
    }
    feature_extractor = {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END_OF_SPEECH,
        "pad_token": _END_OF_TEXT,
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
    }
    return {
        checkpoint.CONFIG_FILE: yaml.safe_dump(general, sort_keys=False),
        checkpoint.BICODEC_CONFIG_FILE: yaml.safe_dump({"audio_tokenizer": bicodec_config(size)}, sort_keys=False),
        checkpoint.WAV2VEC2_CONFIG_FILE: json.dumps(wav2vec2_config(size), indent=2),
        "wav2vec2-large-xlsr-53/preprocessor_config.json": json.dumps(feature_extractor, indent=2),
        checkpoint.LM_CONFIG_FILE: json.dumps(lm_config(size), indent=2),
        "LLM/tokenizer_config.json": json.dumps(tokenizer, indent=2),
    }


def lm_config(size: Size) -> dict[str, Any]:
    """`LLM/config.json`."""
    first_special_id = size.num_byte_pair_tokens
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": first_special_id + _SPECIAL_TOKENS.index(_END_OF_TEXT),
        "eos_token_id": first_special_id + _SPECIAL_TOKENS.index(_END_OF_SPEECH),
        "hidden_act": "silu",
        "hidden_size": size.lm_hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": size.lm_feed_forward,
        "max_position_embeddings": 32768,
        "max_window_layers": size.lm_max_window_layers,
        "num_attention_heads": size.lm_num_heads,
        "num_hidden_layers": size.lm_num_layers,
        "num_key_value_heads": size.lm_num_key_value_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": size.vocab_size,
    }


def wav2vec2_config(size: Size) -> dict[str, Any]:
    """wav2vec2's `config.json`."""
    conv_kernel, conv_stride = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
    return {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2ForPreTraining"],
        "hidden_size": size.wav2vec2_hidden_size,
        "num_hidden_layers": 24,
        "num_attention_heads": size.wav2vec2_num_heads,
        "intermediate_size": size.wav2vec2_feed_forward,
        "hidden_act": "gelu",
        "conv_dim": [size.wav2vec2_conv_channels] * len(conv_kernel),
        "conv_stride": conv_stride,
        "conv_kernel": conv_kernel,
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "feat_extract_activation": "gelu",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "layer_norm_eps": 1e-05,
        "vocab_size": 32,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.1,
        "layerdrop": 0.1,
        "apply_spec_augment": True,
        "mask_time_prob": 0.075,
        "num_feat_extract_layers": len(conv_kernel),
    }


def bicodec_config(size: Size) -> dict[str, Any]:
    """The section `audio_tokenizer` of `BiCodec/config.yaml`."""
    backbone = {"vocos_dim": size.backbone_dim, "vocos_intermediate_dim": size.backbone_feed_forward}
    channels = size.codec_channels
    return {
        "mel_params": {
            "sample_rate": 16000,
            "n_fft": 1024,
            "win_length": 640,
            "hop_length": 320,
            "mel_fmin": 10,
            "mel_fmax": None,
            "num_mels": 128,
        },
        "encoder": {
            "input_channels": size.wav2vec2_hidden_size,
            **backbone,
            "vocos_num_layers": size.backbone_num_layers,
            "out_channels": channels,
            "sample_ratios": [1, 1],
        },
        "decoder": {
            "input_channel": channels,
            "channels": size.wave_channels,
            "rates": [8, 5, 4, 2],
            "kernel_sizes": [16, 11, 8, 4],
        },
        "quantizer": {
            "input_dim": channels,
            "codebook_size": 8192,
            "codebook_dim": 8,
            "commitment": 0.25,
            "codebook_loss_weight": 2.0,
            "use_l2_normlize": True,
            "threshold_ema_dead_code": 0.2,
        },
        "speaker_encoder": {
            "input_dim": 128,
            "out_dim": channels,
            "latent_dim": 128,
            "token_num": 32,
            "fsq_levels": [4, 4, 4, 4, 4, 4],
            "fsq_num_quantizers": 1,
        },
        "prenet": {
            "input_channels": channels,
            **backbone,
            "vocos_num_layers": size.backbone_num_layers,
            "out_channels": channels,
            "condition_dim": channels,
            "sample_ratios": [1, 1],
            "use_tanh_at_final": False,
        },
        "postnet": {
            "input_channels": channels,
            **backbone,
            "vocos_num_layers": size.postnet_num_layers,
            "out_channels": channels,
            "use_tanh_at_final": False,
        },
    }


def write_tokenizer(path: Path, num_byte_pair_tokens: int) -> None:
    """A byte-level tokenizer without merges: the 256 bytes, unused fillers, then the special tokens."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols += [f"<unused{index}>" for index in range(len(symbols), num_byte_pair_tokens)]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    hidden_in_text = (_END_OF_TEXT, "<|im_start|>", _END_OF_SPEECH)
    tokenizer.add_tokens(
        [AddedToken(token, special=token in hidden_in_text, normalized=False) for token in _special_tokens()]
    )
    tokenizer.save(str(path))


def _special_tokens() -> Iterator[str]:
    for entry in _SPECIAL_TOKENS:
        if isinstance(entry, str):
            yield entry
        else:
            name, count = entry
            yield from (f"<|{name}_{index}|>" for index in range(count))
