import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engines.checkpoint import Checkpoint
from build_engines.speech_lm import build_openvino_lm
from tritone.errors import InvalidInput
from tritone.spark_tts.tokens import SpeechTokens
from tritone.speech_lm import Delivery, FinishReason, Sampling, SpeechLm, SpeechLmSettings

GREEDY = Sampling(temperature=0)
KV_CACHE_TOKENS = 4096


@pytest.fixture(scope="module")
def engine_dir(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_openvino_lm(Checkpoint.open(tiny_checkpoint), tmp_path_factory.mktemp("lm") / "engine", "f32")


@pytest.fixture(scope="module")
def lm(engine_dir: Path) -> Iterator[SpeechLm]:
    settings = SpeechLmSettings(precision="f32", num_threads=1, kv_cache_tokens=KV_CACHE_TOKENS)
    lm = SpeechLm(engine_dir, settings)
    yield lm
    lm.close()


@pytest.fixture(scope="module")
def tokens(tiny_checkpoint: Path) -> SpeechTokens:
    return SpeechTokens.from_file(Checkpoint.open(tiny_checkpoint).tokenizer_path)


@pytest.fixture(scope="module")
def prompts(golden: dict[str, np.ndarray]) -> list[list[int]]:
    return [ids.tolist() for name, ids in golden.items() if name.startswith("prompt.")]


class Deliveries:
    """Collects what one generation delivers."""

    def __init__(self) -> None:
        self.received: list[Delivery] = []
        self._ended = threading.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.received.append(delivery)
        if delivery.finish_reason is not None:
            self._ended.set()

    def wait(self) -> list[int]:
        """All ids, once the generation has ended."""
        assert self._ended.wait(timeout=60)
        return [int(token) for delivery in self.received for token in delivery.ids]

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.received[-1].finish_reason


def seeded(seed: int) -> Sampling:
    return Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=seed)


def test_greedy_tokens_equal_the_published_ones(lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int]) -> None:
    assert lm.generate(clone_prompt, 40, sampling=GREEDY) == greedy_ids
    assert lm.generate(clone_prompt, 40, sampling=Sampling(top_k=1)) == greedy_ids


def test_the_same_seed_repeats_and_another_differs(lm: SpeechLm, clone_prompt: list[int]) -> None:
    first = lm.generate(clone_prompt, 40, sampling=seeded(1))

    assert lm.generate(clone_prompt, 40, sampling=seeded(1)) == first
    assert lm.generate(clone_prompt, 40, sampling=seeded(2)) != first


def test_no_seed_gives_something_else_each_time(lm: SpeechLm, clone_prompt: list[int]) -> None:
    assert lm.generate(clone_prompt, 40, sampling=Sampling()) != lm.generate(clone_prompt, 40, sampling=Sampling())


@pytest.mark.parametrize("stagger_s", [0, 0.01])
def test_in_float32_neighbours_do_not_change_what_a_seed_gives(
    lm: SpeechLm, prompts: list[list[int]], stagger_s: float
) -> None:
    requests = [(prompts[seed % len(prompts)], 60, seeded(seed)) for seed in range(8)]
    alone = [lm.generate(ids, budget, sampling=sampling) for ids, budget, sampling in requests]

    together = [Deliveries() for _ in requests]
    for (ids, budget, sampling), deliveries in zip(requests, together, strict=True):
        lm.submit(ids, budget, deliveries, sampling=sampling)
        time.sleep(stagger_s)

    assert [deliveries.wait() for deliveries in together] == alone


def test_every_seed_gives_a_valid_sequence_at_any_temperature(
    lm: SpeechLm, tokens: SpeechTokens, golden: dict[str, np.ndarray]
) -> None:
    prompt = [*golden["prompt.control_female_high_low"].tolist(), tokens.start_acoustic]
    for seed in range(20):
        sampling = Sampling(temperature=5, seed=seed)
        pitch, speed, end_acoustic, start_global, *voice = lm.generate(prompt, 36, sampling=sampling)
        assert pitch in tokens.pitch_values
        assert speed in tokens.speed_values
        assert (end_acoustic, start_global) == (tokens.end_acoustic, tokens.start_global)
        assert len(voice) == 32
        assert set(voice) <= set(tokens.global_tokens)

        start_semantic, *speech = lm.generate(
            [*prompt, pitch, speed, end_acoustic, start_global, *voice, tokens.end_global],
            30,
            sampling=sampling,
            end_id=tokens.im_end,
        )
        assert start_semantic == tokens.start_semantic
        assert set(speech) <= {*tokens.semantic_tokens, tokens.im_end}


