"""Reading a Spark-TTS checkpoint: its configs, and its weights one tensor at a time."""

import hashlib
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from build_engines import layout

CONFIG_FILE = "config.yaml"
BICODEC_CONFIG_FILE = "BiCodec/config.yaml"
WAV2VEC2_CONFIG_FILE = "wav2vec2-large-xlsr-53/config.json"
LM_CONFIG_FILE = "LLM/config.json"
TOKENIZER_FILE = "LLM/tokenizer.json"
BICODEC_WEIGHTS_FILE = "BiCodec/model.safetensors"
WAV2VEC2_WEIGHTS_FILE = "wav2vec2-large-xlsr-53/pytorch_model.bin"
LM_WEIGHTS_FILE = "LLM/model.safetensors"
CONFIG_FILES = (CONFIG_FILE, BICODEC_CONFIG_FILE, WAV2VEC2_CONFIG_FILE, LM_CONFIG_FILE, TOKENIZER_FILE)
WEIGHTS_FILES = (BICODEC_WEIGHTS_FILE, WAV2VEC2_WEIGHTS_FILE, LM_WEIGHTS_FILE)

# BF16 has no NumPy type: its bits are the upper half of a float32.
_SAFETENSORS_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
_FINGERPRINT_BLOCK_BYTES = 1 << 16
_NUM_FINGERPRINT_BLOCKS = 16


class CheckpointError(Exception):
    """The checkpoint cannot be used: one sentence that names the file and, where there is one, the tensor."""


class TensorFile:
    """A weights file whose tensors are read one by one: .safetensors, or PyTorch's .bin (weights only).

    Opening it reads names and shapes, no values.

    Raises:
        CheckpointError: the file is missing, damaged or holds anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            self._tensors = _SafeTensors(path) if path.suffix == ".safetensors" else _TorchTensors(path)
        except (ValueError, TypeError, KeyError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error

    def names(self) -> list[str]:
        """The names of all tensors in the file."""
        return list(self._tensors.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor `name`.

        Raises:
            CheckpointError: the file has no such tensor.
        """
        if name not in self._tensors.shapes:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        return self._tensors.shapes[name]

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Tensor `name` as a float32 copy (integers as they are stored).

        Raises:
            CheckpointError: the file has no such tensor, or its shape is not `shape`.
        """
        self.check(name, self.shape(name) if shape is None else shape)
        array = self._tensors.read(name)
        return array.astype(np.float32) if array.dtype.kind == "f" else np.array(array)

    def row_blocks(self, name: str, max_values: int) -> Iterator[np.ndarray]:
        """Tensor `name` as float32 in consecutive pieces along its first axis, so that it is never whole in memory.

        Args:
            max_values: of one piece, if a single row has no more.

        Raises:
            CheckpointError: the file has no such tensor.
        """
        num_rows, *row_shape = self.shape(name)
        step = max(1, max_values // math.prod(row_shape))
        for begin in range(0, num_rows, step):
            yield self._tensors.read(name, slice(begin, begin + step)).astype(np.float32)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError unless the file has tensor `name` with `shape`."""
        found = self.shape(name)
        if found != shape:
            raise CheckpointError(f"{self.path}: tensor {name} has shape {list(found)}, expected {list(shape)}")


class _SafeTensors:
    """The safetensors format: the header's length, the header in JSON, then the values, which stay on disk until read.

    Read here rather than by the safetensors package because that one cannot give bfloat16 to NumPy.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 0 < header_bytes <= path.stat().st_size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(header_bytes))
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        self._values_offset = 8 + header_bytes
        self.shapes = {name: tuple(entry["shape"]) for name, entry in self._entries.items()}
        for name, entry in self._entries.items():
            dtype, (start, end) = _SAFETENSORS_DTYPES.get(entry["dtype"]), entry["data_offsets"]
            if dtype is None:
                raise ValueError(f"tensor {name} has type {entry['dtype']}")
            if end - start != math.prod(entry["shape"]) * np.dtype(dtype).itemsize:
                raise ValueError(f"tensor {name} has {end - start} bytes, too few or too many for its shape")
        num_bytes = self._values_offset + max((entry["data_offsets"][1] for entry in self._entries.values()), default=0)
        if path.stat().st_size < num_bytes:
            raise ValueError(f"it has {path.stat().st_size} bytes instead of {num_bytes}")
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        entry = self._entries[name]
        start, end = (self._values_offset + offset for offset in entry["data_offsets"])
        values = self._bytes[start:end].view(_SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if rows is not None:
            values = values[rows]
        if entry["dtype"] == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values


class _TorchTensors:
    """PyTorch's own format, read without running anything that is pickled in it."""

    def __init__(self, path: Path) -> None:
        import torch  # only this format needs it

        # Files from before PyTorch 1.6 are no zip archives and cannot be mapped into memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("it is not a dictionary of tensors")
        self._state = state
        self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        tensor = self._state[name] if rows is None else self._state[name][rows]
        array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
        return array


