"""Ready-made tasks over a model: texts in, labels, entities, answers or texts out.

>>> from rustllm import pipeline
>>> ner = pipeline("token-classification", model="dslim/bert-base-NER")
>>> ner("Marie lives in Lyon.", aggregation_strategy="simple")

Arguments and results are those of the pipelines of Hugging Face transformers. A task's module is
imported when the task is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

from rustllm.errors import ValidationError

if TYPE_CHECKING:
    from rustllm.pipelines.base import Pipeline

__all__ = ["pipeline", "supported_tasks"]

_PIPELINES: Final = {
    "feature-extraction": "feature_extraction.FeatureExtractionPipeline",
    "fill-mask": "fill_mask.FillMaskPipeline",
    "question-answering": "question_answering.QuestionAnsweringPipeline",
    "summarization": "summarization.SummarizationPipeline",
    "text-classification": "text_classification.TextClassificationPipeline",
    "text-generation": "text_generation.TextGenerationPipeline",
    "text-ranking": "text_ranking.TextRankingPipeline",
    "token-classification": "token_classification.TokenClassificationPipeline",
    "translation": "translation.TranslationPipeline",
    "zero-shot-classification": "zero_shot_classification.ZeroShotClassificationPipeline",
}

_ALIASES: Final = {"ner": "token-classification", "sentiment-analysis": "text-classification"}

_TRANSLATION: Final = re.compile(r"translation_(\w+)_to_(\w+)")


def supported_tasks() -> list[str]:
    """The tasks of `pipeline`, aliases included."""
    return sorted([*_PIPELINES, *_ALIASES])


def pipeline(task: str, model: str | os.PathLike[str] | None = None, **kwargs: Any) -> Pipeline:
    """Loads a model for a task.

    Args:
        task: One of `supported_tasks()`, or `translation_xx_to_yy`.
        model: Folder of a Hugging Face model, or a hub id; by default the model in the wheel, which
            generates text.
        **kwargs: Options of the task, which become the defaults of its calls; `batch_size`, how
            many inputs are worked on at once; and fields of `EngineArgs`.

    Returns:
        A callable: its class says what it takes and returns.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an unknown task or option, or a task the model cannot do.
    """
    from rustllm.engine_args import EngineArgs

    match = _TRANSLATION.fullmatch(task)
    if match is not None:
        task = "translation"
        kwargs = {"src_lang": match[1], "tgt_lang": match[2], **kwargs}
    name = _ALIASES.get(task, task)
    if name not in _PIPELINES:
        message = f"unknown task {task!r}; tasks are {', '.join(supported_tasks())}"
        raise ValidationError(message, parameter="task", value=task)
    module, _, class_name = _PIPELINES[name].partition(".")
    kind: type[Pipeline] = getattr(
        importlib.import_module(f"rustllm.pipelines.{module}"), class_name
    )
    of_task = {field.name for field in dataclasses.fields(kind.options_type)} | {"batch_size"}
    options = {key: value for key, value in kwargs.items() if key in of_task}
    engine = {key: value for key, value in kwargs.items() if key not in of_task}
    return kind(
        EngineArgs.from_kwargs(model=model, **{**kind.engine_defaults, **engine}), **options
    )
