"""`translation`: texts in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rustllm.errors import ValidationError
from rustllm.pipelines.prompted import PromptedPipeline
from rustllm.pipelines.text_generation import SamplingOptions

__all__ = ["TranslationOptions", "TranslationPipeline"]

_LANGUAGES: Final = {
    "ar": "Arabic",
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "zh": "Chinese",
}


@dataclass(frozen=True)
class TranslationOptions(SamplingOptions):
    """Options of a call: those of `SamplingOptions`, with another default, and these.

    Args:
        src_lang: Language of the texts, a name or a code such as `en`; by default the model sees
            for itself.
        tgt_lang: Language to translate into; must be given.
        do_sample: By default the likeliest token is taken always.
    """

    src_lang: str | None = None
    tgt_lang: str | None = None
    do_sample: bool | None = False


class TranslationPipeline(PromptedPipeline):
    """Translates texts, by asking a chat model to.

    Transformers has this task for encoder-decoder models, which are trained for it alone. Here any
    model with a chat template does it by an instruction: quality is that of the model. The task
    `translation_en_to_fr` names its languages itself. The result is a list of
    `{"translation_text": ...}`.
    """

    task = "translation"
    options_type = TranslationOptions
    result_key = "translation_text"

    def _instruction(self, options: Any) -> str:
        if options.tgt_lang is None:
            message = "tgt_lang must be given, or the task be named translation_xx_to_yy"
            raise ValidationError(message, parameter="tgt_lang", value=None)
        source = f" from {_name(options.src_lang)}" if options.src_lang else ""
        target = _name(options.tgt_lang)
        return (
            f"Translate the following text{source} to {target}. Answer with the translation only."
        )


def _name(language: str) -> str:
    return _LANGUAGES.get(language.lower(), language)