@dataclass(frozen=True)
class Checkpoint:
    """A Spark-TTS checkpoint folder whose files and tensors have been found complete."""

    directory: Path
    sample_rate_hz: int
    hop_length: int  # samples per semantic token
    reference_duration_s: float
    volume_normalize: bool
    bicodec: dict[str, Any]
    wav2vec2: dict[str, Any]
    lm: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Read the configs and check that every file, and every tensor that speech needs, is there and fits them.

        Raises:
            CheckpointError: naming the first file, setting or tensor that is missing or does not fit.
        """
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is no folder")
        for name in (*CONFIG_FILES, *WEIGHTS_FILES):
            if not (directory / name).is_file():
                raise CheckpointError(f"{directory / name} is missing")
        general = _read_config(directory / CONFIG_FILE)
        bicodec = _read_config(directory / BICODEC_CONFIG_FILE)
        try:
            checkpoint = cls(
                directory=directory,
                sample_rate_hz=general["sample_rate"],
                hop_length=general["latent_hop_length"],
                reference_duration_s=general["ref_segment_duration"],
                volume_normalize=general["volume_normalize"],
                bicodec=bicodec["audio_tokenizer"],
                wav2vec2=_read_config(directory / WAV2VEC2_CONFIG_FILE),
                lm=_read_config(directory / LM_CONFIG_FILE),
            )
            checkpoint._check_settings()
            checkpoint._check_tensors()
        except KeyError as error:
            raise CheckpointError(f"the configs of {directory} lack the setting {error}") from error
        return checkpoint

    @cached_property
    def bicodec_file(self) -> TensorFile:
        return TensorFile(self.directory / BICODEC_WEIGHTS_FILE)

    @cached_property
    def wav2vec2_file(self) -> TensorFile:
        return TensorFile(self.directory / WAV2VEC2_WEIGHTS_FILE)

    @cached_property
    def lm_file(self) -> TensorFile:
        return TensorFile(self.directory / LM_WEIGHTS_FILE)

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / TOKENIZER_FILE

    @property
    def num_reference_samples(self) -> int:
        """Length of the clip that global tokens are made from: whole hops."""
        num_samples = int(self.sample_rate_hz * self.reference_duration_s)
        return num_samples // self.hop_length * self.hop_length

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the checkpoint."""
        return fingerprint(self.directory)

    def _check_settings(self) -> None:
        """Refuse what the networks here do not do, rather than build engines that say something else."""
        wav2vec2, bicodec = self.wav2vec2, self.bicodec
        quantizer, speaker = bicodec["quantizer"], bicodec["speaker_encoder"]
        # The last layer's hidden state would have the final norm in it, so one more layer must follow those used.
        num_layers = layout.NUM_WAV2VEC2_LAYERS + 1
        requirements = (
            (WAV2VEC2_CONFIG_FILE, "feat_extract_norm", wav2vec2["feat_extract_norm"], "layer"),
            (WAV2VEC2_CONFIG_FILE, "do_stable_layer_norm", wav2vec2["do_stable_layer_norm"], True),
            (WAV2VEC2_CONFIG_FILE, "conv_bias", wav2vec2["conv_bias"], True),
            (WAV2VEC2_CONFIG_FILE, "hidden_act", wav2vec2["hidden_act"], "gelu"),
            (WAV2VEC2_CONFIG_FILE, "feat_extract_activation", wav2vec2["feat_extract_activation"], "gelu"),
            (WAV2VEC2_CONFIG_FILE, "product of conv_stride", math.prod(wav2vec2["conv_stride"]), self.hop_length),
            (BICODEC_CONFIG_FILE, "product of decoder.rates", math.prod(bicodec["decoder"]["rates"]), self.hop_length),
            (BICODEC_CONFIG_FILE, "encoder.sample_ratios", set(bicodec["encoder"]["sample_ratios"]), {1}),
            (BICODEC_CONFIG_FILE, "prenet.sample_ratios", set(bicodec["prenet"]["sample_ratios"]), {1}),
            (BICODEC_CONFIG_FILE, "prenet.use_tanh_at_final", bicodec["prenet"]["use_tanh_at_final"], False),
            (BICODEC_CONFIG_FILE, "quantizer.use_l2_normlize", quantizer["use_l2_normlize"], True),
            (BICODEC_CONFIG_FILE, "speaker_encoder.fsq_num_quantizers", speaker["fsq_num_quantizers"], 1),
        )
        for file, setting, found, expected in requirements:
            if found != expected:
                raise CheckpointError(f"{self.directory / file}: {setting} is {found}, only {expected} is supported")
        if wav2vec2["num_hidden_layers"] < num_layers:
            raise CheckpointError(
                f"{self.directory / WAV2VEC2_CONFIG_FILE}: num_hidden_layers is {wav2vec2['num_hidden_layers']}, "
                f"at least {num_layers} are needed"
            )

    def _check_tensors(self) -> None:
        for file, shapes in (
            (self.bicodec_file, layout.bicodec_tensors(self.bicodec)),
            (self.wav2vec2_file, layout.wav2vec2_tensors(self.wav2vec2)),
            (self.lm_file, layout.lm_tensors(self.lm)),
        ):
            for name, shape in shapes.items():
                file.check(name, shape)


def fingerprint(directory: Path) -> str:
    """16 hexadecimal digits that change with the checkpoint in a folder.

    The configs count whole; of the weights, gigabytes, their sizes and some blocks spread over each file do.

    Raises:
        CheckpointError: a file is missing.
    """
    digest = hashlib.sha256()
    for name in (*CONFIG_FILES, *WEIGHTS_FILES):
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing")
    for name in CONFIG_FILES:
        digest.update((directory / name).read_bytes())
    for name in WEIGHTS_FILES:
        for block in _sample_blocks(directory / name):
            digest.update(block)
    return digest.hexdigest()[:16]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        # Not one parser for both: PyYAML takes JSON's 1e-05 for a string.
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no settings")
    return config


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _sample_blocks(path: Path) -> Iterator[bytes]:
    num_bytes = path.stat().st_size
    yield num_bytes.to_bytes(8, "little")
    with path.open("rb") as file:
        for index in range(_NUM_FINGERPRINT_BLOCKS):
            file.seek(num_bytes * index // _NUM_FINGERPRINT_BLOCKS)
            yield file.read(_FINGERPRINT_BLOCK_BYTES)
