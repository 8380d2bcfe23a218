"""`python -m build_engines`: from a checkpoint to engines that are checked and ready to serve."""

import argparse
import sys
from pathlib import Path

from build_engines import checks, download, synthetic
from build_engines.checkpoint import CheckpointError
from build_engines.repository import PRECISIONS, build_repository, repository_dir, verify_repository


def main() -> int:
    """Run one subcommand; the status is 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    repository = commands.add_parser("repository", help="build what is missing of a model repository; print its folder")
    verify = commands.add_parser("verify", help="compare every engine of a built repository with its reference")
    for command in (repository, verify):
        command.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
        command.add_argument("--precision", choices=PRECISIONS, default="int8", help="of the language model")

    fetch = commands.add_parser("download", help="fetch the published checkpoint from Hugging Face")
    fetch.add_argument("--output-dir", type=Path, required=True)

    make = commands.add_parser("synthetic", help="write a checkpoint of pseudo-random weights: noise instead of speech")
    make.add_argument("--size", choices=("tiny", "full"), required=True)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--output-dir", type=Path, required=True)

    args = parser.parse_args()
    try:
        if args.command == "download":
            download.download_checkpoint(args.output_dir)
        elif args.command == "synthetic":
            synthetic.write_synthetic_checkpoint(args.output_dir, args.size, args.seed)
        elif args.command == "repository":
            print(build_repository(args.model_dir, repository_dir(args.model_dir, args.precision), args.precision))
        else:
            directory = repository_dir(args.model_dir, args.precision)
            results = verify_repository(args.model_dir, directory, args.precision)
            print("\n".join(str(result) for result in results))
            checks.require(results)
    except (CheckpointError, checks.CheckFailed, download.DownloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
