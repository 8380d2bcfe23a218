"""`python -m benchmark`: measurements of Tritone, each a subcommand.

What reads engines is imported by the subcommands that do: it brings PyTorch, and a load test needs none.
"""

import argparse
import asyncio
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tritone_client import TritoneError
from tritone_client.cli import add_tls_options, chosen_tls

from benchmark.capacity import print_capacity
from benchmark.compare import print_comparison
from benchmark.html_report import write_html
from benchmark.load import AUDIO_S
from benchmark.metrics import Slo
from benchmark.perf_analyzer import measure_peers, print_peers
from benchmark.report import PUBLISHED_L20, PublishedTable, print_run, readme_table, write_csv, write_into
from benchmark.results import MODES, BenchmarkError, Run, RunSettings
from benchmark.run import measure_run
from benchmark.worklists import WorklistError, load_worklist
from build_engines.profiles import PRECISIONS, PROFILES
from tritone.serve import DEFAULT_GRPC_PORT, DEFAULT_METRICS_PORT, ServerError, TritonServer

BESIDE = {"published-l20": PUBLISHED_L20}


def main() -> int:
    """Run one measurement and print it; the status is 1, after one line, when nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, handle: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(handle=handle)
        return subparser

    _add_run_options(command("run", _run, "a server under load: waits, RTF and throughput at each level; a report"))

    compare = command("compare", _compare, "ratios of two runs, and whether they are more than noise")
    compare.add_argument("first", type=Path, help="a run.json")
    compare.add_argument("second", type=Path, help="another one; under 1 it is better")

    table = command("table", _table, "a run as a table in Markdown")
    table.add_argument("run", type=Path, help="a run.json")
    table.add_argument("--into", type=Path, help="a Markdown file with marks to put it between, instead of printing it")

    capacity = command("capacity", _capacity, "how many pods a load needs, from a run's measured curves")
    capacity.add_argument("--result", type=Path, required=True, help="the run.json of one pod")
    capacity.add_argument("--streams", type=_positive_number, required=True, help="listeners at a time")
    capacity.add_argument(
        "--slo", type=_slo, required=True, help="what a good request keeps, as ttfa=0.3 (also rtf, latency)"
    )
    capacity.add_argument("--share", type=_share, default=0.95, help="of the requests that shall keep it, 0..1")

    peer = command(
        "peer", _peer, "a running server's times by our client and by NVIDIA's perf_analyzer; 1: they differ"
    )
    peer.add_argument("--url", default=f"localhost:{DEFAULT_GRPC_PORT}", help="host:port of its gRPC endpoint")
    peer.add_argument("--concurrency", type=_positive, default=1, help="requests at a time")
    peer.add_argument("--requests", type=_positive, default=10, help="in each round; no fewer than --concurrency")
    peer.add_argument("--fixed-tokens", type=_positive, default=100, help="the length of each request's speech")

    speed = command("speed", _speed, "decoding speed, RTF of one request and memory, in a server of its own")
    streams = command("streams", _streams, "concurrent streams, also without Triton and the published way")
    seams = command("seams", _seams, "streamed waveforms against whole ones, and against plain chunking's")
    for subparser in (speed, streams, seams):
        subparser.set_defaults(profile="cpu")
        subparser.add_argument("--model-dir", type=Path, required=True, help="a checkpoint in Spark-TTS's layout")
        _add_precision(subparser)
    for subparser in (speed, streams):
        subparser.add_argument("--output", type=Path, help="write the figures here too, as JSON")

    speed.add_argument("--repetitions", type=_positive, default=5, help="runs per figure; the median is printed")
    streams.add_argument("--concurrency", type=_list_of(_positive), default=(1, 2, 4, 8, 16), help="as 1,2,4")
    streams.add_argument("--audio-s", type=float, default=AUDIO_S, help="length of each request's speech")
    streams.add_argument("--requests-per-stream", type=_positive, default=3)
    streams.add_argument("--repetitions", type=_positive, default=1, help="runs per level; rates are their medians")
    streams.add_argument("--no-published", action="store_true", help="leave out the published way, which is slow")

    args = parser.parse_args()
    try:
        return args.handle(args)
    except (BenchmarkError, WorklistError, ServerError, TritoneError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    default = RunSettings()
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--url", help="host:port of a running server's gRPC endpoint")
    server.add_argument("--model-dir", type=Path, help="a checkpoint, to be served for the time of the run")
    parser.add_argument("--profile", choices=PROFILES, default="cpu", help="of the engines for --model-dir")
    _add_precision(parser)
    parser.add_argument("--metrics-url", help=f"host:port of its metrics; else the same host, {DEFAULT_METRICS_PORT}")
    add_tls_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument(
        "--mode", type=_list_of(_mode), default=default.modes, help="stream, whole or both: stream,whole"
    )
    parser.add_argument(
        "--concurrency", type=_list_of(_positive), help="closed loop: numbers of streams, as 1,2,4,8,16"
    )
    parser.add_argument("--rate", type=_list_of(_positive_number), help="open loop: requests a second, as 0.5,1,2")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--requests", type=_positive, help="of each level; else one pass over the work list at least")
    bound.add_argument("--duration", type=_positive_number, help="of each level in seconds")
    parser.add_argument("--warm-up", type=int, default=default.num_warm_up, help="requests per stream to leave out")
    parser.add_argument("--worklist", default="builtin", help="builtin, demo, a .jsonl, a .lst or hf:OWNER/NAME:SPLIT")
    parser.add_argument("--fixed-tokens", type=_positive, help="the length of every utterance, 50 a second")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the first request, and of the arrivals")
    parser.add_argument("--timeout", type=_positive_number, default=default.timeout_s, help="of a request in seconds")
    parser.add_argument(
        "--slo", type=_slo, help="what a good request keeps, as ttfa=0.3,rtf=1 (also latency, prebuffer)"
    )
    parser.add_argument("--beside", choices=BESIDE, help="show these figures, of another machine, too")


def _run(args: argparse.Namespace) -> int:
    utterances = load_worklist(args.worklist)
    concurrency = args.concurrency or (() if args.rate else RunSettings().concurrency)
    settings = RunSettings(
        modes=args.mode,
        concurrency=concurrency,
        rates_per_s=args.rate or (),
        num_requests=args.requests,
        duration_s=args.duration,
        num_warm_up=args.warm_up,
        fixed_tokens=args.fixed_tokens,
        seed=args.seed,
        timeout_s=args.timeout,
        slo=args.slo,
    )
    try:
        tls = chosen_tls(args)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    if tls is not None and args.url is None:
        raise BenchmarkError("--tls is for --url: the server of --model-dir is this machine's own")
    args.out.mkdir(parents=True, exist_ok=True)
    beside = PublishedTable.load(BESIDE[args.beside]) if args.beside else None
    with ExitStack() as stack:
        if args.model_dir is not None:
            log_path = args.out / "server.log"
            server = stack.enter_context(TritonServer.on_free_ports(_repository(args), log_path=log_path))
            url, metrics_url = server.grpc_url, f"{server.host}:{server.metrics_port}"
        else:
            url = args.url
            metrics_url = args.metrics_url or f"{url.rpartition(':')[0]}:{DEFAULT_METRICS_PORT}"
        run = asyncio.run(measure_run(url, metrics_url, settings, args.worklist, utterances, tls))
    if not run.measurements:
        raise BenchmarkError("interrupted before anything was measured")
    run.save(args.out / "run.json")
    write_csv(run, args.out / "levels.csv", args.out / "requests.csv")
    write_html(run, args.out / "report.html", beside)
    print_run(run, beside)
    print(f"\n{args.out / 'report.html'}, run.json, levels.csv, requests.csv")
    return 0


def _compare(args: argparse.Namespace) -> int:
    print_comparison(Run.load(args.first), Run.load(args.second))
    return 0


def _capacity(args: argparse.Namespace) -> int:
    print_capacity(Run.load(args.result), args.streams, args.slo, args.share)
    return 0


def _peer(args: argparse.Namespace) -> int:
    if args.concurrency > args.requests:  # perf_analyzer begins with a request for each place
        raise BenchmarkError(f"--requests must be --concurrency or more, got {args.requests} of {args.concurrency}")
    peers = measure_peers(
        args.url, concurrency=args.concurrency, requests_per_round=args.requests, fixed_tokens=args.fixed_tokens
    )
    print_peers(peers)
    return 0 if peers.first_response.agrees and peers.end.agrees else 1


def _table(args: argparse.Namespace) -> int:
    text = readme_table(Run.load(args.run))
    if args.into is None:
        print(text)
    else:
        write_into(args.into, text)
    return 0


def _speed(args: argparse.Namespace) -> int:
    from benchmark.speed import measure_speed, print_speed

    print_speed(measure_speed(args.model_dir, _repository(args), args.repetitions), args.output)
    return 0


def _streams(args: argparse.Namespace) -> int:
    from benchmark.streams import Settings, measure_streams, print_streams

    settings = Settings(
        concurrency=args.concurrency,
        audio_s=args.audio_s,
        requests_per_stream=args.requests_per_stream,
        num_repetitions=args.repetitions,
        with_published=not args.no_published,
    )
    print_streams(measure_streams(args.model_dir, _repository(args), settings), args.output)
    return 0


def _seams(args: argparse.Namespace) -> int:
    from benchmark.seams import measure_seams, print_seams

    print_seams(measure_seams(_repository(args)))
    return 0


def _repository(args: argparse.Namespace) -> Path:
    """Build what is missing of the checkpoint's repository, in a process of its own: what a load generator measures
    shall not depend on what was built before in its process."""
    command = [sys.executable, "-m", "build_engines", "repository", "--model-dir", str(args.model_dir)]
    command += ["--profile", args.profile, *(["--precision", args.precision] if args.precision else [])]
    built = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if built.returncode:
        raise SystemExit(built.returncode)  # it has said why
    return Path(built.stdout.strip())


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS["cpu"], help="of the language model; else the profile's own")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be over 0, got {text}")
    return number


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return share


def _mode(text: str) -> str:
    if text not in MODES:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(MODES)}, got {text!r}")
    return text


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(","))

    return parse


def _slo(text: str) -> Slo:
    names = [field.name for field in dataclasses.fields(Slo)]
    bounds = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in names or name in bounds:
            raise argparse.ArgumentTypeError(
                f"must be like ttfa=0.3,rtf=1 with each of {', '.join(names)} at most once"
            )
        bounds[name] = _positive_number(number)
    return Slo(**bounds)


if __name__ == "__main__":
    sys.exit(main())
