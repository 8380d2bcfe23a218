"""The demonstration, through the real server: what it writes, and that its voices do as they are told."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
from tritone_client import Tritone
from tritone_client.audio import SAMPLE_RATE_HZ

from build_engines.demo_voice.measures import GENDERS, f0_hz, hz_to_mel, pitch_label, speech_duration_s
from demo.__main__ import perform
from demo.scenes import LEVELS, Line, scenes
from tritone.serve import TritonServer

LINES: dict[str, Line] = {line.name: line for scene in scenes() for line in scene.lines}
MAX_F0_ERROR = 0.10


@pytest.fixture(scope="module")
def output_dir(server: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo") / "out"
    with Tritone(server.grpc_url, timeout_s=120) as client:
        written = perform(client, directory)
    assert sorted(written) == sorted(directory.iterdir())
    return directory


def heard(output_dir: Path, name: str) -> np.ndarray:
    waveform, sample_rate_hz = soundfile.read(output_dir / f"{name}.wav", dtype="float32")
    assert sample_rate_hz == SAMPLE_RATE_HZ
    return waveform


def test_every_line_is_written_and_heard_in_the_whole(output_dir: Path) -> None:
    assert {path.stem for path in output_dir.glob("*.wav")} == {*LINES, "demo"}
    durations_s = [len(heard(output_dir, name)) / SAMPLE_RATE_HZ for name in LINES]
    assert min(durations_s) > 0.5
    assert len(heard(output_dir, "demo")) / SAMPLE_RATE_HZ > sum(durations_s)


def test_the_picture_shows_something_of_every_scene(output_dir: Path) -> None:
    picture = matplotlib.image.imread(output_dir / "demo.png")[..., :3]
    rows = np.array_split(picture[:, picture.shape[1] // 10 : picture.shape[1] // 3], len(scenes()))
    assert all(row.std() > 0.1 for row in rows)


@pytest.mark.parametrize("name", [name for name, line in LINES.items() if isinstance(line.voice, str)])
def test_a_kept_voice_goes_on(output_dir: Path, name: str) -> None:
    first = f0_hz(heard(output_dir, str(LINES[name].voice)))
    assert f0_hz(heard(output_dir, name)) == pytest.approx(first, rel=MAX_F0_ERROR)


def test_f0_follows_the_pitch(output_dir: Path) -> None:
    f0s_hz = [f0_hz(heard(output_dir, f"pitch-{level}")) for level in LEVELS]
    labels = [pitch_label(hz_to_mel(hz), GENDERS.index("female")) for hz in f0s_hz]
    assert f0s_hz == sorted(f0s_hz)
    assert all(abs(label - wanted) <= 1 for wanted, label in enumerate(labels)), f0s_hz
    assert labels[0] < 2 < labels[-1]


def test_duration_follows_the_speed(output_dir: Path) -> None:
    durations_s = [speech_duration_s(heard(output_dir, f"speed-{value}")) for value in (6, 4, 2)]
    assert durations_s == sorted(durations_s)
    assert durations_s[2] > 1.5 * durations_s[0]
