"""`python -m benchmark`: measurements of a Tritone server, each a subcommand."""

import argparse
import sys
from pathlib import Path

from benchmark.speed import measure_speed, print_speed
from build_engines.repository import PRECISIONS, build_repository, repository_dir


def main() -> int:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed", help="decoding speed, RTF of one request and memory, in a server of its own")
    speed.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
    speed.add_argument("--precision", choices=PRECISIONS, default="int8", help="of the language model")
    speed.add_argument("--repetitions", type=int, default=5, help="runs per figure; the median is printed")
    speed.add_argument("--output", type=Path, help="write the figures here too, as JSON")
    args = parser.parse_args()

    repository = build_repository(args.model_dir, repository_dir(args.model_dir, args.precision), args.precision)
    print_speed(measure_speed(args.model_dir, repository, args.repetitions), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
