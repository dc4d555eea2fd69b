"""The errors rustllm raises on purpose. The Rust engine raises these same classes."""

from typing import Any


class RustllmError(Exception):
    """Base class of every error rustllm raises on purpose."""


class ValidationError(RustllmError, ValueError):
    """A request or an argument outside what is allowed.

    Attributes:
        parameter: The field to blame, or `None` when it is not one field alone.
        value: What was given for it.
    """

    def __init__(self, message: str, parameter: str | None = None, value: Any = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.value = value


class ModelLoadError(RustllmError, ValueError):
    """A model that cannot be loaded: not found, corrupt, of wrong shape or unsupported."""


class EngineDeadError(RustllmError, RuntimeError):
    """The engine has stopped and takes no more requests."""
