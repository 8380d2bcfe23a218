"""`python -m build_engines.demo_voice`: train the demo voice from nothing, or measure a checkpoint."""

import argparse
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from build_engines.checkpoint import CheckpointError
from build_engines.demo_voice.espeak import EspeakMissing
from build_engines.demo_voice.parts import PARTS, Workshop
from build_engines.demo_voice.settings import Settings
from build_engines.demo_voice.training import OtherSettings
from build_engines.repository import BUILD_DIR, PROJECT_DIR

_WORK_DIR = BUILD_DIR / "demo_voice"
_CHECKPOINT_DIR = PROJECT_DIR / "checkpoints" / "demo_voice_trained"
_NICENESS = 10  # people work on the machine meanwhile
_NUM_PROCESSES = 2  # of one thread each: faster than one process of two, which the last part alone is
_POLL_S = 2.0


class PartFailed(Exception):
    """A part's process ended with an error; the message names it."""


def main() -> int:
    """The command line; the status is 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m build_engines.demo_voice", description=__doc__)
    parser.add_argument(
        "--work-dir", type=Path, default=_WORK_DIR, help="data and states; build/demo_voice unless said"
    )
    parser.add_argument("--output-dir", type=Path, default=_CHECKPOINT_DIR, help="the checkpoint")
    parser.add_argument("--part", choices=PARTS, help="this part alone, in this process")
    commands = parser.add_subparsers(dest="command")
    evaluate = commands.add_parser("evaluate", help="measure a checkpoint; the status tells whether it is good enough")
    evaluate.add_argument("--checkpoint", type=Path, required=True)
    evaluate.add_argument("--server", action="store_true", help="through a real server with int8 engines too")
    evaluate.add_argument("--num-utterances", type=int, default=200, help="a row; fewer are for a quick look")
    args = parser.parse_args()
    try:
        if args.command == "evaluate":
            from build_engines.demo_voice.evaluation import evaluate_checkpoint  # pocketsphinx is needed here alone

            return 0 if evaluate_checkpoint(args.checkpoint, args.num_utterances, through_server=args.server) else 1
        _make(args.work_dir.resolve(), args.output_dir.resolve(), args.part)
    except (EspeakMissing, OtherSettings, CheckpointError, PartFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _make(work_dir: Path, output_dir: Path, part: str | None) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=work_dir / "training.log", level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    workshop = Workshop(work_dir, Settings())
    if part is not None:
        os.nice(_NICENESS)
        # a process that outlived a killed run keeps its part until it is done with it
        with (work_dir / f"{part}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            PARTS[part].run(workshop)
        logging.info("%s: done", part)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as an interrupt does: the parts end too
    _run_all(workshop)
    print(workshop.assemble(output_dir))


def _run_all(workshop: Workshop) -> None:
    """Every part that is not done, two at a time, each in a process of its own.

    Raises:
        PartFailed: one did; the other one is waited for, and a next call goes on.
    """
    done = {name for name in PARTS if workshop.is_done(name)}
    running: dict[str, subprocess.Popen[bytes]] = {}
    lines: dict[str, int] = {}  # of the terminal, for each part's progress
    failed: list[str] = []
    try:
        while running or (len(done) < len(PARTS) and not failed):
            for name, part in PARTS.items():
                is_ready = name not in done and name not in running and done.issuperset(part.needs)
                if is_ready and not failed and len(running) < _NUM_PROCESSES:
                    lines[name] = min(set(range(_NUM_PROCESSES)) - {lines[other] for other in running})
                    is_last = len(done) == len(PARTS) - 1
                    running[name] = _start(workshop, name, lines[name], _NUM_PROCESSES if is_last else 1)
            time.sleep(_POLL_S)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                (done.add if running.pop(name).returncode == 0 else failed.append)(name)
    finally:
        for process in running.values():
            process.terminate()
    if failed:
        raise PartFailed(f"{', '.join(failed)} failed: see above, and {workshop.directory / 'training.log'}")


def _start(workshop: Workshop, name: str, line: int, num_threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "build_engines.demo_voice", "--work-dir", str(workshop.directory), "--part", name]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
    environment = os.environ | threads | {"TQDM_POSITION": str(line)}
    return subprocess.Popen(command, cwd=PROJECT_DIR, env=environment)


if __name__ == "__main__":
    sys.exit(main())
