"""What of the GPU profile needs no GPU: what it sets in the configs, what it is made from, and its errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from build_engines.__main__ import main
from build_engines.checkpoint import Checkpoint
from build_engines.profiles import ENGINES, PROFILES, PROJECT_DIR, open_profile


def test_the_engine_s_path_is_where_the_repository_is_served_from(tmp_path: Path) -> None:
    parameters = open_profile("gpu", "bf16").parameters(tmp_path / "final")
    assert parameters == {
        "speech_lm": {
            "gpt_model_path": str(tmp_path / "final" / "speech_lm" / "1" / "engine"),
            "max_tokens_in_paged_kv_cache": "262144",
        }
    }


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may run in another folder."""
    monkeypatch.chdir(tmp_path)
    parameters = open_profile("gpu", "int8").parameters(Path("models"))
    assert parameters["speech_lm"]["gpt_model_path"] == str(tmp_path / "models" / "speech_lm" / "1" / "engine")


def test_the_bias_has_a_value_for_each_row_of_the_vocabulary(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    assert open_profile("gpu", "bf16").input_sizes(checkpoint) == {
        "speech_lm": {"embedding_bias": checkpoint.lm["vocab_size"]}
    }


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_source_that_an_engine_depends_on_is_there(profile: str, engine: str) -> None:
    sources = open_profile(profile, "bf16").sources(engine)  # type: ignore[arg-type]
    assert [path for path in sources if not path.exists()] == []


def test_the_gpu_profile_imports_none_of_the_cpu_s_language_model() -> None:
    """It is not in the GPU image."""
    code = "import build_engines.repository, build_engines.gpu_profile, sys; print('openvino_genai' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_DIR, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`python -m build_engines`, in this process."""
    monkeypatch.setattr(sys, "argv", ["build_engines", *map(str, arguments)])
    return main()


@pytest.mark.parametrize("command", ["repository", "verify"])
def test_without_tensorrt_the_build_ends_with_one_sentence(
    command: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model-dir", tiny_checkpoint, "--profile", "gpu", "--output-dir", tmp_path / "models"]
    assert run(monkeypatch, command, *options) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("error: ") and ("tensorrt" in last_line or "rank0.engine is missing" in last_line)


def test_the_configs_are_written_for_the_folder_that_is_served(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first, before anything that needs a GPU."""
    options = ["--model-dir", tiny_checkpoint, "--profile", "gpu", "--output-dir", tmp_path / "models"]
    run(monkeypatch, "repository", *options, "--served-from", "/srv/models")
    config = text_format.Parse((tmp_path / "models" / "speech_lm" / "config.pbtxt").read_text(), ModelConfig())
    assert config.backend == "tensorrtllm"
    assert config.parameters["gpt_model_path"].string_value == "/srv/models/speech_lm/1/engine"
    assert [list(tensor.dims) for tensor in config.input if tensor.name == "embedding_bias"] == [[13824]]


def test_the_language_model_is_converted_by_command(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "lm-checkpoint", "--model-dir", tiny_checkpoint, "--output-dir", tmp_path / "lm") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "lm")
    assert sorted(path.name for path in (tmp_path / "lm").iterdir()) == ["config.json", "rank0.safetensors"]


def test_a_precision_of_the_other_profile_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "repository", "--model-dir", "anywhere", "--profile", "gpu", "--precision", "f32")
    assert "--precision f32: the gpu profile has bf16, int8" in capsys.readouterr().err
