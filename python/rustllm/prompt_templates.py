"""The prompts of a sentence-transformers folder: what is put before the texts it embeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rustllm.errors import ModelLoadError, ValidationError
from rustllm.json_files import read_json_object

__all__ = ["PromptTemplates"]


@dataclass(frozen=True)
class PromptTemplates:
    """How texts are written before they are tokenized.

    Attributes:
        prompts: What is put before a text, by name: `query`, `document`.
        default_prompt_name: The prompt for texts that name none; `None` for none.
        do_lower_case: Whether texts are lower-cased first, whatever the tokenizer does.
    """

    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    do_lower_case: bool = False

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTemplates:
        """Reads `config_sentence_transformers.json` and `sentence_bert_config.json`.

        Raises:
            ModelLoadError: prompts that are no texts, or a default that is not among them.
        """
        path = folder / "config_sentence_transformers.json"
        settings = read_json_object(path)
        prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
        if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
            raise ModelLoadError(f"{path}: prompts must be an object of strings, got {prompts!r}")
        if default is not None and default not in prompts:
            known = ", ".join(prompts) or "none"
            message = f"default_prompt_name is {default!r}, and prompts has {known}"
            raise ModelLoadError(f"{path}: {message}")
        lower = read_json_object(folder / "sentence_bert_config.json").get("do_lower_case")
        return cls(prompts, default, bool(lower))

    def prefix(self, prompt_name: str | None = None, prompt: str | None = None) -> str:
        """What is put before a text.

        Args:
            prompt_name: Name of one of the model's prompts.
            prompt: The prompt itself; `""` for none, not even the default.

        Raises:
            ValidationError: both are given, or the model has no prompt of that name.
        """
        if prompt is not None:
            if prompt_name is not None:
                message = "give prompt_name or prompt, not both"
                raise ValidationError(message, parameter="prompt_name", value=prompt_name)
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none at all"
            message = f"prompt_name must be one of the model's prompts ({known}), got {name!r}"
            raise ValidationError(message, parameter="prompt_name", value=name)
        return self.prompts[name]

    def apply(self, text: str, prefix: str) -> str:
        """The text as it is tokenized."""
        return (prefix + text).lower() if self.do_lower_case else prefix + text
