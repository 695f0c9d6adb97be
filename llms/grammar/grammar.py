"""Grammars over token ids: they mask logits so that a text follows a JSON schema and fits its token budget.

`Grammars` compiles JSON schemas and Lark grammars with llguidance. `GrammarConstraint` drives one answer: it
masks the tokens that the grammar forbids, and once the tokens that are left only just suffice to complete the
text, it takes the path that completes it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Set
from dataclasses import replace
from typing import TYPE_CHECKING

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

CLOSE_SLACK = 192
"""Number of spare tokens below which every token is checked for a way to complete the text after it."""

_CACHED_GRAMMARS = 128


class Grammars:
    """Compiles grammars for one tokenizer and keeps them.

        grammars = Grammars(tokenizer, vocab_size=49152, end_ids={2}, special_ids={0, 1, 2})
        constraint = grammars.schema({"type": "object", "properties": {"city": {"type": "string"}}})
        constraint.mask(remaining=64)  # bool [V]: True for the tokens that begin such an object

    Args:
        tokenizer: The model's tokenizer.
        vocab_size: Number of logits of the model.
        end_ids: Tokens that end an answer.
        special_ids: Control tokens, which no answer may contain.

    Raises:
        UnsupportedModel: The grammar library cannot read the tokenizer.

    Attributes:
        banned: Tokens that are never allowed, bool [V].
        texts: The text of each token, "" for control tokens.
    """

    def __init__(
        self, tokenizer: ModelTokenizer, *, vocab_size: int, end_ids: Set[int], special_ids: Set[int]
    ) -> None:
        from llguidance import LLTokenizer

        self.vocab_size = vocab_size
        try:
            readable = _read(tokenizer, vocab_size, sorted(end_ids))
        except Exception as error:
            raise UnsupportedModel(
                f"expected a fast tokenizer for grammars, found {type(tokenizer).__name__!r} ({error}); load "
                f"the model with its tokenizer.json"
            ) from error
        self._tokenizer = readable.with_slices(LLTokenizer.json_slices())
        self.banned = np.zeros(vocab_size, dtype=np.bool_)
        self.banned[[i for i in special_ids - end_ids if i < vocab_size]] = True
        self.texts = [
            "" if self.banned[i] or i in end_ids else readable.decode_str([i]) for i in range(vocab_size)
        ]
        self.closer = Closer(self.texts, min(end_ids))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def schema(self, schema: Schema | None) -> GrammarConstraint:
        """Return a new constraint for a JSON schema. None allows any JSON object.

        Raises:
            UnsupportedSchema: The grammar cannot express the schema.
        """
        from llguidance import LLMatcher

        ready = {"type": "object"} if schema is None else prepared(schema)
        grammar = LLMatcher.grammar_from_json_schema(ready, overrides=OPTIONS)
        return GrammarConstraint(self, self._matcher(grammar))

    def lark(self, grammar: str) -> GrammarConstraint:
        """Return a new constraint for a Lark grammar, which may have `%json` parts."""
        from llguidance import LLMatcher

        return GrammarConstraint(self, self._matcher(LLMatcher.grammar_from_lark(grammar)))

    def _matcher(self, grammar: str) -> LLMatcher:
        """Return a matcher at the beginning of a grammar, compiled on its first use."""
        from llguidance import LLMatcher

        if grammar not in self._compiled:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if matcher.is_error():
                raise UnsupportedSchema(
                    f"expected a schema that a grammar can express, found {matcher.get_error()}; simplify it"
                )
            self._compiled[grammar] = matcher
            if len(self._compiled) > _CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        return self._compiled[grammar].deep_copy()

    def mask(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """Return the tokens that a matcher allows, bool [V].

        It takes 31 us for 49,152 tokens, 25 us of them for unpacking the bits.
        """
        packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(packed, count=self.vocab_size, bitorder="little").view(np.bool_)
        return bits & ~self.banned


class GrammarConstraint:
    """The logits processor of one answer under a grammar; implements `llms.engine.request.Constraint`.

    Args:
        grammars: The vocabulary, and the search for a path that completes a text.
        matcher: A matcher at the beginning of the grammar.
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
        """Return the tokens that the grammar allows next, bool [V]."""
        allowed = self._grammars.mask(self._matcher)
        if not allowed.any():
            problem = self._matcher.get_error()
            raise UnsupportedSchema(
                f"expected a grammar with a next token, found none ({problem}); simplify the schema"
            )
        return torch.from_numpy(allowed)

    def fit_budget(self, token: int, remaining: int) -> int:
        """Return the token, or another one if too few tokens would be left to complete the text after it.

        Args:
            token: The sampled token.
            remaining: Number of tokens left in the budget, including this one.
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
        # The text could be completed before this token, by a path that was found then or is found now.
        path = self._closing or self.close(remaining)
        if not path:  # No text of this schema is that short, so the limit will cut the answer.
            self._check_at = remaining - 1 - remaining // 8
            return token
        self._check_at, self._after = remaining - 1, path[1:]
        return path[0]

    def close(self, limit: int = MAX_PATH) -> list[int] | None:
        """Return tokens that complete the text, with the end token if it needs one.

        Args:
            limit: Maximum number of tokens. None is returned if no path that short is found.
        """
        return self._grammars.closer.path(self._matcher, self._state, limit)

    def accept(self, token: int) -> bool:
        """Advance by a token. Return whether the text is complete."""
        if not self._matcher.consume_token(token):
            raise UnsupportedSchema(
                f"expected a token of the grammar, found {token} ({self._matcher.get_error()}); simplify the "
                f"schema"
            )
        self._state.feed(self._grammars.texts[token])
        if self._after is None and self._closing and self._closing[0] == token:
            # A forced token is not checked by fit_budget. This one follows the path that is known already.
            self._after = self._closing[1:]
        self._closing, self._after = self._after, None
        return bool(self._matcher.is_stopped())

    def forced(self) -> list[int]:
        """Return the tokens that must come next, spelled as the tokenizer would spell their text."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        return [] if any(self._grammars.banned[token] for token in tokens) else tokens


