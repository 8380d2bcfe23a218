"""The check that users run: every step is tried, and the report says what became of it."""

import sys
from pathlib import Path

import pytest

from build_engines import __main__ as cli
from build_engines import self_check
from build_engines.self_check import Step, run_steps, steps, write_report


def test_a_failing_step_is_reported_and_the_others_are_run(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "print('first line'); print('why it failed'); raise SystemExit(3)"]
    outcomes = run_steps(
        [
            Step("breaks", fails),
            Step("missing", ["no-such-program"]),
            Step("works", [sys.executable, "-c", "print(7)"]),
        ],
        {},
    )
    assert [outcome.exit_code for outcome in outcomes] == [3, 127, 0]
    write_report(outcomes, tmp_path / "check.md")
    report = (tmp_path / "check.md").read_text()
    assert "| breaks | FAILED (exit code 3) |" in report and "| works | passed |" in report
    assert "why it failed" in report and "no-such-program cannot be run" in report
    assert "tensorrt_llm" in report and "Python 3." in report


def test_the_end_of_long_output_is_kept(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "print(*range(1000), sep='\\n')"]
    write_report(run_steps([Step("long", program)], {}), tmp_path / "check.md")
    report = (tmp_path / "check.md").read_text()
    assert "\n999\n" in report and "\n900\n" not in report


def test_the_gpu_check_builds_verifies_tests_and_measures_with_the_gpu_profile() -> None:
    named = {step.name: step.command for step in steps(Path("voice"), "gpu", Path("out"))}
    assert list(named) == ["GPU", "build", "verify", "tests", "benchmark"]
    for name in ("build", "verify", "benchmark"):
        assert named[name][named[name].index("--profile") + 1] == "gpu"
    assert named["benchmark"][named["benchmark"].index("--concurrency") + 1] == "1,2,4,8,16"
    assert "nvidia-smi" not in [step.command[0] for step in steps(Path("voice"), "cpu", Path("out"))]


def test_the_tests_that_it_names_are_there_and_marked() -> None:
    for name in self_check.TESTS:
        assert "pytest.mark.gpu" in (self_check.PROJECT_DIR / name).read_text()


def test_the_status_tells_whether_all_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for exit_code in (0, 1):
        program = [sys.executable, "-c", f"raise SystemExit({exit_code})"]
        monkeypatch.setattr(self_check, "steps", lambda *_, program=program: [Step("one", program)])
        monkeypatch.setattr(sys, "argv", ["x", "check", "--model-dir", "voice", "--output-dir", str(tmp_path)])
        assert cli.main() == exit_code
        assert str(tmp_path / "check.md") in capsys.readouterr().out
