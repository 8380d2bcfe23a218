"""`python -m benchmark`: measurements of Tritone, each a subcommand."""

import argparse
import sys
from pathlib import Path

from benchmark.seams import measure_seams, print_seams
from benchmark.speed import measure_speed, print_speed
from benchmark.streams import Settings, measure_streams, print_streams
from build_engines.repository import PRECISIONS, build_repository, repository_dir


def main() -> int:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("speed", help="decoding speed, RTF of one request and memory, in a server of its own")
    streams = commands.add_parser(
        "streams", help="throughput and waits of concurrent streams, also without Triton and the published way"
    )
    seams = commands.add_parser("seams", help="streamed waveforms against whole ones, and against plain chunking's")
    for command in (speed, streams, seams):
        command.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
        command.add_argument("--precision", choices=PRECISIONS, default="int8", help="of the language model")
    for command in (speed, streams):
        command.add_argument("--output", type=Path, help="write the figures here too, as JSON")

    speed.add_argument("--repetitions", type=_positive, default=5, help="runs per figure; the median is printed")
    default = Settings()
    streams.add_argument(
        "--concurrency", type=_positives, default=default.concurrency, help="numbers of streams, as 1,2,4"
    )
    streams.add_argument("--audio-s", type=float, default=default.audio_s, help="length of each request's speech")
    streams.add_argument("--requests-per-stream", type=_positive, default=default.requests_per_stream)
    streams.add_argument(
        "--repetitions", type=_positive, default=default.num_repetitions, help="runs per level; rates are their medians"
    )
    streams.add_argument("--no-published", action="store_true", help="leave out the published way, which is slow")
    args = parser.parse_args()

    repository = build_repository(args.model_dir, repository_dir(args.model_dir, args.precision), args.precision)
    if args.command == "speed":
        print_speed(measure_speed(args.model_dir, repository, args.repetitions), args.output)
    elif args.command == "streams":
        settings = Settings(
            concurrency=args.concurrency,
            audio_s=args.audio_s,
            requests_per_stream=args.requests_per_stream,
            num_repetitions=args.repetitions,
            with_published=not args.no_published,
        )
        print_streams(measure_streams(args.model_dir, repository, settings), args.output)
    else:
        print_seams(measure_seams(repository))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _positives(text: str) -> tuple[int, ...]:
    return tuple(_positive(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
