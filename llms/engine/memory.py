"""When memory runs out: how to tell, and how to name what did not fit.

Knows exceptions and messages; refuses to know how room is made (`queue`, `prefix`).
"""

from __future__ import annotations

import torch

from llms.engine.request import Handle
from llms.errors import NotEnoughMemory, RequestTooLarge


def out_of_memory(error: Exception) -> bool:
    """Tell whether an error means that something did not fit."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error).lower()
    )


def too_large(handle: Handle, error: Exception) -> Exception:
    """Name a request that does not fit in memory by itself."""
    length = len(handle.request.prompt) + len(handle.generated)
    failure = RequestTooLarge(
        f"Expected room for the KV cache of one sequence of {length} tokens, found none, with no other "
        f"request running ({error}). Shorten the prompt, or load the model with a smaller window."
    )
    failure.__cause__ = error
    return failure


def not_enough(error: Exception) -> Exception:
    """Name an out-of-memory error in this package's terms."""
    failure = NotEnoughMemory(
        f"Expected room for the KV cache of this scoring batch, found none ({error}). Use shorter prompts."
    )
    failure.__cause__ = error
    return failure
