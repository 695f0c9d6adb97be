"""complete_chain: completes text or code after a prefix, or between a prefix and a suffix.

Plain text is streamed as the model writes it. For code, for a gap, and for several candidates, a few samples
are drawn, cut to the block or line, and ranked: those that parse come first, then those with the higher
log-probability per character of the completion and of the suffix after it, if the model scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from langchain_core.runnables import Runnable, RunnableConfig, ensure_config

from chains.complete import fixups, python
from chains.complete.model import Continuer, Model, completing, fim_marks
from chains.errors import InputError, OptionError, excerpt, require_text
from chains.options import require_model, require_whole
from chains.runnable import generator_chain
from llms.protocols import Scorer, find

Kind = Literal["text", "code"]
Gap = str | Mapping[str, str]
PREFIX_CHARS = 6000
"""The model sees the end of a longer prefix, from the start of a line; the whole prefix must still parse."""
SUFFIX_CHARS = 200
"""Characters of the suffix that are scored after each candidate."""


@dataclass(frozen=True)
class Candidate:
    """A completion with its score.

    Attributes:
        text: The completion.
        score: Log-probability in nats per character; higher is better. 0 if the model does not score.
        parses: True if prefix, completion and suffix parse together. None for plain text and for languages
            other than Python.
    """

    text: str
    score: float
    parses: bool | None = None


def complete_chain(
    llm: Model,
    *,
    kind: Kind = "text",
    language: str = "python",
    n: int = 1,
    samples: int = 4,
    max_tokens: int = 128,
    single_line: bool = False,
) -> Completer:
    """Return a chain that completes text or code.

    >>> from langchain_core.language_models import FakeListLLM
    >>> fill = complete_chain(FakeListLLM(responses=["r * r"]), kind="code")
    >>> fill.invoke({"prefix": "def square(r): return ", "suffix": ""})
    'r * r'

    Args:
        llm: Any LangChain model. A completion model, such as `LocalLLM`, continues the text as it stands, and
            so does `ChatLocal`, as the completion model on its weights. Another chat model is asked to, and
            what it adds around the continuation is removed.
        kind: "text" continues in the same voice; "code" stops at the end of the block or function.
        language: Language of the code. Python is checked by its parser.
        n: Number of candidates that `candidates` returns, 1 to 16.
        samples: Number of continuations drawn for code, gaps and candidates, 1 to 32.
        max_tokens: Most tokens of a continuation.
        single_line: Stop at the end of the line.

    Returns:
        A Runnable from a prefix, or {"prefix", "suffix"}, to the completion; its stream yields pieces of it.

    Raises:
        OptionError: An option is out of range.
    """
    if kind not in get_args(Kind):
        raise OptionError(f"expected kind to be one of {get_args(Kind)}, found {kind!r}: choose one of them")
    for name, value, most in (("n", n, 16), ("samples", samples, 32), ("max_tokens", max_tokens, 100_000)):
        require_whole(name, value, 1, most)
    if not isinstance(language, str):
        raise OptionError(f"expected language to be a name, found {excerpt(language)}: pass 'python'")
    pipeline = _CompletionPipeline(
        llm=completing(require_model(llm)),
        code=kind == "code",
        checked=kind == "code" and language.lower() in ("python", "py"),
        n=n,
        samples=max(samples, n),
        max_tokens=max_tokens,
        single_line=single_line,
    )
    return Completer(pipeline)


class Completer(Runnable[Gap, str]):
    """The Runnable that `complete_chain` returns; `candidates` gives more than the best completion.

    >>> from langchain_core.language_models import FakeListLLM
    >>> fill = complete_chain(FakeListLLM(responses=["r * r", "r ** 2"]), kind="code", n=2)
    >>> [one.text for one in fill.candidates({"prefix": "def square(r): return ", "suffix": ""})]
    ['r * r', 'r ** 2']
    """

    def __init__(self, pipeline: _CompletionPipeline) -> None:
        """Use `complete_chain`, which checks the options."""
        self.name = "complete_chain"
        self._pipeline = pipeline
        self._chain: Runnable[Gap, str] = generator_chain(pipeline.run, name="complete_chain", result=str)

    def __repr__(self) -> str:
        kind = "code" if self._pipeline.code else "text"
        return f"complete_chain({type(self._pipeline.llm).__name__}, kind={kind!r}, n={self._pipeline.n})"

    def candidates(self, gap: Gap, config: RunnableConfig | None = None) -> list[Candidate]:
        """Return up to `n` different completions, best first, with their scores."""
        return self._pipeline.candidates(*read_gap(gap), ensure_config(config))[: self._pipeline.n]

    def invoke(self, input: Gap, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """Return the best completion."""
        return self._chain.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Gap, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """Return the best completion."""
        return await self._chain.ainvoke(input, config, **kwargs)

    def stream(self, input: Gap, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        """Yield the completion in pieces."""
        yield from self._chain.stream(input, config, **kwargs)

    async def astream(self, input: Gap, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Yield the completion in pieces."""
        pieces: Any = self._chain.astream(input, config, **kwargs)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece


