"""The GPU profile's language model without a GPU: its checkpoint, its config and the pipeline's mask make speech.

The TensorRT-LLM checkpoint of the demo voice is folded back and served by a Python model that knows no grammar, under
the config of the GPU profile. Only TensorRT-LLM's own arithmetic is missing.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from safetensors.torch import save_file
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritone_client import ControlledVoice, Tritone

from build_engines.checkpoint import Checkpoint
from build_engines.repository import MODEL_REPO_DIR, config_text
from build_engines.trtllm import write_lm_checkpoint
from demo.lines import DEMO_SENTENCES
from tests.recognizer import Recognizer
from tests.test_trtllm import fold_back
from tritone.serve import TritonServer

MODEL = Path(__file__).parent / "folded_speech_lm" / "model.py"
LINES = DEMO_SENTENCES[::13]


def write_model(checkpoint: Checkpoint, directory: Path, scratch: Path) -> None:
    """The GPU profile's language model in the Python backend, with the folded-back checkpoint beside it."""
    config = text_format.Parse((MODEL_REPO_DIR / "speech_lm" / "configs" / "gpu.pbtxt").read_text(), ModelConfig())
    config.backend = "python"
    next(tensor for tensor in config.input if tensor.name == "embedding_bias").dims[:] = [checkpoint.lm["vocab_size"]]
    folded = directory / "1" / "folded"
    folded.mkdir(parents=True)
    (directory / "config.pbtxt").write_text(config_text(config))
    shutil.copyfile(MODEL, directory / "1" / "model.py")
    tensors = fold_back(write_lm_checkpoint(checkpoint, scratch))
    save_file(tensors, folded / "model.safetensors", metadata={"format": "pt"})
    (folded / "config.json").write_text(json.dumps({**checkpoint.lm, "tie_word_embeddings": False}))


@pytest.fixture(scope="module")
def folded_server(
    demo_checkpoint: Path, demo_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server with what speaking in a controlled voice needs: the CPU's vocoder, the GPU profile's language model."""
    directory = tmp_path_factory.mktemp("folded")
    for name in ("spark_tts", "vocoder"):
        shutil.copytree(demo_repository / name, directory / "models" / name)
    write_model(Checkpoint.open(demo_checkpoint), directory / "models" / "speech_lm", directory / "checkpoint")
    with TritonServer.on_free_ports(directory / "models", log_path=directory / "tritonserver.log") as running:
        yield running


def test_the_mask_alone_makes_the_model_speak(folded_server: TritonServer) -> None:
    recognizer = Recognizer(DEMO_SENTENCES)
    with Tritone(folded_server.grpc_url, timeout_s=120) as tritone:
        said = {
            line: tritone.synthesize(line, voice=ControlledVoice("female", pitch="high"), seed=seed)
            for seed, line in enumerate(LINES)
        }
    wrong = {line: recognizer.choose(speech.waveform) for line, speech in said.items()}
    wrong = {line: heard for line, heard in wrong.items() if heard != line}
    assert len(wrong) <= 1, wrong  # of 4; the CPU's engine: 1 in 150
    assert {str(speech.end_reason) for speech in said.values()} == {"complete"}
