"""The package's logger, and warnings that are said once."""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger("rustllm")


@functools.lru_cache(maxsize=1024)
def warning_once(message: str) -> None:
    """Logs a warning unless the same text has been logged before."""
    logger.warning(message)
