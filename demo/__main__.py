"""`python -m demo`: build the engines, start a real server, speak some scenes through it, stop it."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tritone_client import Speech, Tritone, TritoneError, Voice
from tritone_client.audio import SAMPLE_RATE_HZ

from build_engines.checkpoint import CheckpointError
from build_engines.checks import CheckFailed
from build_engines.repository import BUILD_DIR, PROJECT_DIR, build_repository, repository_dir
from demo.picture import Caption, Row, draw
from demo.scenes import Line, Scene, scenes
from tritone.serve import ServerError, TritonServer

DEMO_VOICE_DIR = PROJECT_DIR / "checkpoints" / "demo_voice"
OUTPUT_DIR = PROJECT_DIR / "out"
_PAUSE_S, _SCENE_PAUSE_S = 0.35, 1.0
_SEED = 0  # the demonstration says the same each time


@dataclass(frozen=True)
class Spoken:
    """A line's speech and how long a client waited for it."""

    speech: Speech
    latency_s: float
    first_audio_s: float

    @property
    def rtf(self) -> float:
        """The real-time factor: waiting over audio; below 1 is faster than it plays."""
        return self.latency_s / self.speech.duration_s


def speak(client: Tritone, line: Line, voice: Voice) -> Spoken:
    """Have the server say one line."""
    begin = time.perf_counter()
    if not line.is_streamed:
        speech = client.synthesize(line.text, voice=voice, seed=_SEED, keep_tokens=True)
        latency_s = time.perf_counter() - begin
        return Spoken(speech, latency_s, first_audio_s=latency_s)
    pieces, arrivals_s = [], []
    for piece in client.stream(line.text, voice=voice, seed=_SEED, keep_tokens=True):
        pieces.append(piece)
        arrivals_s.append(time.perf_counter() - begin)
    return Spoken(Speech.join(pieces), arrivals_s[-1], arrivals_s[0])


def perform(client: Tritone, output_dir: Path) -> list[Path]:
    """Say all scenes, printing a table.

    Returns:
        What was written to `output_dir`: one wav a line, then all of it as `demo.wav` and as a picture, `demo.png`.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    first = scenes()[0].lines[0]
    assert not isinstance(first.voice, str)
    speak(client, first, first.voice)  # a warm-up: engines prepare at their first use
    print(f"{'line':24}{'audio s':>9}{'latency s':>11}{'first audio s':>15}{'RTF':>7}  text")
    voices: dict[str, Voice] = {}
    rows = [_perform_scene(client, scene, voices, output_dir) for scene in scenes()]
    written = [output_dir / f"{name}.wav" for name in voices]
    sounds = [sound for row in rows for sound in (row.waveform, _silence(_SCENE_PAUSE_S))]
    Speech(np.concatenate(sounds)).save(output_dir / "demo.wav")
    draw(rows, SAMPLE_RATE_HZ, output_dir / "demo.png")
    return [*written, output_dir / "demo.wav", output_dir / "demo.png"]


def _perform_scene(client: Tritone, scene: Scene, voices: dict[str, Voice], output_dir: Path) -> Row:
    """Its sound, with `voices` filled with what each line was spoken with."""
    sounds: list[np.ndarray] = []
    captions: list[Caption] = []

    def add(waveform: np.ndarray, text: str, label: str) -> None:
        captions.append(Caption(sum(map(len, sounds)) / SAMPLE_RATE_HZ, text, label))
        sounds.extend((waveform, _silence(_PAUSE_S)))

    if scene.recording is not None:
        add(scene.recording.waveform, scene.recording.transcript or "", "the recording")
    for line in scene.lines:
        spoken = speak(client, line, voices[line.voice] if isinstance(line.voice, str) else line.voice)
        speech = spoken.speech
        voices[line.name] = speech.voice()
        speech.save(output_dir / f"{line.name}.wav")
        add(speech.waveform, line.text, line.label)
        print(
            f"{line.name:24}{speech.duration_s:9.2f}{spoken.latency_s:11.2f}{spoken.first_audio_s:15.2f}"
            f"{spoken.rtf:7.2f}  {line.text}",
            flush=True,
        )
    return Row(scene.title, np.concatenate(sounds), captions)


def _silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * SAMPLE_RATE_HZ), np.float32)


def run(model_dir: Path, output_dir: Path) -> None:
    """Build, serve, speak; see `perform`."""
    repository = build_repository(model_dir, repository_dir(model_dir, "int8"), "int8")
    print("starting tritonserver ...", flush=True)
    server = TritonServer.on_free_ports(repository, log_path=BUILD_DIR / "demo.log")
    with server, Tritone(server.grpc_url) as client:
        *lines, everything, picture = perform(client, output_dir)
    print(f"wrote {len(lines)} lines to {output_dir}; to listen: {everything}, to look: {picture}")


def main() -> int:
    """The command line; the status is 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--model-dir", type=Path, default=DEMO_VOICE_DIR, help="default: the demo voice")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT_DIR, help="default: out/ in the checkout")
    args = parser.parse_args()
    if args.model_dir.name.startswith("synthetic"):
        print("note: synthetic weights are pseudo-random, what follows is noise and not speech", file=sys.stderr)
    try:
        run(args.model_dir, args.output_dir)
    except (CheckpointError, CheckFailed, ServerError, TritoneError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
