"""`python -m demo`, as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

import soundfile

PROJECT_DIR = Path(__file__).parents[2]


def test_demo_speaks_every_line_and_stops_its_server(tmp_path: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "demo", "--output-dir", tmp_path],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert demo.returncode == 0, demo.stderr
    durations_s = {path.stem: soundfile.info(path).duration for path in tmp_path.glob("*.wav")}
    assert len(durations_s) == 6
    for name, duration_s in durations_s.items():
        assert 0.5 < duration_s < 5
        assert f"\n{name}" in demo.stdout  # its row of the table
