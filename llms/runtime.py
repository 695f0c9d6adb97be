"""A loaded model that is ready for text: its engine, tokenizer, prompts and grammars.

Chat models with the same load settings share one `Runtime`, and with it the weights and the batch.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, Self
from weakref import WeakSet

from langchain_core.messages import BaseMessage

from llms.decoders.sampling import Sampling
from llms.engine.engine import Engine
from llms.engine.prefix import common_prefix
from llms.engine.request import Constraint, GenerationRequest
from llms.engine.stream import Stream
from llms.errors import BadRequest
from llms.mistral_prompts import WrittenPrompt
from llms.models.load import LoadedModel, load, make_decoder
from llms.params import GenerationParams, LoadSettings
from llms.prompts import PromptBuilder

if TYPE_CHECKING:
    from llms.grammar.grammar import Grammars
    from llms.protocols import Prompt, ScoreRequest

_SHARED: dict[tuple[LoadSettings, str, int], Runtime] = {}
_LOCKS: dict[tuple[LoadSettings, str, int], threading.Lock] = {}
_GUARD = threading.Lock()
_ALL: WeakSet[Runtime] = WeakSet()


class Runtime:
    """A loaded model with its engine.

        runtime = ChatLocal(model="smollm2-135m").runtime()
        ids = runtime.prompt_ids([HumanMessage("Hello")])
        runtime.decode(ids)

    Args:
        loaded: The model and its tokenizer.
        decoder: `auto`, or the name of a decoder.
        max_slots: Maximum number of sequences with KV at once, including cached prefixes.

    Attributes:
        identity: A random text that differs from that of any other runtime, in other processes too.
        end_ids: Tokens that end an answer.
    """

    def __init__(self, loaded: LoadedModel, *, decoder: str = "auto", max_slots: int = 64) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.prompts = PromptBuilder(loaded.tokenizer)
        self.identity = secrets.token_hex(8)
        self._new_engine: Callable[[], Engine] = lambda: Engine(
            make_decoder(loaded, max_slots=max_slots, kind=decoder)
        )
        self._engine: Engine | None = self._new_engine()
        self.end_ids = _end_ids(loaded)
        self._building = threading.Lock()
        _ALL.add(self)

    @property
    def engine(self) -> Engine:
        """The engine. A forked child makes a new one on the same weights."""
        if self._engine is None:
            with self._building:
                self._engine = self._engine or self._new_engine()
        return self._engine

    def forked(self) -> None:
        """Forget the parent's engine, whose locks may be held by threads that this process does not have."""
        self._engine, self._building = None, threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the same object, so that copies of a model share its weights."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise `BadRequest`: weights are not pickled. A model with a name is loaded again from its name."""
        raise BadRequest(
            f"expected a model that another process can load by name, found {self.loaded.name!r}, which was "
            "handed over loaded; save it to a folder and give that as model="
        )

    def submit(
        self,
        params: GenerationParams,
        prompt: Sequence[int],
        *,
        index: int = 0,
        decode: Callable[[list[int]], str] | None = None,
        constraint: Constraint | None = None,
    ) -> Stream:
        """Queue one answer and return its stream.

        Args:
            params: Checked parameters.
            prompt: Token ids.
            index: Number of the answer; each one has a seed of its own.
            decode: Turns token ids into text. The default is the tokenizer's.
            constraint: A grammar, or None.
        """
        seed = secrets.randbits(63) if params.seed is None else params.seed
        request = GenerationRequest(
            prompt=tuple(prompt),
            # Cap max_tokens at the space that is left in the window; the finish reason is then "length".
            max_tokens=max(1, min(params.max_tokens, self.engine.decoder.window - len(prompt))),
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
        return self.engine.submit(request)

    @property
    def small(self) -> bool:
        """Whether the model has fewer than a billion parameters, too few to choose tools by writing."""
        return self.loaded.parameters < 1_000_000_000

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of control tokens, which no text may contain."""
        marked = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset({*(i for i in self.tokenizer.all_special_ids if i is not None), *marked})

    @cached_property
    def grammars(self) -> Grammars:
        """The grammars of this tokenizer. The first use takes 0.5 s for 49,152 tokens."""
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


def shared(settings: LoadSettings, *, decoder: str, max_slots: int) -> Runtime:
    """Return the runtime of these settings, loaded on first use; other threads wait for it."""
    key = (settings, decoder, max_slots)
    with _GUARD:
        lock = _LOCKS.setdefault(key, threading.Lock())
    with lock:
        if key not in _SHARED:
            _SHARED[key] = Runtime(load(settings), decoder=decoder, max_slots=max_slots)
        return _SHARED[key]


def find_shared(settings: LoadSettings, *, decoder: str, max_slots: int) -> Runtime | None:
    """Return the runtime of these settings if it is loaded already, else None."""
    return _SHARED.get((settings, decoder, max_slots))


def unload_all() -> None:
    """Forget all shared models. Their memory is freed when no object refers to them any more."""
    with _GUARD:
        _SHARED.clear()
        _LOCKS.clear()


def _after_fork() -> None:
    """Make loaded models usable in a forked child, which has the weights but none of the other threads.

    The threads of libgomp are gone, too, and a forward pass would wait for them forever. So the child
    computes with one thread.
    """
    global _GUARD
    _GUARD = threading.Lock()
    _LOCKS.clear()
    for runtime in list(_ALL):
        runtime.forked()
    if _ALL and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_after_fork)


def _check_messages(prompt: Sequence[BaseMessage]) -> None:
    if not all(isinstance(message, BaseMessage) for message in prompt):
        raise BadRequest(f"expected a prompt as text or a list of messages, found {prompt!r}; give either")


def _end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Return the end tokens: the tokenizer's, the model configurations', and the template's end of a turn."""
    tokenizer = loaded.tokenizer
    found = {tokenizer.eos_token_id, *loaded.end_ids}
    for text in ("<|im_end|>", "<|eot_id|>", "<|end|>"):
        vocabulary_id = tokenizer.convert_tokens_to_ids(text)
        if vocabulary_id is not None and vocabulary_id != tokenizer.unk_token_id:
            found.add(vocabulary_id)
    return frozenset(int(i) for i in found if i is not None)
