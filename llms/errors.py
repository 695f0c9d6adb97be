"""The errors of this package, grouped by who has to act.

    LLMError
    ├── CallError                    the caller changes the call
    │   ├── BadRequest               a parameter, message or option is out of range (also a ValueError)
    │   ├── ContextOverflow          the prompt is longer than the window (also LangChain's error)
    │   ├── TextOnly                 an image, audio or file block (also a ValueError)
    │   ├── UnsupportedSchema        a schema that the grammar cannot express (also a ValueError)
    │   └── RequestTooLarge          one request fills the memory by itself (also a MemoryError)
    ├── ModelError                   another model, or a repaired checkpoint
    │   ├── UnknownModel             no such name, folder, file or Hub id (also a ValueError)
    │   ├── DamagedCheckpoint        files are missing or truncated, or the weights give NaN
    │   ├── UnsupportedModel         this package cannot run the architecture, tokenizer or template
    │   └── AdapterMismatch          a LoRA adapter that was trained on another base model
    ├── FetchError                   a file could not be downloaded
    │   ├── FetchFailed              no network, or the download was refused or broke off
    │   ├── HashMismatch             a file does not have the expected hash
    │   ├── GatedModel               the Hub requires an accepted licence or a token
    │   └── NoPip                    pip is needed to fetch the embedded model and is missing
    └── MachineError                 this machine: disk, memory, GPU
        ├── NoSpace                  the disk is full, or too small for the files
        ├── CacheNotWritable         the cache folder cannot be written
        ├── NotEnoughMemory          weights or KV cache do not fit (also a MemoryError)
        ├── GPURequired              require_gpu=True and no usable GPU
        └── QuantizationUnavailable  bitsandbytes is missing or does not support this device

Every message says what was expected, what was found, and the next step. Messages name Python arguments
(`window=4096`) and calls; a call that mends the problem is also in `hint`:

    >>> error = UnknownModel("expected mistral-7b on this machine, found nothing",
    ...                      hint='llms.models.pull("mistral-7b")')
    >>> print(error)
    expected mistral-7b on this machine, found nothing; run `llms.models.pull("mistral-7b")`

A command line may translate arguments and hints into its own words, and maps each class to an exit code.
"""

from __future__ import annotations

from langchain_core.exceptions import ContextOverflowError


class LLMError(Exception):
    """The root of every error that this package raises on purpose.

    Attributes:
        hint: A Python call that mends the problem; empty if there is none.
    """

    hint: str = ""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep the message, and the hint next to it."""
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        """Return the message with the hint as its last step."""
        message = super().__str__()
        return f"{message}; run `{self.hint}`" if self.hint else message


class CallError(LLMError):
    """The call itself is wrong, so the same call fails again."""


class BadRequest(CallError, ValueError):
    """A parameter, message or option is out of range or malformed."""


class ContextOverflow(CallError, ContextOverflowError):
    """The prompt does not fit the model's window; nothing was truncated.

    Attributes:
        prompt_tokens: Length of the prompt, in tokens.
        window: Length of the window, in tokens.
    """

    def __init__(self, message: str, *, prompt_tokens: int = 0, window: int = 0) -> None:
        """Keep the message and both lengths."""
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.window = window


class TextOnly(CallError, ValueError):
    """A message holds an image, audio, video or file block; these models read text only."""


class UnsupportedSchema(CallError, ValueError):
    """A JSON schema uses a keyword that the grammar cannot enforce; the message names it."""


class RequestTooLarge(CallError, MemoryError):
    """One sequence's KV cache does not fit in memory, with nothing else running and no prefix cached."""


class ModelError(LLMError):
    """The model cannot be used in its present state."""


class UnknownModel(ModelError, ValueError):
    """The name is not a catalog entry, local folder, GGUF file or Hub id."""


class DamagedCheckpoint(ModelError):
    """A checkpoint lacks files or is truncated, or its weights give NaN."""


class UnsupportedModel(ModelError):
    """This package cannot run the architecture, tokenizer or chat template."""


class AdapterMismatch(ModelError):
    """A LoRA adapter was trained on another base model."""


class FetchError(LLMError):
    """A file could not be downloaded."""


class FetchFailed(FetchError):
    """There is no network, or the server refused or broke off the download."""


class HashMismatch(FetchError):
    """A file does not have the expected hash; it was not used."""


class GatedModel(FetchError):
    """The Hub requires an accepted licence or an access token."""


class NoPip(FetchError):
    """The embedded model is a wheel, and this Python has no pip to download it."""


class MachineError(LLMError):
    """This machine lacks disk space, memory, permissions or a GPU."""


class NoSpace(MachineError):
    """The disk is full, or has less free space than the files need."""


class CacheNotWritable(MachineError):
    """The cache folder cannot be created or written."""


class NotEnoughMemory(MachineError, MemoryError):
    """Weights or KV cache do not fit in the memory of the device."""


class GPURequired(MachineError):
    """A GPU was required, and none is usable."""


class QuantizationUnavailable(MachineError):
    """The quantization does not run here: bitsandbytes is missing or does not support the device."""
