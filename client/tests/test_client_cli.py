"""The command line, from its arguments to the files, lines and exit codes it leaves."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tritone_client
from tritone_client.cli import main

WAIT_S = 30
README = Path(__file__).parents[1] / "README.md"
ONE_STEP = 1 / 32767  # of 16-bit audio


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    """Relative paths in the tests' commands lie in a folder of their own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tritone(fake_triton):
    """tritone(command line): runs it against the scripted server and returns its exit code."""

    def run(command: str) -> int:
        url = [] if command.startswith("voice show") else ["--url", fake_triton.url]
        return main([*shlex.split(command), *url])

    return run


def start(fake_triton, command: str, **options) -> subprocess.Popen:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tritone_client", *shlex.split(command), "--url", fake_triton.url],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(tritone_client.__file__).parents[1])},
        **options,
    )


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_say_writes_the_speech_and_one_line_about_it(fake_triton, tritone, capsys, stream):
    assert tritone(f"say hello --gender female {stream} -o out.wav") == 0
    waveform, sample_rate_hz = soundfile.read("out.wav", dtype="float32")
    np.testing.assert_allclose(waveform, fake_triton.waveform, atol=ONE_STEP)
    assert sample_rate_hz == 16000
    output = capsys.readouterr()
    assert output.out == ""
    number = r"\d+\.\d\d"
    line = rf"out\.wav: 0\.08 s of speech in {number} s \(first audio after {number} s, RTF {number}\)\n"
    assert re.fullmatch(line, output.err)


def test_stream_option_streams(fake_triton, tritone):
    tritone("say hello --gender female --stream -o out.wav")
    assert fake_triton.requests[-1].model_name == "spark_tts_stream"


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
def test_say_writes_the_format_of_the_suffix(tritone, suffix):
    assert tritone(f"say hello --gender female --stream -o out.{suffix}") == 0
    assert soundfile.info(f"out.{suffix}").format == suffix.upper()


def test_say_sends_every_option(fake_triton, tritone):
    command = (
        "say hello --gender male --pitch high --speed low --pitch-value 200 --speed-value 4 --temperature 0.5"
        " --top-k 10 --top-p 0.75 --repetition-penalty 1.5 --seed 7 --max-audio-s 2 -o out.wav"
    )
    assert tritone(command) == 0
    assert {name: array.item() for name, array in fake_triton.inputs().items()} == {
        **{"target_text": "hello", "gender": "male", "pitch": "high", "speed": "low"},
        **{"pitch_value": 200, "speed_value": 4, "temperature": 0.5, "top_k": 10, "top_p": 0.75},
        **{"repetition_penalty": 1.5, "seed": 7, "max_audio_s": 2.0},
    }


def test_zero_is_a_value_and_not_an_absent_option(fake_triton, tritone):
    assert tritone("say hello --gender male --pitch-value 0 --seed 0 -o out.wav") == 0
    assert fake_triton.inputs()["pitch_value"] == 0 and fake_triton.inputs()["seed"] == 0


def test_say_clones_a_reference_with_its_transcript(fake_triton, tritone, reference_wav):
    assert tritone("say hello --reference ann.wav --transcript 'what ann says' -o out.wav") == 0
    assert fake_triton.inputs().keys() == {
        "target_text",
        "reference_wav",
        "reference_wav_len",
        "reference_text",
    }


def test_say_speaks_with_a_made_voice_file(fake_triton, tritone, reference_wav):
    assert tritone("voice make ann.wav -o ann.json") == 0
    assert tritone("say hello --voice ann.json -o out.wav") == 0
    np.testing.assert_array_equal(fake_triton.inputs()["global_tokens"], fake_triton.global_tokens[None])


def test_say_speaks_with_a_voice_stored_on_the_server(fake_triton, tritone):
    assert tritone("say hello --voice ann -o out.wav") == 0
    assert fake_triton.inputs()["voice"].item() == "ann"


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_say_keeps_the_voice_that_spoke(fake_triton, tritone, stream):
    assert tritone(f"say hello --gender female {stream} --save-voice kept.json -o out.wav") == 0
    assert json.loads(Path("kept.json").read_text())["global_tokens"] == fake_triton.global_tokens.tolist()


