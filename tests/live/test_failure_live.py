"""A model's process dies: who waits for it is told at once, and the launcher ends with an error that names it."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tritone_client import ControlledVoice, Tritone, TritoneError

from demo.lines import DEMO_SENTENCES
from tests.live.launching import launched

TEXT = "\n".join(f"{sentence}." for sentence in DEMO_SENTENCES[:30])
VOICE = ControlledVoice("female", pitch="high")
NOTICED_S = 10  # usually within one; a machine may be busy


@pytest.mark.parametrize("model", ["speech_lm", "vocoder", "spark_tts_stream"])
def test_requests_fail_at_once_when_a_model_s_process_is_killed(
    demo_repository: Path, tmp_path: Path, model: str
) -> None:
    with (
        launched(demo_repository, tmp_path / "log") as server,
        Tritone(server.grpc_url, timeout_s=120) as tritone,
        ThreadPoolExecutor() as pool,
    ):
        stream = tritone.stream(TEXT, voice=VOICE, seed=1)
        next(stream)
        waiting = [pool.submit(list, stream), pool.submit(tritone.synthesize, TEXT, voice=VOICE, seed=2)]
        time.sleep(0.3)
        killed_at = time.monotonic()
        server.model_process(model).kill()

        for request in waiting:
            with pytest.raises(TritoneError) as caught:
                request.result()
            assert caught.value.status in ("UNAVAILABLE", "INTERNAL")
        assert server.process.wait(NOTICED_S) == 1
        assert time.monotonic() - killed_at < NOTICED_S
        assert "error: " in server.log()
        if model != "spark_tts_stream":  # Triton itself crashes when that dies with requests
            assert f"the process of the model {model} died" in server.log()
