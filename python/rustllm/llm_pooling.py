"""What `LLM` makes of prompts without generating: vectors, classes, scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rustllm.errors import RustllmError, ValidationError
from rustllm.inputs import PromptType, parse_prompts
from rustllm.llm_engine import LLMEngine
from rustllm.pooling_outputs import (
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    ScoringRequestOutput,
)
from rustllm.pooling_params import PoolingParams
from rustllm.pooling_processor import PoolingProcessor, PoolingRequest
from rustllm.scoring import ScoreInputs, Scorer, pair_texts

__all__ = ["PoolingMethods"]

Prompts = PromptType | Sequence[PromptType]
Params = PoolingParams | Sequence[PoolingParams] | None
Bar = bool | Callable[..., Any]

_METHODS = {"embed": "LLM.embed()", "classify": "LLM.classify()"}

_WHICH_TASK = """pooling_task required for `LLM.encode`. Use one of the more specific methods, or:
- for embeddings, `LLM.embed(...)` or `pooling_task="embed"`
- for classes, `LLM.classify(...)` or `pooling_task="classify"`
- for similarity scores, `LLM.score(...)`
- for classes of tokens, `pooling_task="token_classify"`
- for a vector of each token, `pooling_task="token_embed"`"""


class PoolingMethods:
    """The methods of `LLM` for models that are pooled."""

    llm_engine: LLMEngine

    @abstractmethod
    def _run(self, requests: Sequence[Any], use_tqdm: Bar) -> list[Any]:
        """Runs processed requests and returns their outputs in order."""

    def encode(
        self,
        prompts: Prompts,
        pooling_params: Params = None,
        *,
        use_tqdm: Bar = True,
        lora_request: None = None,
        pooling_task: str | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """Makes an array of each prompt.

        Args:
            prompts: One prompt or several; text, token ids, or a dict with `prompt` or
                `prompt_token_ids` (and `token_type_ids`), and `cache_salt`. A list of integers is
                one prompt.
            pooling_params: For all prompts, or a list with those of each.
            use_tqdm: Show a progress bar, if on a terminal; or a function that makes one.
            lora_request: Not supported.
            pooling_task: `embed`, `classify`, `token_embed` or `token_classify`; may be in
                `pooling_params` instead.
            tokenization_kwargs: `add_special_tokens`; `truncate_prompt_tokens`, the most tokens a
                prompt may have, or -1 for what the model can take (longer prompts are refused
                otherwise); `truncation_side`, by default what the tokenizer's settings say.
            prompt_name: Which of a sentence-transformers model's prompts to put before texts; by
                default its `default_prompt_name`. Only for embeddings.
            prompt: What to put before texts, instead of one of those; `""` for nothing.

        Returns:
            An output for each prompt, in the order of the prompts; `outputs.data` is an array.

        Raises:
            ValidationError: a prompt or parameter that cannot be used; then none was started.
            RustllmError: the model's output for a prompt is not finite.
        """
        if lora_request is not None:
            message = "lora_request is not supported"
            raise ValidationError(message, parameter="lora_request", value=lora_request)
        parsed = parse_prompts(prompts)
        params = _each(pooling_params, len(parsed))
        task = pooling_task or (params[0].task if params else None)
        if task is None:
            self._processor.check_task("embed", method="LLM.encode()")
            raise ValidationError(_WHICH_TASK, parameter="pooling_task")
        self._processor.check_task(task, method=_METHODS.get(task, "LLM.encode()"))
        prefix = self._prefix(task, prompt_name, prompt)
        requests = self._processor.process(
            parsed, params, task, tokenization_kwargs=tokenization_kwargs, prefix=prefix
        )
        return self._pool(requests, use_tqdm)

    def embed(
        self,
        prompts: Prompts,
        *,
        use_tqdm: Bar = True,
        pooling_params: Params = None,
        lora_request: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """Makes a vector of each prompt, in `outputs.embedding`; arguments as of `encode`."""
        outputs = self.encode(
            prompts,
            pooling_params,
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            pooling_task="embed",
            tokenization_kwargs=tokenization_kwargs,
            prompt_name=prompt_name,
            prompt=prompt,
        )
        return [EmbeddingRequestOutput.from_base(output) for output in outputs]

    def classify(
        self,
        prompts: Prompts,
        *,
        pooling_params: Params = None,
        use_tqdm: Bar = True,
        lora_request: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[ClassificationRequestOutput]:
        """The probability of each class for each prompt, in `outputs.probs`; arguments as of
        `encode`.
        """
        outputs = self.encode(
            prompts,
            pooling_params,
            use_tqdm=use_tqdm,
            lora_request=lora_request,
            pooling_task="classify",
            tokenization_kwargs=tokenization_kwargs,
        )
        return [ClassificationRequestOutput.from_base(output) for output in outputs]

    def score(
        self,
        data_1: ScoreInputs,
        data_2: ScoreInputs,
        /,
        *,
        use_tqdm: Bar = True,
        pooling_params: PoolingParams | None = None,
        lora_request: None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        chat_template: None = None,
    ) -> list[ScoringRequestOutput]:
        """How well texts go together: by a model with one label that reads both, or as the cosine
        of their embeddings.

        Args:
            data_1: A text, or several.
            data_2: A text, or several. One of `data_1` goes with each of these, several one by one.
            use_tqdm: As in `encode`.
            pooling_params: For all pairs.
            lora_request: Not supported.
            tokenization_kwargs: As in `encode`; of a pair the longer text is cut.
            chat_template: Not supported.

        Returns:
            An output for each pair, with the score in `outputs.score`.

        Raises:
            ValidationError: a model that has no scores, or as `encode`.
        """
        for name, value in (("lora_request", lora_request), ("chat_template", chat_template)):
            if value is not None:
                raise ValidationError(f"{name} is not supported", parameter=name, value=value)
        scorer = Scorer(self.llm_engine.model, self._processor)
        pairs = pair_texts(data_1, data_2)
        requests = scorer.requests(
            pairs, pooling_params or PoolingParams(), tokenization_kwargs=tokenization_kwargs
        )
        return scorer.scores(pairs, self._pool(requests, use_tqdm))

    @property
    def _processor(self) -> PoolingProcessor:
        return self.llm_engine.pooling_processor

    def _prefix(self, task: str, prompt_name: str | None, prompt: str | None) -> str:
        if task not in ("embed", "token_embed"):
            for name, value in (("prompt_name", prompt_name), ("prompt", prompt)):
                if value is not None:
                    message = f"{name} is for embeddings, the task is {task!r}"
                    raise ValidationError(message, parameter=name, value=value)
            return ""
        return self._processor.templates.prefix(prompt_name, prompt)

    def _pool(
        self, requests: Sequence[PoolingRequest], use_tqdm: Bar
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        outputs = self._run(requests, use_tqdm)
        for place, output in enumerate(outputs):
            if output.error is not None:
                raise RustllmError(f"prompt {place}: {output.error}")
        return outputs


def _each(params: Any, count: int) -> list[PoolingParams]:
    """The parameters of each prompt: the same for all, or a list that must be as long."""
    if params is None or isinstance(params, PoolingParams):
        return [params or PoolingParams()] * count
    if not isinstance(params, Sequence) or not all(isinstance(p, PoolingParams) for p in params):
        message = f"pooling_params must be PoolingParams or a list, got {type(params).__name__}"
        raise ValidationError(message, parameter="pooling_params", value=params)
    if len(params) != count:
        message = (
            "The lengths of prompts and pooling_params must be the same: "
            f"{count} prompts, {len(params)}"
        )
        raise ValidationError(message, parameter="pooling_params", value=params)
    return list(params)