def test_text_can_come_from_standard_input(fake_triton, tritone, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert tritone("say - --gender female -o out.wav") == 0
    assert fake_triton.inputs()["target_text"].item() == "from a pipe"


def test_text_can_come_from_a_file(fake_triton, tritone):
    Path("story.txt").write_text("\ufeffOnce upon a time. 从前。\n", encoding="utf-8")
    assert tritone("say --text-file story.txt --gender female -o out.wav") == 0
    assert fake_triton.inputs()["target_text"].item() == "Once upon a time. 从前。"


def test_text_file_can_be_standard_input(fake_triton, tritone, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert tritone("say --gender female --text-file - -o out.wav") == 0
    assert fake_triton.inputs()["target_text"].item() == "from a pipe"


def test_text_may_stand_after_the_options(fake_triton, tritone):
    assert tritone("say --gender female --stream -o out.wav hello") == 0
    assert fake_triton.inputs()["target_text"].item() == "hello"


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_normalize_option_normalises_the_text(fake_triton, tritone, stream):
    assert tritone(f"say '2 dogs' --normalize --gender female {stream} -o out.wav") == 0
    assert fake_triton.inputs()["normalize_text"].item() is True


@pytest.mark.parametrize("stream", ["", "--stream"])
@pytest.mark.parametrize(
    ("end_reason", "warning"),
    [
        ("max_audio_s", "the speech was cut at the longest allowed (--max-audio-s, or the server's own limit)"),
        ("run_on", "the model did not end by itself, and the speech was cut where it stopped making sense"),
        ("tired", "the speech ended early: tired"),
    ],
)
def test_speech_that_was_cut_is_written_with_a_warning(fake_triton, tritone, capsys, stream, end_reason, warning):
    fake_triton.end_reason = end_reason
    assert tritone(f"say hello --gender female {stream} -o out.wav") == 0
    assert soundfile.info("out.wav").frames == len(fake_triton.waveform)
    summary, line = capsys.readouterr().err.splitlines()
    assert summary.startswith("out.wav: 0.08 s of speech")
    assert line.startswith(f"tritone: warning: {warning}")


def test_older_server_is_no_reason_for_a_warning(fake_triton, tritone, capsys):
    fake_triton.end_reason = None
    assert tritone("say hello --gender female --stream -o out.wav") == 0
    assert "warning" not in capsys.readouterr().err


def test_ten_minutes_are_written_as_they_come_and_not_kept(tritone):
    tracemalloc.start()
    try:
        assert tritone("say long --gender female --stream -o out.wav") == 0
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert soundfile.info("out.wav").frames == 600 * 16000
    assert peak_bytes < 600 * 16000 * 4 / 2  # of all samples as float32


def test_ten_minutes_at_once_are_written_as_ogg(fake_triton):
    process = start(fake_triton, "say long --gender female -o out.ogg")  # a process: libsndfile could crash it
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert soundfile.info("out.ogg").frames == 600 * 16000


def test_long_stream_shows_its_progress_on_a_terminal_and_removes_it(tritone, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert tritone("say hello --gender female --stream -o out.wav") == 0
    shown, summary = capsys.readouterr().err.split("\r\x1b[K")
    assert shown == "\r0.0 s of speech so far\r0.1 s of speech so far\r0.1 s of speech so far"
    assert summary.startswith("out.wav: 0.08 s of speech")


def test_piped_output_is_wav_of_unknown_length(fake_triton):
    process = start(fake_triton, "say hello --gender female --stream -o -", stdout=subprocess.PIPE)
    wav, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert wav[40:44] == b"\xff\xff\xff\xff"
    waveform, sample_rate_hz = soundfile.read(io.BytesIO(wav), dtype="float32")
    np.testing.assert_allclose(waveform, fake_triton.waveform, atol=ONE_STEP)
    assert sample_rate_hz == 16000


def test_output_redirected_to_a_file_is_wav_of_the_right_length(fake_triton):
    with Path("out.wav").open("wb") as file:
        process = start(fake_triton, "say hello --gender female --stream -o -", stdout=file)
        assert process.wait(WAIT_S) == 0
    num_bytes = Path("out.wav").stat().st_size
    assert num_bytes == 44 + 2 * len(fake_triton.waveform)
    assert int.from_bytes(Path("out.wav").read_bytes()[40:44], "little") == num_bytes - 44
    assert soundfile.info("out.wav").frames == len(fake_triton.waveform)


def test_reader_of_standard_output_may_go_away(fake_triton):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(fake_triton, "say hello --gender female --stream -o -", stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=WAIT_S)
    assert (process.returncode, error) == (2, b"tritone: standard output was closed\n")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("say hello -o out.wav", "--reference --voice --gender"),
        ("say --gender female -o out.wav", "text --text-file"),
        ("say hello --text-file story.txt --gender female -o out.wav", "not allowed with"),
        ("say hello --gender female --voice ann -o out.wav", "not allowed with"),
        ("say hello --gender female", "-o"),
        ("say hello --gender robot -o out.wav", "'robot'"),
        ("say hello --voice ann --pitch high -o out.wav", "--pitch needs --gender"),
        ("say hello --reference ann.wav --speed-value 3 -o out.wav", "--speed-value needs --gender"),
        ("say hello --voice ann --transcript hi -o out.wav", "--transcript needs --reference"),
    ],
)
def test_wrong_usage_is_explained(tritone, capsys, command, complaint):
    with pytest.raises(SystemExit) as exit_:
        tritone(command)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("say hello --reference missing.wav -o out.wav", "missing.wav"),
        ("say hello --voice missing.json -o out.wav", "missing.json"),
        ("say --text-file missing.txt --gender female -o out.wav", "missing.txt"),
        ("say --text-file ann.wav --gender female -o out.wav", "ann.wav is not a text in UTF-8"),
        ("say hello --gender female -o out.docx", "'.docx'"),
        ("say hello --gender female -o missing/out.wav", "missing/out.wav cannot be written"),
        ("say hello --gender female --seed -1 -o out.wav", "seed must be within"),
        ("say bad --gender female -o out.wav", "target_text must be good"),
        ("voice show missing.json", "missing.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tritone, capsys, reference_wav, command, complaint):
    assert tritone(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("tritone: ") and error.count("\n") == 1 and complaint in error


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_servers_failure_is_one_line_and_exit_code_1_and_leaves_no_file(tritone, capsys, stream):
    assert tritone(f"say busy --gender female {stream} -o out.wav") == 1
    assert capsys.readouterr().err == "tritone: too many requests: try again in about 2 s\n"
    assert not Path("out.wav").exists()


def test_stream_without_audio_is_a_failure_of_the_server(tritone, capsys):
    assert tritone("say empty --gender female --stream -o out.wav") == 1
    assert capsys.readouterr().err == "tritone: the server ended the request without any audio\n"


def test_voice_show_says_what_a_voice_holds(tritone, capsys, reference_wav):
    tritone("voice make ann.wav --transcript 'what ann says' -o ann.json")
    assert tritone("voice show ann.json") == 0
    shown = capsys.readouterr().out
    assert "global tokens: 32" in shown
    assert "semantic tokens: 4 (0.08 s of speech)" in shown
    assert "transcript: what ann says" in shown


def test_voice_show_says_when_a_voice_is_the_timbre_alone(tritone, capsys, reference_wav):
    tritone("voice make ann.wav -o ann.json")
    assert tritone("voice show ann.json") == 0
    assert "semantic tokens: none" in capsys.readouterr().out


@pytest.mark.parametrize("stream", ["", "--stream"])
def test_ctrl_c_cancels_the_request_on_the_server_and_exits_130(fake_triton, stream):
    process = start(fake_triton, f"say hang --gender female {stream} -o out.wav")
    assert fake_triton.hanging.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=WAIT_S)
    assert (process.returncode, error) == (130, b"tritone: interrupted\n")
    assert fake_triton.cancelled.wait(WAIT_S)


def test_readmes_commands_run(tritone, reference_wav):
    Path("story.txt").write_text("Once upon a time.")
    commands = re.search(r"```sh\n(.*?)```", README.read_text(), flags=re.DOTALL)[1].splitlines()
    assert commands
    for command in commands:
        assert tritone(command.removeprefix("tritone ")) == 0, command
