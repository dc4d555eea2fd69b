"""OpenVINO GenAI's continuous batching; weights as exported, activations in bfloat16 if it can.

Without instructions for bfloat16 its paged attention refuses that, and it computes in float32.
"""

from __future__ import annotations

import re
from pathlib import Path

from runners.protocol import Options, serve_python
from workloads import KV_CACHE_GIB, MAX_NUM_SEQS, Generate


def precision() -> str:
    """The precision this processor has instructions for, as OpenVINO names it."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return "bf16" if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", cpu) else "f32"


def load(options: Options) -> Generate:
    """Loads the exported model."""
    import numpy as np
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = KV_CACHE_GIB
    scheduler.enable_prefix_caching = True
    scheduler.max_num_seqs = MAX_NUM_SEQS
    scheduler.max_num_batched_tokens = 2048
    hints = {"INFERENCE_PRECISION_HINT": precision(), "INFERENCE_NUM_THREADS": options.threads}
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(options.model), scheduler_config=scheduler, device="CPU", properties=hints
    )

    def generate(batch: list[list[int]], new: int) -> int:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new
        config.ignore_eos = True
        config.do_sample = False
        ids = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in batch]
        results = pipeline.generate(ids, [config] * len(batch))
        return sum(len(result.m_generation_ids[0]) for result in results)

    return generate


if __name__ == "__main__":
    serve_python("openvino-genai", load)
