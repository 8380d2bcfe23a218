"""`python -m build_engines`: from a checkpoint to engines that are checked and ready to serve."""

import argparse
import sys
from pathlib import Path

from build_engines import checks, download, self_check, synthetic, trtllm
from build_engines.checkpoint import Checkpoint, CheckpointError
from build_engines.profiles import PRECISIONS, PROFILES
from build_engines.repository import build_repository, repository_dir, verify_repository
from build_engines.trtllm_engine import TrtllmError
from tritone.tensorrt_engine import TensorRtError


def main() -> int:
    """Run one subcommand; the status is 0, or 1 with one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m build_engines", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    repository = commands.add_parser("repository", help="build what is missing of a model repository; print its folder")
    verify = commands.add_parser("verify", help="compare every engine of a built repository with its reference")
    for command in (repository, verify):
        command.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
        command.add_argument("--profile", choices=PROFILES, default="cpu")
        precisions = ", ".join(f"{'|'.join(names)} ({profile})" for profile, names in PRECISIONS.items())
        command.add_argument("--precision", help=f"of the language model: {precisions}; the first unless said")
        command.add_argument("--output-dir", type=Path, help="build/PROFILE/CHECKPOINT-PRECISION unless said")
    repository.add_argument("--served-from", type=Path, help="where the repository is moved to before it is served")

    lm = commands.add_parser("lm-checkpoint", help="convert the language model to a TensorRT-LLM checkpoint")
    lm.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
    lm.add_argument("--precision", choices=PRECISIONS["gpu"], default="bf16", help="of the engine to be built of it")
    lm.add_argument("--output-dir", type=Path, required=True)

    fetch = commands.add_parser("download", help="fetch the published checkpoint from Hugging Face")
    fetch.add_argument("--output-dir", type=Path, required=True)

    make = commands.add_parser("synthetic", help="write a checkpoint of pseudo-random weights: noise instead of speech")
    make.add_argument("--size", choices=("tiny", "full"), required=True)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--output-dir", type=Path, required=True)

    check = commands.add_parser("check", help="build, verify, test and measure on this machine; write one report")
    check.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
    check.add_argument("--profile", choices=PROFILES, default="gpu")
    check.add_argument("--concurrency", default=self_check.CONCURRENCY, help="levels of the benchmark")
    check.add_argument("--output-dir", type=Path, required=True)

    args = parser.parse_args()
    try:
        if args.command == "download":
            download.download_checkpoint(args.output_dir)
        elif args.command == "synthetic":
            synthetic.write_synthetic_checkpoint(args.output_dir, args.size, args.seed)
        elif args.command == "check":
            passed = self_check.self_check(args.model_dir, args.profile, args.output_dir, args.concurrency)
            print(args.output_dir / "check.md")
            return 0 if passed else 1
        elif args.command == "lm-checkpoint":
            print(trtllm.write_lm_checkpoint(Checkpoint.open(args.model_dir), args.output_dir, args.precision))
        else:
            _repository(parser, args)
    except (CheckpointError, checks.CheckFailed, download.DownloadError, TrtllmError, TensorRtError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _repository(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    precision = args.precision or PRECISIONS[args.profile][0]
    if precision not in PRECISIONS[args.profile]:
        parser.error(f"--precision {precision}: the {args.profile} profile has {', '.join(PRECISIONS[args.profile])}")
    directory = args.output_dir or repository_dir(args.model_dir, precision, args.profile)
    if args.command == "repository":
        print(build_repository(args.model_dir, directory, precision, args.profile, args.served_from))
    else:
        results = verify_repository(args.model_dir, directory, precision, args.profile)
        print("\n".join(str(result) for result in results))
        checks.require(results)


if __name__ == "__main__":
    sys.exit(main())
