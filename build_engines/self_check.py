"""One report on how the project fares on a machine: build, verify, test, measure; for an issue, when something fails.

`make gpu-check` runs it in the GPU image, where the people who write this have no GPU. A step that fails does not keep
the others from being tried.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from build_engines.profiles import PROJECT_DIR, ProfileName

CONCURRENCY = "1,2,4,8,16"
FIXED_TOKENS = "300"  # six seconds each, so that weights of no meaning are the same work
NUM_LINES = 60  # of a step's output in the report
PACKAGES = ("torch", "tensorrt", "tensorrt_llm", "openvino", "openvino-genai", "onnx", "tritonclient")
# They choose their profile by the environment variable PROFILE.
TESTS = ("tests/test_tensorrt_gpu.py", "tests/live/test_speech_live.py")


@dataclass(frozen=True)
class Step:
    """A command of the check; its output goes into the report."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    step: Step
    exit_code: int
    duration_s: float
    output: str

    @property
    def verdict(self) -> str:
        return "passed" if self.exit_code == 0 else f"FAILED (exit code {self.exit_code})"


def steps(model_dir: Path, profile: ProfileName, output_dir: Path, concurrency: str = CONCURRENCY) -> list[Step]:
    """What is run, in order, from the project's folder."""
    python = [sys.executable, "-m"]
    engines = ["--model-dir", str(model_dir), "--profile", profile]
    levels = ["--concurrency", concurrency, "--fixed-tokens", FIXED_TOKENS, "--beside", "published-l20"]
    return [
        *([Step("GPU", ["nvidia-smi"])] if profile == "gpu" else []),
        Step("build", [*python, "build_engines", "repository", *engines]),
        Step("verify", [*python, "build_engines", "verify", *engines]),
        Step("tests", [*python, "pytest", "-q", "-rs", "-m", "gpu", *TESTS]),
        Step("benchmark", [*python, "benchmark", "run", *engines, *levels, "--out", str(output_dir)]),
    ]


def run_steps(to_run: Sequence[Step], environment: Mapping[str, str]) -> list[Outcome]:
    """Run every step, whatever became of those before it."""
    outcomes = []
    with tqdm(to_run, unit="step") as progress:
        for step in progress:
            progress.set_postfix_str(step.name)
            outcomes.append(_run(step, environment))
    return outcomes


def write_report(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the one file to attach, in Markdown: the machine, what passed, and the end of each step's output."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} absent")
    lines = [
        "# Tritone's check of this machine",
        "",
        f"{platform.platform()}, Python {platform.python_version()}; {', '.join(versions)}",
        "",
        "| step | outcome | seconds |",
        "| --- | --- | --- |",
        *(f"| {outcome.step.name} | {outcome.verdict} | {outcome.duration_s:.0f} |" for outcome in outcomes),
    ]
    for outcome in outcomes:
        tail = outcome.output.replace("\r", "\n").splitlines()[-NUM_LINES:]
        lines += ["", f"## {outcome.step.name}: {outcome.verdict}", "", "```", *tail, "```"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def self_check(model_dir: Path, profile: ProfileName, output_dir: Path, concurrency: str = CONCURRENCY) -> bool:
    """Run all steps and write `output_dir`/check.md, beside the benchmark's own report; whether all passed."""
    output_dir.mkdir(parents=True, exist_ok=True)
    python_path = os.pathsep.join([str(PROJECT_DIR), str(PROJECT_DIR / "client")])
    environment = os.environ | {"PROFILE": profile, "PYTHONPATH": python_path}
    outcomes = run_steps(steps(model_dir.resolve(), profile, output_dir.resolve(), concurrency), environment)
    write_report(outcomes, output_dir / "check.md")
    return all(outcome.exit_code == 0 for outcome in outcomes)


def _run(step: Step, environment: Mapping[str, str]) -> Outcome:
    began_s = time.monotonic()
    try:
        ended = subprocess.run(
            step.command, cwd=PROJECT_DIR, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        exit_code, output = ended.returncode, ended.stdout.decode(errors="replace")
    except OSError as error:
        exit_code, output = 127, f"{step.command[0]} cannot be run: {error.strerror}"
    return Outcome(step, exit_code, time.monotonic() - began_s, output)
