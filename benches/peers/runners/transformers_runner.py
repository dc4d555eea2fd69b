"""transformers on torch: a batch of equal lengths, no prefix cache."""

from __future__ import annotations

from runners.protocol import Options, serve_python
from workloads import Generate


def load(options: Options) -> Generate:
    """Loads the model."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()

    def generate(batch: list[list[int]], new: int) -> int:
        ids = torch.tensor(batch)
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return int(output.shape[0] * (output.shape[1] - ids.shape[1]))

    return generate


if __name__ == "__main__":
    serve_python("transformers", load)
