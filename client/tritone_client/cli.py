"""The command line `tritone`.

Exit codes: 0 done; 1 the server failed or could not be reached; 2 wrong usage or input; 130 Ctrl-C.

Requests, and nothing else that could wait, run within asyncio.run: it turns Ctrl-C into the cancellation of a task.
A KeyboardInterrupt within gRPC's Python code could leave a lock locked, and then even the exit hangs.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast, get_args

from tritone_client.aio import AsyncTritone
from tritone_client.audio import check_writable_suffix
from tritone_client.connection import Tls
from tritone_client.errors import TritoneError
from tritone_client.messages import SAMPLING_DTYPES, Sampling
from tritone_client.output import STANDARD_OUTPUT, ProgressLine, open_output
from tritone_client.speech import Speech
from tritone_client.voices import (
    ControlledVoice,
    Gender,
    Level,
    ReferenceVoice,
    StoredVoice,
    TokenVoice,
    Voice,
)

SEMANTIC_TOKENS_PER_SECOND = 50
STANDARD_INPUT = "-"

# What to say of speech that did not end as it should, by its end_reason.
END_REASON_WARNINGS = {
    "max_audio_s": "the speech was cut at the longest allowed (--max-audio-s, or the server's own limit)",
    "run_on": "the model did not end by itself, and the speech was cut where it stopped making sense; another --seed"
    " may help",
}

# Options that only mean something beside another one, by the option that they belong to.
DEPENDENT_OPTIONS = {
    "reference": ("transcript",),
    "gender": ("pitch", "speed", "pitch_value", "speed_value"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; wrong usage raises SystemExit(2), as argparse does."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print("tritone: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the player at the other end of `-o -` is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        print("tritone: standard output was closed", file=sys.stderr)
        return 2
    except TritoneError as error:
        print(f"tritone: {error}", file=sys.stderr)
        return 2 if error.status == "INVALID_ARGUMENT" else 1
    except (ValueError, OSError) as error:
        print(f"tritone: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tritone", description="Speech from a Tritone server.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_say(commands)
    voice = commands.add_parser(
        "voice", help="make and inspect voice files", description="Make and inspect voice files."
    )
    voice_commands = voice.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_voice_make(voice_commands)
    _add_voice_show(voice_commands)
    return parser


def _add_say(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "say",
        help="speak a text into an audio file",
        description="Speak a text into an audio file, with one of three kinds of voice.",
        epilog="examples: tritone say 'hello' --reference ann.wav -o hello.wav; "
        "tritone say 'hello' --gender female --pitch high --stream -o - | aplay",
    )
    parser.set_defaults(run=lambda args: say(args, parser))
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("text", nargs="?", help="what to say; - reads it from standard input")
    text.add_argument(
        "--text-file", metavar="FILE", help="read what to say from this file, in UTF-8; - is standard input"
    )
    parser.add_argument("--normalize", action="store_true", help="speak numbers, dates and units as words")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="audio file to write, in its suffix's format (.wav, .flac, .mp3, .ogg, ...); - is WAV on stdout",
    )
    parser.add_argument("--stream", action="store_true", help="write each piece as soon as it is made")
    parser.add_argument("--save-voice", metavar="FILE.json", help="also keep the voice that spoke, for --voice")
    _add_url(parser)

    voice = parser.add_argument_group("voice (one of the first three)")
    kind = voice.add_mutually_exclusive_group(required=True)
    kind.add_argument("--reference", metavar="AUDIO", help="clone the voice of this recording")
    kind.add_argument(
        "--voice",
        metavar="VOICE",
        help="a voice file (FILE.json), or the name of a voice stored on the server",
    )
    kind.add_argument("--gender", choices=get_args(Gender), help="make up a voice")
    voice.add_argument("--transcript", metavar="TEXT", help="with --reference: what the recording says, word for word")
    voice.add_argument("--pitch", choices=get_args(Level), help="with --gender: moderate unless said")
    voice.add_argument("--speed", choices=get_args(Level), help="with --gender: moderate unless said")
    voice.add_argument("--pitch-value", type=int, metavar="MEL", help="with --gender: the exact pitch, 0..1000 mel")
    voice.add_argument("--speed-value", type=int, metavar="N", help="with --gender: the exact speed, 0..10 syllables/s")

    sampling = parser.add_argument_group("sampling (the server's defaults unless said)")
    sampling.add_argument("--temperature", type=float, metavar="X", help="how freely tokens are drawn")
    sampling.add_argument("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens")
    sampling.add_argument(
        "--top-p", type=float, metavar="X", help="draw from the likeliest tokens of this total probability"
    )
    sampling.add_argument("--repetition-penalty", type=float, metavar="X", help="over 1 discourages repetition")
    sampling.add_argument("--seed", type=int, metavar="N", help="the same seed repeats the speech (on an idle server)")
    sampling.add_argument("--max-audio-s", type=float, metavar="SECONDS", help="stop at this length")


def _add_voice_make(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "make",
        help="turn a recording into a voice file",
        description="Turn a recording into a voice file, for `tritone say --voice` or for the server.",
    )
    parser.set_defaults(run=make_voice)
    parser.add_argument("reference", metavar="AUDIO", help="the recording")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.json", help="voice file to write")
    parser.add_argument(
        "--transcript",
        metavar="TEXT",
        help="what the recording says, word for word; keeps its manner of speaking too",
    )
    _add_url(parser)


def _add_voice_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("show", help="say what a voice file holds", description="Say what a voice file holds.")
    parser.set_defaults(run=show_voice)
    parser.add_argument("voice", metavar="FILE.json", help="the voice file")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        default="localhost:8001",
        metavar="HOST:PORT",
        help="the server's gRPC endpoint (default: %(default)s)",
    )
    add_tls_options(parser)


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    """The options that `chosen_tls` understands."""
    parser.add_argument("--tls", action="store_true", help="speak TLS with the server")
    parser.add_argument(
        "--tls-ca", metavar="FILE", help="with --tls: the authority of the server's certificate, in PEM"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="with --tls: your own certificate, for a server that asks")
    parser.add_argument("--tls-key", metavar="FILE", help="with --tls-cert: its key")


def say(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """`tritone say`: one request, its speech into a file, one line about it on standard error."""
    for owner, dependents in DEPENDENT_OPTIONS.items():
        for dependent in dependents:
            if getattr(args, dependent) is not None and getattr(args, owner) is None:
                parser.error(f"--{dependent.replace('_', '-')} needs --{owner}")
    if args.output != STANDARD_OUTPUT:
        check_writable_suffix(args.output)
    text = _chosen_text(args)
    voice = _chosen_voice(args)
    chosen = {name: value for name, value in vars(args).items() if name in SAMPLING_DTYPES and value is not None}
    sampling = cast(Sampling, chosen)

    started_at = perf_counter()
    spoken = asyncio.run(_receive(args, text, voice, sampling))
    latency_s, first_audio_s = perf_counter() - started_at, spoken.first_audio_at - started_at
    if args.save_voice is not None:
        spoken.last_piece.voice().save(args.save_voice)
    print(
        f"{args.output}: {spoken.duration_s:.2f} s of speech in {latency_s:.2f} s"
        f" (first audio after {first_audio_s:.2f} s, RTF {latency_s / spoken.duration_s:.2f})",
        file=sys.stderr,
    )
    end_reason = spoken.last_piece.end_reason
    if end_reason not in ("complete", None):
        warning = END_REASON_WARNINGS.get(end_reason, f"the speech ended early: {end_reason}")
        print(f"tritone: warning: {warning}", file=sys.stderr)


def make_voice(args: argparse.Namespace) -> None:
    """`tritone voice make`."""
    reference, tls = ReferenceVoice.from_file(args.reference, args.transcript), chosen_tls(args)

    async def request_voice() -> TokenVoice:
        async with AsyncTritone(args.url, tls=tls) as tritone:
            return await tritone.make_voice(reference)

    asyncio.run(request_voice()).save(args.output)


def show_voice(args: argparse.Namespace) -> None:
    """`tritone voice show`."""
    voice = TokenVoice.load(args.voice)
    print(f"global tokens: {len(voice.global_tokens)} (the timbre)")
    if voice.semantic_tokens is None:
        print("semantic tokens: none (made without a transcript)")
    else:
        duration_s = len(voice.semantic_tokens) / SEMANTIC_TOKENS_PER_SECOND
        print(f"semantic tokens: {len(voice.semantic_tokens)} ({duration_s:.2f} s of speech)")
        print(f"transcript: {voice.transcript}")


def _chosen_text(args: argparse.Namespace) -> str:
    if STANDARD_INPUT in (args.text, args.text_file):
        return sys.stdin.read().strip()
    if args.text_file is None:
        return args.text
    try:
        return Path(args.text_file).read_text(encoding="utf-8-sig").strip()  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{args.text_file} is not a text in UTF-8: {error}") from error


def _chosen_voice(args: argparse.Namespace) -> Voice:
    if args.reference is not None:
        return ReferenceVoice.from_file(args.reference, args.transcript)
    if args.gender is not None:
        return ControlledVoice(
            args.gender,
            args.pitch or "moderate",
            args.speed or "moderate",
            args.pitch_value,
            args.speed_value,
        )
    return TokenVoice.load(args.voice) if Path(args.voice).suffix == ".json" else StoredVoice(args.voice)


def chosen_tls(args: argparse.Namespace) -> Tls | None:
    """How to speak with the server by the options of `add_tls_options`; None: plain.

    Raises:
        ValueError: files are given that do not go together.
    """
    files = (args.tls_ca, args.tls_cert, args.tls_key)
    if not args.tls:
        if files != (None, None, None):
            raise ValueError("--tls-ca, --tls-cert and --tls-key need --tls")
        return None
    return Tls(*files)


@dataclass(frozen=True)
class _Spoken:
    """What is kept of speech whose samples are in the output: not those, since they may be many minutes."""

    last_piece: Speech
    duration_s: float
    first_audio_at: float


async def _receive(args: argparse.Namespace, text: str, voice: Voice, sampling: Sampling) -> _Spoken:
    """Writes the speech to the output as it comes.

    Raises:
        TritoneError: the server refused the request, failed or gave no audio.
    """
    last_piece, duration_s, first_audio_at = None, 0.0, perf_counter()
    async with AsyncTritone(args.url, tls=chosen_tls(args)) as tritone:
        with ExitStack() as open_files:
            async with aclosing(_speak(args, tritone, text, voice, sampling)) as speaking:
                async for piece in speaking:
                    if last_piece is None:  # the output is opened only now: a refused request leaves no empty file
                        first_audio_at = perf_counter()
                        output = open_files.enter_context(open_output(args.output, sys.stdout.buffer))
                        progress = open_files.enter_context(ProgressLine(sys.stderr))
                    output.write(piece.waveform)
                    duration_s += piece.duration_s
                    progress.show(duration_s)
                    last_piece = piece
    if last_piece is None or not duration_s:
        raise TritoneError("INTERNAL", "the server ended the request without any audio")
    return _Spoken(last_piece, duration_s, first_audio_at)


async def _speak(
    args: argparse.Namespace, tritone: AsyncTritone, text: str, voice: Voice, sampling: Sampling
) -> AsyncGenerator[Speech]:
    keep_tokens = args.save_voice is not None
    if args.stream:
        async for piece in tritone.stream(
            text, voice=voice, keep_tokens=keep_tokens, normalize_text=args.normalize, **sampling
        ):
            yield piece
    else:
        yield await tritone.synthesize(
            text, voice=voice, keep_tokens=keep_tokens, normalize_text=args.normalize, **sampling
        )