def read_gap(given: Gap) -> tuple[str, str]:
    """Return the prefix and the suffix of a chain's input.

    Raises:
        InputError: The input is a mapping without "prefix".
        EmptyInputError: The prefix is empty.
    """
    if isinstance(given, Mapping):
        if "prefix" not in given:
            raise InputError(
                f"expected a prefix, or {{prefix, suffix}}, found {sorted(given)!r}: add 'prefix'"
            )
        suffix = given.get("suffix") or ""
        # A suffix may be white space only, for example the end of a line.
        prefix = require_text("a prefix", given["prefix"])
        return prefix, suffix if str(suffix).isspace() or not suffix else require_text("a suffix", suffix)
    return require_text("a prefix", given), ""


@dataclass(frozen=True, kw_only=True)
class _CompletionPipeline:
    llm: Model
    code: bool
    checked: bool
    n: int
    samples: int
    max_tokens: int
    single_line: bool

    def run(self, given: Gap, config: RunnableConfig) -> Iterator[str]:
        prefix, suffix = read_gap(given)
        if self.code or suffix:
            found = self.candidates(prefix, suffix, config)
            yield found[0].text if found else ""
            return
        pieces = self._continuer(suffix).stream(_shown(prefix), suffix, config)
        yield from _at_least_nothing(_first_line(pieces) if self.single_line else pieces)

    def candidates(self, prefix: str, suffix: str, config: RunnableConfig) -> list[Candidate]:
        # At the start of a line inside a block the model would begin another function, so it gets the indent.
        indent = python.next_indent(prefix) if self.checked else ""
        continuer = self._continuer(suffix, bool(indent))
        shown = _shown(prefix) + indent
        raw = [indent + continuer.greedy(shown, suffix, config)]
        # If the greedy completion fits, no other is needed; samples take several times as long.
        if self.n > 1 or not self.checked or self._fit(prefix, raw[0], suffix) is None:
            # Several candidates should differ from each other, so they are drawn at a higher temperature.
            heat = 0.6 if self.n == 1 else 0.9
            raw += [indent + one for one in continuer.sampled(shown, suffix, self.samples - 1, config, heat)]
            if self.checked and all(self._fit(prefix, one, suffix) is None for one in raw):
                raw += fixups.handlers(
                    prefix, lambda lead: continuer.greedy(_shown(prefix) + lead, suffix, config)
                )
        texts = list(dict.fromkeys(self._cut(prefix, one, suffix) for one in raw))
        if self.checked:
            return self._ranked_code(prefix, suffix, raw, texts)
        return self._ranked(prefix, suffix, texts, None)

    def _continuer(self, suffix: str, in_block: bool = False) -> Continuer:
        marks = fim_marks(self.llm) if suffix else None
        stop = None
        if self.code and self.single_line:
            stop = ["\n"]
        elif self.checked and in_block:
            stop = ["\ndef ", "\nclass ", "\n@", "\nif ", "\n#"]
        return Continuer(self.llm, code=self.code, max_tokens=self.max_tokens, fim=marks, stop=stop)

    def _fit(self, prefix: str, raw: str, suffix: str) -> str | None:
        single = self.single_line or bool(suffix and not suffix.startswith("\n"))
        return python.fitting(prefix, raw, suffix, single_line=single)

    def _cut(self, prefix: str, raw: str, suffix: str) -> str:
        if self.single_line:
            return raw.lstrip("\n").split("\n", 1)[0] if not self.code else raw.split("\n", 1)[0]
        if self.checked:
            return python.block_end(prefix, raw)
        return raw

    def _ranked_code(
        self, prefix: str, suffix: str, raw: Sequence[str], texts: Sequence[str]
    ) -> list[Candidate]:
        fits = [self._fit(prefix, one, suffix) for one in raw]
        good = list(dict.fromkeys(one for one in fits if one is not None))
        if not good:
            good = fixups.fillers(prefix, suffix)
        if good:
            return self._ranked(prefix, suffix, good, True)
        return self._ranked(prefix, suffix, [one for one in texts if one.strip()] or list(texts), False)

    def _ranked(self, prefix: str, suffix: str, texts: Sequence[str], parse: bool | None) -> list[Candidate]:
        scorer = find(self.llm, Scorer)
        if scorer is None or not texts:
            return [Candidate(text, 0.0, parse) for text in texts]
        shown = _shown(prefix)
        behind = suffix[:SUFFIX_CHARS]
        requests: list[tuple[str, list[str]]] = [(shown, [text for text in texts if text])]
        if behind:
            requests += [(shown + text, [behind]) for text in texts]
        rows = scorer.score_many(cast("Any", requests))
        own = dict(zip(requests[0][1], rows[0], strict=True))
        after = [row[0] for row in rows[1:]] if behind else [0.0] * len(texts)
        found = []
        for text, follow in zip(texts, after, strict=True):
            score = own.get(text, 0.0) / max(1, len(text)) + (follow / len(behind) if behind else 0.0)
            found.append(Candidate(text, score, parse))
        return sorted(found, key=lambda one: -one.score)


def _at_least_nothing(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the pieces, or "" if there are none, because the completion then is "" and not None."""
    nothing = True
    for piece in pieces:
        nothing = False
        yield piece
    if nothing:
        yield ""


def _first_line(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the pieces up to the end of the first line that is not empty."""
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip("\n")
        line, end, _ = text.partition("\n")
        if line:
            begun = True
            yield line
        if end and begun:
            return


def _shown(prefix: str) -> str:
    if len(prefix) <= PREFIX_CHARS:
        return prefix
    cut = prefix.find("\n", len(prefix) - PREFIX_CHARS)
    return prefix[cut + 1 :] if 0 <= cut < len(prefix) - 1 else prefix[-PREFIX_CHARS:]
