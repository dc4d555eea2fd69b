"""rustllm: `bf16` as the checkpoint has it, `int8` and `int4` quantized at load."""

from __future__ import annotations

from typing import Any

from runners.protocol import Options, serve_python
from workloads import KV_CACHE_GIB, MAX_MODEL_LEN, MAX_NUM_SEQS, Generate


def load(options: Options) -> Generate:
    """Loads the model."""
    from rustllm import LLM, SamplingParams

    extra: dict[str, Any] = {} if options.format == "bf16" else {"quantization": options.format}
    llm = LLM(
        model=options.model,
        dtype="bfloat16",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        kv_cache_memory_bytes=KV_CACHE_GIB << 30,
        num_threads=options.threads,
        **extra,
    )

    def generate(batch: list[list[int]], new: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        requests: list[Any] = [{"prompt_token_ids": ids} for ids in batch]
        outputs = llm.generate(requests, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


if __name__ == "__main__":
    serve_python("rustllm", load)
