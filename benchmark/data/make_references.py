"""Make the reference audio of the built-in work list anew: `python benchmark/data/make_references.py`.

It needs `espeak-ng` on the PATH. What the recordings say is read from builtin.jsonl.
"""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
from tritone_client.audio import SAMPLE_RATE_HZ, read_server_audio

DATA_DIR = Path(__file__).parent
ESPEAK_VOICES = {
    "en_female.flac": "en-us+f3",
    "en_male.flac": "en-us+m3",
    "zh_female.flac": "cmn+f2",
    "zh_male.flac": "cmn+m7",
}
WORDS_PER_MINUTE = 180


def main() -> None:
    """Write every recording beside this file."""
    lines = [json.loads(line) for line in (DATA_DIR / "builtin.jsonl").read_text(encoding="utf-8").splitlines()]
    transcripts = {line["reference"]: line["transcript"] for line in lines if "transcript" in line}
    with TemporaryDirectory() as folder:
        spoken = Path(folder, "spoken.wav")
        for name, voice in ESPEAK_VOICES.items():
            command = ["espeak-ng", "-v", voice, "-s", str(WORDS_PER_MINUTE), "-w", spoken, transcripts[name]]
            subprocess.run(command, check=True)
            soundfile.write(DATA_DIR / name, read_server_audio(spoken), SAMPLE_RATE_HZ, subtype="PCM_16")


if __name__ == "__main__":
    main()
