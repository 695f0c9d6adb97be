"""Grammars over token ids: JSON schemas as masks on the logits, with a budget that is kept.

Knows llguidance, one tokenizer and token budgets; refuses to know prompts and tools. A constraint never lets
a text run out of tokens half-way: once what is left only just suffices, it takes the closing path.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llms.errors import UnsupportedModel, UnsupportedSchema
from llms.grammar.close import MAX_PATH, Closer, JsonState
from llms.grammar.schema import OPTIONS, Schema, prepared
from llms.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from llms.runtime import Runtime

CLOSE_SLACK = 192
"""Spare tokens below which every token is checked to leave a way to close."""

_CACHED_GRAMMARS = 128


class Grammars:
    """Compiles and keeps grammars for one tokenizer.

    Args:
        runtime: The loaded model.

    Raises:
        UnsupportedModel: A tokenizer that the grammar library cannot read.
    """

    def __init__(self, runtime: Runtime) -> None:
        from llguidance import LLTokenizer

        self.vocab_size = runtime.engine.decoder.vocab_size
        try:
            tokenizer = _read(runtime.tokenizer, self.vocab_size, sorted(runtime.end_ids))
        except Exception as error:
            raise UnsupportedModel(
                f"Expected a fast tokenizer for grammars, found {type(runtime.tokenizer).__name__!r} "
                f"({error}). Load the model with its tokenizer.json."
            ) from error
        self._tokenizer = tokenizer.with_slices(LLTokenizer.json_slices())
        self.banned = np.zeros(self.vocab_size, dtype=np.bool_)
        self.banned[[i for i in runtime.special_ids - runtime.end_ids if i < self.vocab_size]] = True
        self.texts = [
            "" if self.banned[i] or i in runtime.end_ids else tokenizer.decode_str([i])
            for i in range(self.vocab_size)
        ]
        self.closer = Closer(self.texts, min(runtime.end_ids))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def schema(self, schema: Schema | None) -> JsonConstraint:
        """Return a fresh constraint for a JSON schema; None: any JSON object.

        Raises:
            UnsupportedSchema: The grammar cannot express the schema.
        """
        from llguidance import LLMatcher

        ready = {"type": "object"} if schema is None else prepared(schema)
        return JsonConstraint(
            self, self._matcher(LLMatcher.grammar_from_json_schema(ready, overrides=OPTIONS))
        )

    def lark(self, grammar: str) -> JsonConstraint:
        """Return a fresh constraint for a Lark grammar (with `%json` parts)."""
        from llguidance import LLMatcher

        return JsonConstraint(self, self._matcher(LLMatcher.grammar_from_lark(grammar)))

    def _matcher(self, grammar: str) -> LLMatcher:
        """Compile, or copy what was compiled."""
        from llguidance import LLMatcher

        if grammar not in self._compiled:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise UnsupportedSchema(
                    f"Expected a schema that a grammar can express, found {matcher.get_error()}. Simplify it."
                )
            self._compiled[grammar] = matcher
            if len(self._compiled) > _CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        return self._compiled[grammar].deep_copy()

    def mask(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """Return the allowed tokens, bool [V] (31 us for 49,152 tokens, 25 of them for unpacking)."""
        packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, count=self.vocab_size, bitorder="little").view(np.bool_)
        return bits & ~self.banned


class JsonConstraint:
    """One answer under a grammar; implements `llms.engine.request.Constraint`.

    Args:
        grammars: Vocabulary and closer.
        matcher: Fresh matcher.
    """

    def __init__(self, grammars: Grammars, matcher: LLMatcher) -> None:
        self._grammars = grammars
        self._matcher = matcher
        self._state = JsonState()
        self._closing: list[int] | None = None
        self._after: list[int] | None = None
        self._check_at = sys.maxsize
        self._checked_depth = 0

    def mask(self, remaining: int) -> Tensor:
        """Return the allowed tokens."""
        allowed = self._grammars.mask(self._matcher)
        if not allowed.any():
            problem = self._matcher.get_error()
            raise UnsupportedSchema(f"Expected a grammar with a next token, found none ({problem}).")
        return torch.from_numpy(allowed)

    def settle(self, token: int, remaining: int) -> int:
        """Return the token, or another one where it would leave too few tokens to close.

        Args:
            token: What was sampled.
            remaining: Tokens left in the budget, this one included.
        """
        self._after = None
        state = replace(self._state)
        state.feed(self._grammars.texts[token])
        if remaining > self._check_at and state.depth <= self._checked_depth:
            return token
        after = self._matcher.deep_copy()
        if not after.consume_token(token) or after.is_stopped():
            return token
        self._checked_depth = state.depth
        path = self._grammars.closer.path(after, state, remaining - 1)
        if path is not None:
            slack = remaining - 1 - len(path)
            self._check_at = remaining - 1 if slack < CLOSE_SLACK else remaining - slack // 8
            self._after = path
            return token
        # Before this token there was a way, checked then.
        path = self._closing or self.close(remaining)
        if not path:  # no text of this schema is that short: the limit will cut it
            self._check_at = remaining - 1 - remaining // 8
            return token
        self._check_at, self._after = remaining - 1, path[1:]
        return path[0]

    def close(self, limit: int = MAX_PATH) -> list[int] | None:
        """Return tokens that complete the text from here, the end token included where it needs one.

        Args:
            limit: Most tokens of interest; None is returned where no way that short is found.
        """
        return self._grammars.closer.path(self._matcher, self._state, limit)

    def accept(self, token: int) -> bool:
        """Take a token; True where the text is complete."""
        if not self._matcher.consume_token(token):
            raise UnsupportedSchema(
                f"Expected token {token} to fit the grammar: {self._matcher.get_error()}."
            )
        self._state.feed(self._grammars.texts[token])
        if self._after is None and self._closing and self._closing[0] == token:
            # A token of the closing path that needed no check (a forced one).
            self._after = self._closing[1:]
        self._closing, self._after = self._after, None
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """Return the tokens that the grammar leaves no choice about, in the tokenizer's own spelling."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        return [] if any(self._grammars.banned[token] for token in tokens) else tokens


