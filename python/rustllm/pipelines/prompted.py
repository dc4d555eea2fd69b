"""Tasks that a model which follows instructions does by being told to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.pipelines.base import Pipeline
from rustllm.pipelines.text_generation import SamplingOptions, load_generator

__all__ = ["PromptedPipeline"]


class PromptedPipeline(Pipeline):
    """Hands each text to a chat model, with an instruction before it."""

    result_key: ClassVar[str]
    """The key of the text in a result."""

    def _load(self, engine_args: EngineArgs) -> None:
        self.llm = load_generator(engine_args, self.task)
        # Says that there is no chat template, if so, before a text is given.
        self.llm.get_tokenizer().get_chat_template(self.llm.llm_engine.model.chat_template)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Works on one text, a list, or a generator of them; one text gives a list of one."""
        results = super().__call__(inputs, **options)
        return [results] if isinstance(inputs, str) else results

    @abstractmethod
    def _instruction(self, options: Any) -> str:
        """What the model is told to do with a text."""

    def _run(self, items: Sequence[Any], options: SamplingOptions) -> list[Any]:
        instruction = self._instruction(options)
        for item in items:
            if not isinstance(item, str):
                message = f"an input must be a text, got {type(item).__name__}"
                raise ValidationError(message, parameter="inputs", value=item)
        conversations = [
            [{"role": "user", "content": f"{instruction}\n\n{item}"}] for item in items
        ]
        params = options.sampling_params(self.llm)
        outputs = self.llm.chat(conversations, params, use_tqdm=False)
        return [{self.result_key: output.outputs[0].text.strip()} for output in outputs]
