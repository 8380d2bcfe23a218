"""`python -m demo`: build the engines, start a real server, speak some lines through it, stop it."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tritone_client import ControlledVoice, ReferenceVoice, Speech, Tritone, TritoneError, Voice

from build_engines.checkpoint import CheckpointError
from build_engines.checks import CheckFailed
from build_engines.repository import BUILD_DIR, PROJECT_DIR, build_repository, repository_dir
from demo.lines import REFERENCE_TRANSCRIPT, REFERENCE_WAV
from tritone.serve import ServerError, TritonServer

DEMO_VOICE_DIR = PROJECT_DIR / "checkpoints" / "demo_voice"
OUTPUT_DIR = PROJECT_DIR / "out"


@dataclass(frozen=True)
class Line:
    """One thing to say; `name` becomes the name of its wav file."""

    name: str
    text: str
    voice: Voice
    streamed: bool = False
    seed: int = 0


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


def demo_lines() -> list[Line]:
    """One line for each way to choose a voice, all made of words that the demo voice knows."""
    with_transcript = ReferenceVoice.from_file(REFERENCE_WAV, REFERENCE_TRANSCRIPT)
    timbre_alone = ReferenceVoice.from_file(REFERENCE_WAV)
    return [
        Line("cloned-with-transcript", "the dog is inside the house", with_transcript, seed=3),
        Line("cloned", "the student can hear the teacher", timbre_alone),
        Line("controlled-female", "welcome to the world", ControlledVoice("female", pitch="high")),
        Line("controlled-male", "this computer can speak", ControlledVoice("male", speed="low")),
        Line("controlled-240-mel", "six seven eight nine ten", ControlledVoice("female", pitch_value=240)),
        Line("streamed", "the new engine is very fast", ControlledVoice("female", pitch="high"), streamed=True),
    ]


def speak(client: Tritone, line: Line) -> Spoken:
    """Have the server say one line."""
    begin = time.perf_counter()
    if not line.streamed:
        speech = client.synthesize(line.text, voice=line.voice, seed=line.seed)
        latency_s = time.perf_counter() - begin
        return Spoken(speech, latency_s, first_audio_s=latency_s)
    pieces, arrivals_s = [], []
    for piece in client.stream(line.text, voice=line.voice, seed=line.seed):
        pieces.append(piece)
        arrivals_s.append(time.perf_counter() - begin)
    return Spoken(Speech.join(pieces), arrivals_s[-1], arrivals_s[0])


def run(model_dir: Path, output_dir: Path) -> None:
    """Build, serve, speak; write one wav per line to `output_dir` and print a table."""
    repository = build_repository(model_dir, repository_dir(model_dir, "int8"), "int8")
    output_dir.mkdir(parents=True, exist_ok=True)
    print("starting tritonserver ...", flush=True)
    server = TritonServer.on_free_ports(repository, log_path=BUILD_DIR / "demo.log")
    with server, Tritone(server.grpc_url) as client:
        lines = demo_lines()
        client.synthesize(lines[0].text, voice=lines[0].voice)  # a warm-up: engines prepare at their first use
        print(f"{'line':24}{'audio s':>9}{'latency s':>11}{'first audio s':>15}{'RTF':>7}  text")
        for line in lines:
            spoken = speak(client, line)
            spoken.speech.save(output_dir / f"{line.name}.wav")
            print(
                f"{line.name:24}{spoken.speech.duration_s:9.2f}{spoken.latency_s:11.2f}{spoken.first_audio_s:15.2f}"
                f"{spoken.rtf:7.2f}  {line.text}",
                flush=True,
            )
    print(f"wrote {len(lines)} wav files to {output_dir}")


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
