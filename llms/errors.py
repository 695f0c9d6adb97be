"""What can go wrong between weights and text, split by who must act.

    LLMError
    ├── RequestError                 the caller changes the call
    │   ├── BadRequest               a parameter, message or option out of range (also a ValueError)
    │   ├── ContextOverflow          prompt + answer longer than the window (also LangChain's own)
    │   ├── TextOnly                 an image, audio or file block (also a ValueError)
    │   ├── UnsupportedSchema        a schema that the grammar cannot express (also a ValueError)
    │   └── RequestTooLarge          one request that fills the memory by itself (also a MemoryError)
    ├── ModelError                   another model, or a repaired checkpoint
    │   ├── UnknownModel             no such name, folder, file or Hub id (also a ValueError)
    │   ├── DamagedCheckpoint        files missing, truncated, or weights that give NaN
    │   ├── UnsupportedModel         an architecture, tokenizer or template this package cannot drive
    │   └── AdapterMismatch          a LoRA adapter made for another base model
    ├── FetchError                   the network, or a file put by hand
    │   ├── FetchFailed              no network, a refused or broken download
    │   ├── HashMismatch             the bytes are not those that were expected
    │   ├── GatedModel               the Hub wants a licence accepted, or a token
    │   └── NoPip                    pip is needed to fetch the embedded model, and is missing
    └── MachineError                 this machine: disk, memory, GPU
        ├── NoSpace                  the disk is full, or too small for what comes
        ├── CacheNotWritable         the cache folder cannot be written
        ├── NotEnoughMemory          weights or KV cache do not fit (also a MemoryError)
        ├── GPURequired              require_gpu=True and no usable GPU
        └── QuantizationUnavailable  bitsandbytes is missing or refuses this device

Every message says what was expected, what was found, and the next step. Exit codes are the command line's
business: `agent` maps each leaf to one.
"""

from __future__ import annotations

from langchain_core.exceptions import ContextOverflowError


class LLMError(Exception):
    """The root of every error this package raises on purpose."""


class RequestError(LLMError):
    """The call itself is wrong; the same call fails again."""


class BadRequest(RequestError, ValueError):
    """A parameter, message or option is out of range or malformed."""


class ContextOverflow(RequestError, ContextOverflowError):
    """The prompt does not fit the model's window; nothing was truncated.

    Attributes:
        prompt_tokens: Length of the prompt, in tokens.
        window: Length of the window, in tokens.
    """

    def __init__(self, message: str, *, prompt_tokens: int = 0, window: int = 0) -> None:
        """Keep both lengths beside the message."""
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.window = window


class TextOnly(RequestError, ValueError):
    """A message holds an image, audio, video or file block; these models read text only."""


class UnsupportedSchema(RequestError, ValueError):
    """A JSON schema uses a keyword that the grammar cannot enforce; the message names it."""


class RequestTooLarge(RequestError, MemoryError):
    """One sequence's KV cache does not fit in memory, with nothing else running and no prefix cached."""


class ModelError(LLMError):
    """The model cannot be used as it is."""


class UnknownModel(ModelError, ValueError):
    """The name is no catalog entry, local folder, GGUF file or Hub id."""


class DamagedCheckpoint(ModelError):
    """A checkpoint is missing files, truncated, or its weights give NaN."""


class UnsupportedModel(ModelError):
    """The architecture, tokenizer or chat template is one that this package cannot drive."""


class AdapterMismatch(ModelError):
    """A LoRA adapter was trained on another base model."""


class FetchError(LLMError):
    """A file could not be brought here."""


class FetchFailed(FetchError):
    """No network, or the other side refused or broke off."""


class HashMismatch(FetchError):
    """A file's hash is not the expected one; the file was not used."""


class GatedModel(FetchError):
    """The Hub asks for an accepted licence or an access token."""


class NoPip(FetchError):
    """The embedded model comes as a wheel, and this Python has no pip to fetch it."""


class MachineError(LLMError):
    """This machine lacks something."""


class NoSpace(MachineError):
    """The disk is full, or has less room than the files need."""


class CacheNotWritable(MachineError):
    """The cache folder cannot be created or written."""


class NotEnoughMemory(MachineError, MemoryError):
    """Weights or KV cache do not fit in the memory of the device."""


class GPURequired(MachineError):
    """A GPU was required and none is usable."""


class QuantizationUnavailable(MachineError):
    """The quantization asked for does not run here (bitsandbytes missing, or the device refused)."""
