"""The benchmark's command line: what it takes and how it refuses the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import __main__ as cli
from benchmark.results import Run, RunSettings
from tests.test_benchmark_run import SPREAD_S, made_run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    return cli.main()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--concurrency", "1,0"], "must be at least 1"),
        (["--concurrency", "one"], "argument --concurrency"),
        (["--rate", "0"], "must be over 0"),
        (["--mode", "stream,loud"], "must be of stream, whole"),
        (["--slo", "ttfa"], "argument --slo"),
        (["--slo", "quality=1"], "each of ttfa, rtf, latency, prebuffer"),
        (["--slo", "rtf=1,rtf=2"], "at most once"),
        (["--requests", "3", "--duration", "4"], "not allowed with"),
        (["--model-dir", "somewhere"], "not allowed with"),
        (["--beside", "published-b200"], "invalid choice"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "run", "--url", "127.0.0.1:1", "--out", "nowhere", *arguments)
    assert complaint in capsys.readouterr().err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--worklist", "no/such/list.jsonl"], "no/such/list.jsonl"),
        ([], "no Triton server answers at 127.0.0.1:1"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    complaint: str,
) -> None:
    assert call(monkeypatch, "run", "--url", "127.0.0.1:1", "--out", str(tmp_path), *arguments) == 1
    output = capsys.readouterr().err
    assert output.startswith("error: ") and complaint in output and output.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "num_streams", "expected"),
    [
        (RunSettings(), 1, 10),  # a pass over the list
        (RunSettings(), 8, 16),  # two for each stream
        (RunSettings(num_requests=3), 8, 3),
        (RunSettings(duration_s=5.0), 8, None),
    ],
)
def test_a_level_takes_a_pass_over_the_list_and_two_requests_a_stream_unless_said(
    settings: RunSettings, num_streams: int, expected: int | None
) -> None:
    assert settings.requests_of(num_streams, num_utterances=10) == expected


def test_a_load_test_needs_neither_pytorch_nor_engines() -> None:
    program = "import sys, benchmark.__main__; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.decode().split()
    assert "benchmark.run" in modules
    assert not {"torch", "openvino", "transformers", "onnx"} & set(modules)


def test_compare_prints_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made_run(SPREAD_S).save(tmp_path / "a.json")
    made_run(2 * SPREAD_S).save(tmp_path / "b.json")
    assert call(monkeypatch, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")) == 0
    assert "worse" in capsys.readouterr().out
    assert call(monkeypatch, "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")) == 0
    output = capsys.readouterr().out
    assert "inside the noise" in output and "worse" not in output
    assert call(monkeypatch, "compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")) == 1
    assert "none.json is no result" in capsys.readouterr().err


def test_table_prints_markdown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made_run([1.0, 2.0]).save(tmp_path / "run.json")
    assert call(monkeypatch, "table", str(tmp_path / "run.json")) == 0
    assert "| stream | 1 | 1500 |" in capsys.readouterr().out
    assert isinstance(Run.load(tmp_path / "run.json"), Run) and json.loads((tmp_path / "run.json").read_text())
