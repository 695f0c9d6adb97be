"""A loaded model that is ready for text: its engine, tokenizer, prompts and grammars.

Chat models that load the same model share one `Runtime`, and with it the weights and the batch. `unload`
releases them, and the next use loads them again.
"""

from __future__ import annotations

import ctypes
import gc
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from weakref import WeakSet

from langchain_core.messages import BaseMessage

from llms.decoders.sampling import Sampling
from llms.engine.engine import Engine
from llms.engine.prefix import common_prefix
from llms.engine.request import Constraint, GenerationRequest
from llms.errors import BadRequest
from llms.mistral_prompts import WrittenPrompt
from llms.models.load import (
    LoadedModel,
    make_decoder,
)
from llms.models.memory import IDLE_CACHE_BYTES
from llms.params import GenerationParams
from llms.prompts import PromptBuilder
from llms.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from llms.grammar.grammar import Grammars
    from llms.protocols import Prompt, ScoreRequest

RUNTIMES: WeakSet[Runtime] = WeakSet()
"""Every runtime of this process."""

Derived = TypeVar("Derived")


class Runtime:
    """A loaded model with its engine.

        >>> runtime = ChatLocal(model="smollm2-135m").runtime()  # doctest: +SKIP
        >>> ids = runtime.prompt_ids([HumanMessage("Hello")])    # doctest: +SKIP
        >>> runtime.unload()                                     # doctest: +SKIP

    Args:
        loaded: The model and its tokenizer.
        decoder: `auto`, or the name of a decoder.
        max_slots: Maximum number of sequences with KV at once, including cached prefixes.
        reload: Loads the model again when it is needed after `unload`. Without it, `loaded` is kept.

    Attributes:
        identity: A random text that differs from that of any other runtime, in other processes too.
        max_slots: As above.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        decoder: str = "auto",
        max_slots: int = 64,
        reload: Callable[[], LoadedModel] | None = None,
    ) -> None:
        self.identity = secrets.token_hex(8)
        self.max_slots = max_slots
        self._decoder = decoder
        self._loaded: LoadedModel | None = loaded
        self._reload = reload or (lambda: loaded)
        self._cache_bytes: int | None = None
        self._derived: dict[str, Any] = {}
        self._building = threading.RLock()
        self._once("engine", self._new_engine)  # A model that no decoder serves is refused here.
        RUNTIMES.add(self)

    # ---- What is in memory ---------------------------------------------------------------------

    @property
    def resident(self) -> bool:
        """Whether the model is in memory: not if it was unloaded and has not been used since."""
        return self._loaded is not None

    @property
    def loaded(self) -> LoadedModel:
        """The model and its tokenizer. It is loaded again if it was unloaded."""
        with self._building:
            if self._loaded is None:
                self._loaded = self._reload()
            return self._loaded

    @property
    def engine(self) -> Engine:
        """The engine. A forked child makes a new one on the same weights."""
        return self._once("engine", self._new_engine)

    def _new_engine(self) -> Engine:
        decoder = make_decoder(self.loaded, max_slots=self.max_slots, kind=self._decoder)
        return Engine(decoder, cache_bytes=self.cache_bytes)

    def _once(self, name: str, make: Callable[[], Derived]) -> Derived:
        """Return what was made of the loaded model on the first use."""
        found: Derived | None = self._derived.get(name)
        if found is not None:
            return found
        with self._building:
            if name not in self._derived:
                self._derived[name] = make()
            made: Derived = self._derived[name]
            return made

    @property
    def cache_bytes(self) -> int:
        """Maximum size of the KV that is kept for reuse, in bytes."""
        return IDLE_CACHE_BYTES if self._cache_bytes is None else self._cache_bytes

    @cache_bytes.setter
    def cache_bytes(self, most: int) -> None:
        self._cache_bytes = most
        if (engine := self._derived.get("engine")) is not None:
            engine.limit_cache(most)

    def unload(self) -> None:
        """Release the weights, the KV cache and everything else that was made of the model.

        Answers that are being written end with an error. The next use loads the model again. A model that the
        caller handed over loaded (`from_model`) keeps its weights, which are the caller's.

            >>> ChatLocal(model="smollm2-135m").runtime().unload()  # doctest: +SKIP
        """
        if (engine := self._derived.get("engine")) is not None:
            engine.close()  # Its thread decodes tokens with the tokenizer until it ends.
            del engine
        with self._building:
            self._loaded = None
            self._derived.clear()
        _give_back()

    def forked(self) -> None:
        """Forget the parent's engine, whose locks may be held by threads that this process does not have."""
        self._derived.pop("engine", None)
        self._building = threading.RLock()

    @property
    def tokenizer(self) -> ModelTokenizer:
        """The tokenizer."""
        return self.loaded.tokenizer

    @property
    def prompts(self) -> PromptBuilder:
        """Renders messages with the tokenizer's chat template."""
        return self._once("prompts", lambda: PromptBuilder(self.tokenizer))

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self._once("end_ids", lambda: _end_ids(self.loaded))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same object, so that copies of a model share its weights."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise `BadRequest`: weights are not pickled. A model with a name is loaded again from its name."""
        raise BadRequest(
            f"expected a model that another process can load by name, found {self.loaded.name!r}, which was "
            "handed over loaded; save it to a folder and give that as model="
        )

    def request(
        self,
        params: GenerationParams,
        prompt: Sequence[int],
        *,
        index: int = 0,
        decode: Callable[[list[int]], str] | None = None,
        constraint: Constraint | None = None,
    ) -> GenerationRequest:
        """Return the request of one answer, for `Engine.submit`.

        Args:
            params: Checked parameters.
            prompt: Token ids.
            index: Number of the answer; each one has a seed of its own.
            decode: Turns token ids into text. The default is the tokenizer's.
            constraint: A grammar, or None.
        """
        seed = secrets.randbits(63) if params.seed is None else params.seed
        return GenerationRequest(
            prompt=tuple(prompt),
            # Cap max_tokens at the space that is left in the window; the finish reason is then "length".
            max_tokens=max(1, min(params.max_tokens, self.loaded.window - len(prompt))),
            decode=decode or self.decode,
            sampling=Sampling(
                temperature=float(params.temperature),
                top_k=params.top_k or 0,
                top_p=1.0 if params.top_p is None else float(params.top_p),
                min_p=params.min_p or 0.0,
                seed=(seed + index * 0x9E3779B9) % 2**63,
            ),
            end_ids=self.end_ids,
            stops=params.stops,
            repetition_penalty=params.repetition_penalty or 1.0,
            logit_bias={int(k): float(v) for k, v in (params.logit_bias or {}).items()},
            top_logprobs=params.top_logprobs if params.logprobs else None,
            constraint=constraint,
        )

    @property
    def small(self) -> bool:
        """Whether the model has fewer than a billion parameters, too few to choose tools by writing."""
        return self.loaded.parameters < 1_000_000_000

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens, which no text may contain."""
        return self._once("special_ids", lambda: _special_ids(self.tokenizer))

    @property
    def grammars(self) -> Grammars:
        """The grammars of this tokenizer. The first use takes 0.5 s for 49,152 tokens."""
        return self._once("grammars", self._new_grammars)

    def _new_grammars(self) -> Grammars:
        from llms.grammar.grammar import Grammars

        return Grammars(
            self.tokenizer,
            vocab_size=self.engine.decoder.vocab_size,
            end_ids=self.end_ids,
            special_ids=self.special_ids,
        )

    def encode(self, text: str | WrittenPrompt, *, special: bool = True) -> list[int]:
        """Return the ids of a text. `special` adds the tokens that the tokenizer puts around it (BOS)."""
        if not isinstance(text, str):
            return text.ids()
        ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return [int(i) for i in ids]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def decode_with(self, marker: str) -> Callable[[list[int]], str]:
        """Return a function like `decode` that keeps one control token, by its name."""
        shown = self.tokenizer.convert_tokens_to_ids(marker)

        def decode(ids: list[int]) -> str:
            if shown not in ids:
                return self.decode(ids)
            place = ids.index(shown)
            return self.decode(ids[:place]) + marker + decode(ids[place + 1 :])

        return decode

    def prompt_ids(self, prompt: Prompt, tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Return the ids of a prompt. A text is encoded as it is, messages go through the chat template."""
        if isinstance(prompt, str):
            return self.encode(prompt)
        return self.encode(self.prompts.write(prompt, tools), special=False)

    def score_many(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Return log-probabilities (nats); see `llms.protocols.Scorer`."""
        return self.engine.score([self._score_item(prompt, texts) for prompt, texts in requests])

    def _score_item(self, prompt: Prompt, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Tokenize a prompt with its continuations."""
        if isinstance(prompt, str):
            return self.split(prompt, texts)
        _check_messages(prompt)
        return self.split(self.prompts.write(prompt), texts, special=False)

    def split(
        self, text: str | WrittenPrompt, continuations: Sequence[str], *, special: bool = True
    ) -> tuple[list[int], list[list[int]]]:
        """Return the ids that a text shares with all its continuations, and the rest of each continuation.

        A tokenizer may merge the text's last characters with a continuation's first ones. If each full text
        is split after the shortest common prefix, the continuations are compared on equal terms, over the
        same positions of the text.

        Raises:
            BadRequest: A continuation is empty.
        """
        base = self.encode(text, special=special)
        full = [self.encode(text + continuation, special=special) for continuation in continuations]
        for continuation, ids in zip(continuations, full, strict=True):
            if not continuation or not ids:
                raise BadRequest(f"expected continuations with text, found {continuation!r}; leave it out")
        place = min([len(base), *(min(common_prefix(ids, base), len(ids) - 1) for ids in full)])
        if place == 0:
            # The first token needs one before it, which is the model's start of text.
            start = self.tokenizer.bos_token_id
            start = start if start is not None else next(iter(self.end_ids), 0)
            return [int(start)], full
        return base[:place], [ids[place:] for ids in full]


def _give_back() -> None:
    """Return freed memory to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _check_messages(prompt: Sequence[BaseMessage]) -> None:
    if not all(isinstance(message, BaseMessage) for message in prompt):
        raise BadRequest(f"expected a prompt as text or a list of messages, found {prompt!r}; give either")


def _special_ids(tokenizer: ModelTokenizer) -> frozenset[int]:
    """Return the ids of control tokens."""
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*(i for i in tokenizer.all_special_ids if i is not None), *marked})


_END_NAMES = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Names of control tokens that end a turn, a file or a filled gap, in vocabularies that have them."""


def _end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the end tokens: the tokenizer's, the model configurations', and those by the names below."""
    tokenizer = loaded.tokenizer
    found = {tokenizer.eos_token_id, *loaded.end_ids}
    for text in _END_NAMES:
        vocabulary_id = tokenizer.convert_tokens_to_ids(text)
        if vocabulary_id is not None and vocabulary_id != tokenizer.unk_token_id:
            found.add(vocabulary_id)
    return frozenset(int(i) for i in found if i is not None)
