"""The checkpoint: all trained parts in Spark-TTS's layout, in half precision."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer

from build_engines import checkpoint, layout, synthetic
from build_engines.checkpoint import Checkpoint
from build_engines.demo_voice.language_model import LM_HINTS, CompactVocabulary, model_config
from build_engines.demo_voice.settings import Settings

State = Mapping[str, torch.Tensor]
_MAX_CHECKPOINT_BYTES = 40_000_000


def write_tokenizer(path: Path, settings: Settings) -> None:
    """Bytes and Spark-TTS's own tokens, without white space between them: a third of the size."""
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic.write_tokenizer(partial, settings.size.num_byte_pair_tokens)
    Tokenizer.from_file(str(partial)).save(str(partial), pretty=False)
    os.replace(partial, path)


def write_checkpoint(
    output_dir: Path,
    settings: Settings,
    tokenizer: Path,
    vocoder: State,
    speaker: State,
    semantic: State,
    language_model: State,
    vocabulary: CompactVocabulary,
) -> Path:
    """Write the checkpoint from the trained parts' states and return its folder; what was there is replaced.

    Raises:
        CheckpointError: what was written cannot be read, which would be a bug.
        ValueError: it is larger than the repository takes.
    """
    size = settings.size
    bicodec, wav2vec2 = synthetic.bicodec_config(size), synthetic.wav2vec2_config(size)
    # one layer more than are used: the last one's output would have the final norm in it
    wav2vec2 |= {"num_hidden_layers": layout.NUM_WAV2VEC2_LAYERS + 1, "torch_dtype": "float32"}
    lm = model_config(settings)

    partial = output_dir.with_name(f"{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    # the small files are the same at every size
    synthetic.write_synthetic_checkpoint(partial, "tiny")
    (partial / synthetic.MARKER_FILE).unlink()
    (partial / checkpoint.BICODEC_CONFIG_FILE).write_text(yaml.safe_dump({"audio_tokenizer": bicodec}, sort_keys=False))
    (partial / checkpoint.WAV2VEC2_CONFIG_FILE).write_text(json.dumps(wav2vec2, indent=2))
    (partial / checkpoint.LM_CONFIG_FILE).write_text(json.dumps(lm, indent=2))
    shutil.copyfile(tokenizer, partial / checkpoint.TOKENIZER_FILE)

    save_file(_bicodec_tensors(bicodec, vocoder, speaker, semantic), partial / checkpoint.BICODEC_WEIGHTS_FILE)
    torch.save(_wav2vec2_tensors(wav2vec2, semantic), partial / checkpoint.WAV2VEC2_WEIGHTS_FILE)
    tensors = {f"model.{name}": tensor.bfloat16() for name, tensor in language_model.items() if name not in LM_HINTS}
    tensors["model.embed_tokens.weight"] = vocabulary.embedding(language_model["embed_tokens.weight"]).bfloat16()
    save_file(tensors, partial / checkpoint.LM_WEIGHTS_FILE, metadata={"format": "pt"})

    for path in partial.rglob("*.safetensors"):  # which are written for their owner alone
        path.chmod(0o644)
    Checkpoint.open(partial)
    num_bytes = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    if num_bytes > _MAX_CHECKPOINT_BYTES:
        raise ValueError(f"the checkpoint has {num_bytes} bytes, more than {_MAX_CHECKPOINT_BYTES}")
    shutil.rmtree(output_dir, ignore_errors=True)
    return partial.rename(output_dir)


def _bicodec_tensors(config: layout.Config, vocoder: State, speaker: State, semantic: State) -> dict[str, torch.Tensor]:
    """`BiCodec/model.safetensors`, without what only the published training used: 5 MB, which its loader can miss."""
    sources = {
        # each half of the two quantisers comes from the part that trained it
        "quantizer.in_project.": _under("quantizer.in_project.", semantic),
        "quantizer.out_project.": _under("quantizer.out_project.", vocoder),
        "quantizer.codebook.": _under("quantizer.codebook.", vocoder),
        "encoder.": _under("encoder.", semantic),
        "prenet.": _under("prenet.", vocoder),
        "decoder.": _under("decoder.", vocoder),
        "speaker_encoder.quantizer.project_out.": _under("speaker.quantizer.project_out.", vocoder),
        "speaker_encoder.project.": _under("speaker.project.", vocoder),
        "speaker_encoder.quantizer.project_in.": _under("quantizer.project_in.", speaker),
        "speaker_encoder.speaker_encoder.": _under("speaker_encoder.", speaker),
        "speaker_encoder.perceiver_sampler.": _under("perceiver_sampler.", speaker),
    }
    trained = {prefix + name: tensor for prefix, state in sources.items() for name, tensor in state.items()}
    return _laid_out(trained, layout.bicodec_tensors(config))


def _wav2vec2_tensors(config: layout.Config, semantic: State) -> dict[str, torch.Tensor]:
    """`pytorch_model.bin`; a layer of zeros adds nothing to its input, which is what the untrained ones do.

    A zero that is spread over a tensor takes the file as much room as one zero.
    """
    trained = {f"wav2vec2.{name}": tensor for name, tensor in _under("wav2vec2.", semantic).items()}
    untrained = {
        name: shape for name, shape in layout.wav2vec2_tensors(config).items() if _is_layer_beyond(name, trained)
    }
    wanted = {name: shape for name, shape in layout.wav2vec2_tensors(config).items() if name not in untrained}
    zeros = untrained | layout.wav2vec2_training_tensors(config)
    return _laid_out(trained, wanted) | {
        name: torch.zeros((), dtype=torch.float16).expand(shape) for name, shape in zeros.items()
    }


def _is_layer_beyond(name: str, trained: State) -> bool:
    return ".layers." in name and name not in trained


def _laid_out(trained: State, wanted: layout.Shapes) -> dict[str, torch.Tensor]:
    """The tensors of one file from the trained ones, weight norm unfolded."""
    tensors = {}
    for name, shape in wanted.items():
        if name.endswith("_g"):
            shared = [axis for axis, count in enumerate(shape) if count == 1]
            weight = trained[name.removesuffix("_g")]
            tensors[name] = torch.linalg.vector_norm(weight, dim=shared, keepdim=True)
        else:
            tensors[name] = trained[name.removesuffix("_v") if name.endswith("_v") else name]
    return {name: tensor.half().contiguous().clone() for name, tensor in tensors.items()}


def _under(prefix: str, state: State) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
