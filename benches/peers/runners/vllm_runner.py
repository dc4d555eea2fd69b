"""vLLM on a CPU, with its defaults; a start-up is measured without compilation, its quickest."""

from __future__ import annotations

from runners.protocol import Options, serve_python
from workloads import MAX_MODEL_LEN, MAX_NUM_SEQS, Generate


def load(options: Options) -> Generate:
    """Loads the model; vLLM takes threads and cache size from the environment."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(options.model),
        dtype="bfloat16",
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=MAX_NUM_SEQS,
        enable_prefix_caching=True,
        enforce_eager=options.startup,
        seed=0,
    )

    def generate(batch: list[list[int]], new: int) -> int:
        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        requests = [{"prompt_token_ids": ids} for ids in batch]
        outputs = llm.generate(requests, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return generate


if __name__ == "__main__":
    serve_python("vllm-cpu", load)
