"""`python -m build_engines.trtllm_greedy`: what a TensorRT-LLM engine says, greedily. Needs TensorRT-LLM and a GPU.

Reads a request in JSON from standard input; the last line of standard output has the ids.
"""

import json
import sys
from typing import Any

from tritone.spark_tts.lm_tensors import FORBIDDEN_BIAS

KV_CACHE_TOKENS = 4096  # a single short sequence; TensorRT-LLM would take nine tenths of the GPU's memory


def main() -> int:
    """Run one request through the engine."""
    request = json.load(sys.stdin)
    try:
        ids = _generate(**request)
    except ImportError as error:
        print(f"TensorRT-LLM is not installed: {error}", file=sys.stderr)
        return 1
    print(json.dumps(ids), flush=True)
    return 0


def _generate(engine_dir: str, prompt: list[int], num_tokens: int, allowed: list[int], vocab_size: int) -> list[int]:
    import tensorrt_llm.bindings.executor as trtllm
    import torch

    bias = torch.full((vocab_size,), FORBIDDEN_BIAS)
    bias[slice(*allowed)] = 0
    config = trtllm.ExecutorConfig(max_beam_width=1, kv_cache_config=trtllm.KvCacheConfig(max_tokens=KV_CACHE_TOKENS))
    executor = trtllm.Executor(engine_dir, trtllm.ModelType.DECODER_ONLY, config)
    try:
        request = trtllm.Request(
            input_token_ids=prompt,
            max_tokens=num_tokens,
            sampling_config=trtllm.SamplingConfig(top_k=1),
            output_config=trtllm.OutputConfig(exclude_input_from_output=True),
            embedding_bias=bias,
        )
        ids: list[int] = []
        is_final = False
        request_id = executor.enqueue_request(request)
        while not is_final:
            for response in executor.await_responses(request_id):
                ids += _new_ids(response)
                is_final = response.result.is_final
        return ids
    finally:
        executor.shutdown()


def _new_ids(response: Any) -> list[int]:
    if response.has_error():
        raise RuntimeError(response.error_msg)
    return response.result.output_token_ids[0]


if __name__ == "__main__":
    sys.exit(main())