class LazyConstraint:
    """A logits processor that allows any text until a marker, and follows a grammar after it.

    Args:
        grammars: The vocabulary.
        marker: The text that starts the grammar.
        marker_id: The token of the marker, or None if it is not a single token.
        inner: The constraint of the text after the marker.
    """

    def __init__(
        self, grammars: Grammars, marker: str, marker_id: int | None, inner: GrammarConstraint
    ) -> None:
        self._grammars = grammars
        self._marker, self._marker_id = marker, marker_id
        self._inner = inner
        self._text = ""
        self._open = False

    def mask(self, remaining: int) -> Tensor:
        """Return all tokens before the marker, and those that the grammar allows after it, bool [V]."""
        if self._open:
            return self._inner.mask(remaining)
        return torch.ones(self._grammars.vocab_size, dtype=torch.bool)

    def fit_budget(self, token: int, remaining: int) -> int:
        """Return the token, or after the marker another one if it would not fit the budget."""
        return self._inner.fit_budget(token, remaining) if self._open else token

    def accept(self, token: int) -> bool:
        """Advance by a token. Return whether the text is complete, which it is not before the marker."""
        if self._open:
            return self._inner.accept(token)
        self._text = (self._text + self._grammars.texts[token])[-256:]
        self._open = token == self._marker_id or self._text.endswith(self._marker)
        return False

    def forced(self) -> list[int]:
        """Return the tokens that must come next, which there are only after the marker."""
        return self._inner.forced() if self._open else []


def _read(tokenizer: ModelTokenizer, vocab_size: int, end_ids: list[int]) -> LLTokenizer:
    """Return a tokenizer in the form of the grammar library."""
    from llguidance import LLTokenizer

    return LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=vocab_size, eos_token=end_ids)
