"""`summarization`: texts made short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rustllm.pipelines.prompted import PromptedPipeline
from rustllm.pipelines.text_generation import SamplingOptions

__all__ = ["SummarizationOptions", "SummarizationPipeline"]


@dataclass(frozen=True)
class SummarizationOptions(SamplingOptions):
    """Options of a call: those of `SamplingOptions`, with other defaults, and these.

    Args:
        instruction: What the model is told to do with each text.
        do_sample: By default the likeliest token is taken always.
    """

    instruction: str = "Summarize the following text. Answer with the summary only."
    do_sample: bool | None = False


class SummarizationPipeline(PromptedPipeline):
    """Summarizes texts, by asking a chat model to.

    Transformers has this task for encoder-decoder models, which are trained for it alone. Here any
    model with a chat template does it by an instruction: quality is that of the model. The result
    is a list of `{"summary_text": ...}`.
    """

    task = "summarization"
    options_type = SummarizationOptions
    result_key = "summary_text"

    def _instruction(self, options: Any) -> str:
        return str(options.instruction)