class LazyConstraint:
    """Free text until a marker, a grammar after it.

    Args:
        marker: Token ids or text that opens the grammar.
        inner: Makes the grammar's constraint.
    """

    def __init__(self, grammars: Grammars, marker: str, marker_id: int | None, inner: JsonConstraint) -> None:
        self._grammars = grammars
        self._marker, self._marker_id = marker, marker_id
        self._inner = inner
        self._text = ""
        self._open = False

    def mask(self, remaining: int) -> Tensor:
        """Return every token before the marker, the grammar's after it."""
        if self._open:
            return self._inner.mask(remaining)
        return torch.ones(self._grammars.vocab_size, dtype=torch.bool)

    def settle(self, token: int, remaining: int) -> int:
        """Keep the grammar's budget once it is open."""
        return self._inner.settle(token, remaining) if self._open else token

    def accept(self, token: int) -> bool:
        """Take a token, watching for the marker."""
        if self._open:
            return self._inner.accept(token)
        self._text = (self._text + self._grammars.texts[token])[-256:]
        self._open = token == self._marker_id or self._text.endswith(self._marker)
        return False

    def forced(self) -> list[int]:
        """Return what the grammar forces once it is open."""
        return self._inner.forced() if self._open else []


def json_of(value: Any) -> str:
    """Return JSON for a `%json` part of a Lark grammar."""
    return json.dumps(value, ensure_ascii=False)


def union(schemas: Sequence[Schema]) -> Schema:
    """Return a schema that allows any of the given ones."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _read(tokenizer: ModelTokenizer, vocabulary: int, end_ids: list[int]) -> LLTokenizer:
    """Return a tokenizer as the grammar library has it."""
    from llguidance import LLTokenizer

    return LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=vocabulary, eos_token=end_ids)