def test_the_end_token_ends_the_generation_and_is_delivered(
    lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    deliveries = Deliveries()
    lm.submit(clone_prompt, 40, deliveries, sampling=GREEDY, end_id=greedy_ids[3])

    assert deliveries.wait() == greedy_ids[:4]
    assert deliveries.finish_reason is FinishReason.END_TOKEN


def test_the_end_token_is_not_emitted_before_the_smallest_length(
    lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    ids = lm.generate(clone_prompt, 40, sampling=GREEDY, end_id=greedy_ids[0], min_new_tokens=5)

    assert greedy_ids[0] not in ids[:5]


def test_a_smallest_length_does_not_open_the_grammar(
    lm: SpeechLm, clone_prompt: list[int], tokens: SpeechTokens
) -> None:
    prompt = [*clone_prompt, tokens.start_global]
    for seed in range(10):
        sampling = Sampling(temperature=5, seed=seed)
        ids = lm.generate(prompt, 32, sampling=sampling, end_id=tokens.im_end, min_new_tokens=32)
        assert len(ids) == 32
        assert set(ids) <= set(tokens.global_tokens)


def test_deliveries_grow_up_to_their_limit(lm: SpeechLm, clone_prompt: list[int]) -> None:
    deliveries = Deliveries()
    lm.submit(clone_prompt, 100, deliveries, sampling=seeded(0))
    deliveries.wait()

    assert [len(delivery.ids) for delivery in deliveries.received] == [1, 2, *[4] * 24, 1]
    assert deliveries.finish_reason is FinishReason.LENGTH


def test_without_streaming_there_is_one_delivery(lm: SpeechLm, clone_prompt: list[int]) -> None:
    deliveries = Deliveries()
    lm.submit(clone_prompt, 40, deliveries, sampling=seeded(0), streaming=False)

    assert len(deliveries.wait()) == 40
    assert len(deliveries.received) == 1


def test_cancelling_ends_one_generation_and_leaves_its_neighbour(
    lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    cancelled, neighbour = Deliveries(), Deliveries()
    generation = lm.submit(clone_prompt, 3000, cancelled, sampling=seeded(0))
    lm.submit(clone_prompt, 40, neighbour, sampling=GREEDY)
    generation.cancel()

    assert len(cancelled.wait()) < 3000
    assert cancelled.finish_reason is FinishReason.CANCELLED
    assert neighbour.wait() == greedy_ids


def test_a_caller_that_went_away_ends_its_generation(lm: SpeechLm, clone_prompt: list[int]) -> None:
    deliveries = Deliveries()
    lm.submit(clone_prompt, 3000, deliveries, sampling=seeded(0), is_cancelled=lambda: True)

    assert len(deliveries.wait()) < 3000
    assert deliveries.finish_reason is FinishReason.CANCELLED


def test_a_callback_that_raises_leaves_its_neighbour(
    lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    def fail(delivery: Delivery) -> None:
        raise ConnectionError("the caller has gone")

    neighbour = Deliveries()
    lm.submit(clone_prompt, 3000, fail, sampling=seeded(0))
    lm.submit(clone_prompt, 40, neighbour, sampling=GREEDY)

    assert neighbour.wait() == greedy_ids


def test_requests_beyond_the_kv_cache_wait_for_their_turn(
    engine_dir: Path, clone_prompt: list[int], greedy_ids: list[int]
) -> None:
    # each one needs 448 tokens of the cache, so only two of the five run at a time
    lm = SpeechLm(engine_dir, SpeechLmSettings(precision="f32", num_threads=1, kv_cache_tokens=1024))
    waiting = [Deliveries() for _ in range(5)]
    for deliveries in waiting:
        lm.submit(clone_prompt, 100, deliveries, sampling=GREEDY)

    continuations = [deliveries.wait() for deliveries in waiting]
    lm.close()

    assert continuations[0][:40] == greedy_ids
    assert all(continuation == continuations[0] for continuation in continuations)
    assert len(continuations[0]) == 100


def test_an_engine_failure_ends_the_running_requests_and_the_next_one_is_served(
    lm: SpeechLm, clone_prompt: list[int], greedy_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailingPipeline:
        def add_request(self, *args: Any) -> Any:
            return self

        def step(self) -> None:
            raise RuntimeError("out of memory")

        def cancel(self) -> None: ...

    monkeypatch.setattr(lm, "_pipeline", FailingPipeline())

    with pytest.raises(RuntimeError, match="out of memory"):
        lm.generate(clone_prompt, 40, sampling=GREEDY)
    assert lm.generate(clone_prompt, 40, sampling=GREEDY) == greedy_ids


def test_closing_ends_what_runs(engine_dir: Path, clone_prompt: list[int]) -> None:
    lm = SpeechLm(engine_dir, SpeechLmSettings(precision="f32", num_threads=1, kv_cache_tokens=4096))
    deliveries = Deliveries()
    lm.submit(clone_prompt, 3000, deliveries, sampling=seeded(0))

    lm.close()

    assert deliveries.finish_reason is FinishReason.CANCELLED


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"ids": []}, "input_ids"),
        ({"ids": [-1]}, "input_ids"),
        ({"ids": [10**6]}, "input_ids"),
        ({"max_new_tokens": 0}, "request_output_len"),
        ({"max_new_tokens": KV_CACHE_TOKENS}, "request_output_len"),
        ({"min_new_tokens": 11}, "min_tokens"),
        ({"end_id": 5}, "end_id"),  # a letter: it cannot be emitted
        ({"end_id": -1}, "end_id"),
    ],
)
def test_a_request_that_cannot_be_served_names_its_field(lm: SpeechLm, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        lm.generate(**{"ids": [1], "max_new_tokens": 10, **arguments})


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": 11},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 1.2},
        {"seed": -1},
    ],
)
def test_sampling_out_of_range_names_its_field(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(values))):
        Sampling(**values)


def test_settings_are_read_by_name_and_keep_their_defaults() -> None:
    settings = SpeechLmSettings.from_parameters({"num_threads": "3", "precision": "bf16", "other": "x"})

    assert settings == SpeechLmSettings(num_threads=3, precision="bf16")
