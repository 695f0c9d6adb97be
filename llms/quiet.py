"""Silence for other libraries while weights load: no progress bars, no notices; errors still show.

>>> with quiet():
...     model = AutoModelForCausalLM.from_pretrained(folder)  # doctest: +SKIP
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# bitsandbytes reports that the package `kernels` is missing. This project excludes it on purpose.
_LOGGERS = ("transformers", "bitsandbytes", "bitsandbytes.backends.cpu.ops", "accelerate", "huggingface_hub")
_gate = threading.Lock()
_depth = 0
_kept: list[tuple[logging.Logger, int]] = []
_bars_were_on = False


@contextmanager
def quiet() -> Iterator[None]:
    """Show only errors, and none of transformers' progress bars, until the block ends; blocks may overlap."""
    global _depth
    with _gate:
        if _depth == 0:
            _hush()
        _depth += 1
    try:
        yield
    finally:
        with _gate:
            _depth -= 1
            if _depth == 0:
                _restore()


def _hush() -> None:
    global _bars_were_on
    from transformers.utils import logging as transformers_logging

    _bars_were_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        _kept.append((logger, logger.level))
        logger.setLevel(max(logger.getEffectiveLevel(), logging.ERROR))


def _restore() -> None:
    from transformers.utils import logging as transformers_logging

    while _kept:
        logger, level = _kept.pop()
        logger.setLevel(level)
    if _bars_were_on:
        transformers_logging.enable_progress_bar()
