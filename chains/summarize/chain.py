"""summarize_chain: summarizes a text of any length, and names the part that each sentence comes from.

The text is cut into parts. If the model writes well, it summarizes each part, merges the summaries, and every
sentence it wrote is checked against the parts. Otherwise the summary consists of sentences of the text
itself. A cache keeps what was made of each part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator

from chains.errors import EmptyInputError, OptionError, UnusableReplyError, excerpt, require_text
from chains.options import require_embeddings, require_model, require_whole
from chains.runnable import generator_chain, stepped
from chains.summarize.cache import FolderCache, cache_key
from chains.summarize.extract import Digest, choose, digest
from chains.summarize.parts import PART_TOKENS, Part, PartStream, split_parts, without_markup
from chains.summarize.result import Style, Summary, SummaryDelta, SummaryPart, SummarySentence
from chains.summarize.sources import SummaryInput, read_documents
from chains.summarize.write import Model, Writer, check, sentences_of
from chains.text.vectors import WordVectors, unit_vectors
from chains.text.words import numbers
from llms.protocols import writes_well

Mode = Literal["auto", "extractive", "written"]
Progress = Callable[[int, int], None]
"""Called with the number of parts done and of parts known so far."""


def summarize_chain(
    llm: Model | None,
    *,
    embeddings: Embeddings | None = None,
    style: Style | None = None,
    mode: Mode = "auto",
    refine: bool = False,
    cache: MutableMapping[str, str] | str | Path | None = None,
    progress: Progress | None = None,
    part_tokens: int = PART_TOKENS,
) -> Runnable[SummaryInput, Summary]:
    """Return a chain that summarizes a text, Documents, a file (`pathlib.Path`), a folder or a `StoreSource`.

    >>> text = "The bridge over the river Ash was closed on Monday. Trains run as usual on both banks."
    >>> summary = summarize_chain(None, style=Style(sentences=1)).invoke(text)
    >>> summary.text, summary.method
    ('The bridge over the river Ash was closed on Monday.', 'extractive')

    Args:
        llm: Any LangChain model, or None to use sentences of the text only.
        embeddings: Used to find the sentences that represent the text. The default compares words.
        style: Length, bullets, focus, audience and language.
        mode: "extractive" chooses sentences of the text. "written" lets the model write and checks each
            sentence. "auto" is "written" unless the model says that it is small.
        refine: Read the text part by part; the stream then yields a whole `Summary` after each part.
            `transform` and `atransform` take the text in pieces, and refine as its parts come in.
        cache: A mapping or a folder that keeps what was made of each part, by hash, so that a second run only
            works on the parts that changed.
        progress: Called after each part with the number of parts done and of parts known so far.
        part_tokens: Upper estimate of the tokens in a part, 64 or more.

    Returns:
        A Runnable to a `Summary`; its stream yields `SummaryDelta`s, then the `Summary`. If the text supports
        nothing that the model wrote, the summary consists of sentences of the text.

    Raises:
        OptionError: An option is out of range, or needs a model that writes.
        InputError: (when run) There is no text.
        UnusableReplyError: (when run) The style names an audience or a language, and the text supports
            nothing that the model wrote.
        chains.retrieval.errors.SourceError: (when run) A file or a source is missing or not readable.
    """
    settings = SummarizeSettings(
        llm=llm,
        embeddings=embeddings if embeddings is not None else WordVectors(),
        style=style if style is not None else Style(),
        mode=mode,
        cache=FolderCache(Path(cache)) if isinstance(cache, str | Path) else cache,
        progress=progress or (lambda done, total: None),
        part_tokens=part_tokens,
    )
    return _refining(settings) if refine else _whole(settings)


def _whole(settings: SummarizeSettings) -> Runnable[SummaryInput, Summary]:
    def run(given: SummaryInput, config: RunnableConfig) -> Iterator[SummaryDelta | Summary]:
        current = SummaryRun(settings, config)
        parts = split_parts(read_documents(given, current.unread), settings.part_tokens)
        summary = current.summarize(parts)
        for place, one in enumerate(summary.sentences):
            yield SummaryDelta(settings.style.lead(place) + one.text)
        yield summary

    return generator_chain(run, name="summarize_chain", result=Summary)


def _refining(settings: SummarizeSettings) -> Runnable[SummaryInput, Summary]:
    def steps(run: SummaryRun, intake: _PartIntake, given: Any, *, last: bool = False) -> Iterator[Summary]:
        parts = intake.rest(empty=not run.parts) if last else intake.take(given, run.unread)
        known = len(run.parts) + len(parts) + intake.pending
        for part in parts:
            yield run.add(part, known)

    def transform(chunks: Iterator[SummaryInput], config: RunnableConfig) -> Iterator[Summary]:
        run, intake = SummaryRun(settings, config), _PartIntake(settings.part_tokens)
        for chunk in chunks:
            yield from steps(run, intake, chunk)
        yield from steps(run, intake, None, last=True)

    async def atransform(
        chunks: AsyncIterator[SummaryInput], config: RunnableConfig
    ) -> AsyncIterator[Summary]:
        run, intake = SummaryRun(settings, config), _PartIntake(settings.part_tokens)
        async for chunk in chunks:
            async with aclosing(stepped(steps(run, intake, chunk), config)) as summaries:
                async for summary in summaries:
                    yield summary
        async with aclosing(stepped(steps(run, intake, None, last=True), config)) as summaries:
            async for summary in summaries:
                yield summary

    # LangChain passes `config` to a function that takes it, but its types name the input only.
    chain: Any = RunnableGenerator(cast("Any", transform), cast("Any", atransform), name="summarize_chain")
    return cast("Runnable[SummaryInput, Summary]", chain)


class _PartIntake:
    """Turns inputs into parts. Strings are pieces of one text; any other input is whole by itself."""

    def __init__(self, part_tokens: int) -> None:
        self._limit = part_tokens
        self._stream = PartStream(part_tokens)
        self._given: Any = ""

    def take(self, given: Any, unread: dict[str, Exception]) -> list[Part]:
        if isinstance(given, str):
            self._given = self._given or given[:60]
            # A piece may be white space; only a text that consists of nothing else is refused.
            return self._stream.feed(require_text("a text to summarize", given) if given.strip() else given)
        return [*self._stream.rest(), *split_parts(read_documents(given, unread), self._limit)]

    def rest(self, *, empty: bool) -> list[Part]:
        parts = self._stream.rest()
        if empty and not parts:
            raise EmptyInputError("a text to summarize", self._given)
        return parts

    @property
    def pending(self) -> bool:
        return self._stream.pending


@dataclass(frozen=True, kw_only=True)
class SummarizeSettings:
    """The arguments of `summarize_chain`, with their defaults filled in."""

    llm: Model | None
    embeddings: Embeddings
    style: Style
    mode: Mode
    cache: MutableMapping[str, str] | None
    progress: Progress
    part_tokens: int

    def __post_init__(self) -> None:
        """Check the arguments; raises OptionError."""
        if self.mode not in get_args(Mode):
            raise OptionError(
                f"expected mode to be one of {get_args(Mode)}, found {self.mode!r}: choose one of them"
            )
        if not isinstance(self.style, Style):
            raise OptionError(f"expected a Style, found {excerpt(self.style)}: pass Style(sentences=5)")
        if self.mode == "written" and self.llm is None:
            raise OptionError("expected a model for mode='written', found None: pass llm")
        if self.cache is not None and not isinstance(self.cache, MutableMapping):
            raise OptionError(
                f"expected cache to be a folder or a mapping, found {excerpt(self.cache)}: pass one"
            )
        if self.llm is not None:
            require_model(self.llm)
        require_embeddings(self.embeddings)
        require_whole("part_tokens", self.part_tokens, 64, 1_000_000)

    def writes(self) -> bool:
        """Return True if the model writes the summary.

        Raises:
            OptionError: The model does not write, and the style names an audience or a language.
        """
        writes = self.mode == "written" or (
            self.mode == "auto" and self.llm is not None and writes_well(self.llm)
        )
        if not writes and (self.style.audience or self.style.language):
            raise OptionError(
                f"expected a model that writes for audience or language, found {type(self.llm).__name__!r}: "
                "pass a larger model, or leave both out"
            )
        return writes


class SummaryRun:
    """One run of the chain: over all `parts` at once (`summarize`), or part by part (`add`)."""

    def __init__(self, settings: SummarizeSettings, config: RunnableConfig) -> None:
        """Start a run without parts; `config` is passed on to the model."""
        self._settings = settings
        self._config = config
        self.parts: list[Part] = []
        self.unread: dict[str, Exception] = {}
        self._digests: list[Digest] = []
        self._sentences: list[SummarySentence] = []
        self._text = ""
        self._cached = self._repaired = self._dropped = 0
        self._extractive = False

    @cached_property
    def _writer(self) -> Writer | None:
        # Asked after the text was read, because asking may load the model.
        if not self._settings.writes():
            return None
        return Writer(self._settings.llm, self._settings.style, self._config)

    def summarize(self, parts: Sequence[Part]) -> Summary:
        """Return the summary of `parts`."""
        self.parts = list(parts)
        if self._writer is not None:
            self._write(self._writer)
        else:
            for place, part in enumerate(parts, start=1):
                self._digests.append(self._digest(part))
                self._settings.progress(place, len(parts))
            self._choose()
        return self._summary()

    def add(self, part: Part, known: int) -> Summary:
        """Return the summary of the parts so far and `part`; `known` is the number of parts known so far."""
        self.parts.append(part)
        if self._writer is None:
            self._digests.append(self._digest(part))
            self._choose()
        else:
            self._use_reply(self._refined(self._writer, part))
            self._text = " ".join(one.text for one in self._sentences)
        self._settings.progress(len(self.parts), known)
        return self._summary()

    # Extractive: sentences of the text.

    def _digest(self, part: Part) -> Digest:
        key = cache_key("digest", _identity(self._settings.embeddings), part.start == 0, part.text)
        value = self._from_cache(key)
        if value is not None:
            try:
                cached = Digest.from_dict(json.loads(value))
            except (ValueError, KeyError, TypeError):
                self._cached -= 1
            else:
                return cached
        made = digest(part, self._settings.embeddings)
        if self._settings.cache is not None:
            self._to_cache(key, json.dumps(made.to_dict()))
        return made

    def _choose(self) -> None:
        style, digests = self._settings.style, self._digests
        if not any(one.places for one in digests):
            # There is no prose at all, so sentences of code, a table or a list of facts are taken.
            digests = [digest(part, self._settings.embeddings, prose=False) for part in self.parts]
        focus = unit_vectors(self._settings.embeddings, [style.focus])[0] if style.focus else None
        self._extractive = True
        self._sentences = [
            SummarySentence(without_markup(one.text), number, one.text)
            for number, place in choose(self.parts, digests, style, focus)
            for one in (self.parts[number].sentences[place],)
        ]

    # Written: the model's sentences, checked.

    def _write(self, writer: Writer) -> None:
        alone = len(self.parts) == 1
        keys = [self._key("part", alone, part.text) for part in self.parts]
        texts = {place: text for place, key in enumerate(keys) if (text := self._from_cache(key)) is not None}
        missing = [place for place in range(len(self.parts)) if place not in texts]

        def done(at: int, reply: str) -> None:
            place = missing[at]
            texts[place] = " ".join(one.text for one in self._checked(reply, [place]))
            self._to_cache(keys[place], texts[place])
            self._settings.progress(len(texts), len(self.parts))

        writer.parts([self.parts[place] for place in missing], done)
        self._use_reply(writer.merge([texts[place] for place in range(len(self.parts)) if texts[place]]))

    def _refined(self, writer: Writer, part: Part) -> str:
        key = self._key("refine", self._text, part.text)
        reply = self._from_cache(key)
        if reply is None:
            reply = writer.refine(self._text or "(nothing yet)", part)
            self._to_cache(key, reply)
        return reply

    def _use_reply(self, reply: str) -> None:
        """Take the checked sentences of `reply` as the summary, cut to the length that the style asks for."""
        style = self._settings.style
        found = self._checked(reply, range(len(self.parts)))[: style.most_sentences]
        if style.words is not None:
            sizes = np.cumsum([len(one.text.split()) for one in found])
            found = [one for one, size in zip(found, sizes, strict=True) if size <= style.words] or found[:1]
        if found:
            self._sentences, self._extractive = found, False
        elif not self._sentences:
            self._fall_back()

    def _fall_back(self) -> None:
        """Take sentences of the text, because it supports nothing that the model wrote."""
        style = self._settings.style
        if style.audience or style.language:
            raise UnusableReplyError(
                f"expected sentences that the text supports, found {self._dropped} others: try "
                "another model, or leave audience and language out"
            )
        self._digests = [self._digest(part) for part in self.parts]
        self._choose()

    def _checked(self, reply: str, places: Sequence[int]) -> list[SummarySentence]:
        if self._settings.style.language:
            return self._translated(sentences_of(reply), places)
        texts = [(place, self.parts[place].text, self.parts[place].sentences) for place in places]
        found: dict[str, SummarySentence] = {}
        for sentence in sentences_of(reply):
            checked = check(sentence, texts)
            if checked is None:
                self._dropped += 1
                continue
            self._repaired += checked.repaired
            found.setdefault(checked.text, SummarySentence(checked.text, checked.part, checked.quote))
        return list(found.values())

    def _translated(self, sentences: Sequence[str], places: Sequence[int]) -> list[SummarySentence]:
        """Check the numbers only, because the words of another language cannot be compared."""
        found = []
        for sentence in sentences:
            fits = [place for place in places if numbers(sentence) <= numbers(self.parts[place].text)]
            if fits:
                found.append(SummarySentence(sentence, fits[0], ""))
            else:
                self._dropped += 1
        return found

    # The cache and the result.

    def _key(self, step: str, *parts: Any) -> str:
        return cache_key(step, _identity(self._settings.llm), repr(self._settings.style), *parts)

    def _from_cache(self, key: str) -> str | None:
        value = self._settings.cache.get(key) if self._settings.cache is not None else None
        self._cached += value is not None
        return value

    def _to_cache(self, key: str, value: str) -> None:
        if self._settings.cache is not None:
            self._settings.cache[key] = value

    def _summary(self) -> Summary:
        style = self._settings.style
        return Summary(
            "".join(style.lead(place) + one.text for place, one in enumerate(self._sentences)),
            sentences=tuple(self._sentences),
            parts=tuple(SummaryPart(one.heading, one.source, one.start, one.end) for one in self.parts),
            sources=tuple(dict.fromkeys(one.source for one in self.parts)),
            method="extractive" if self._extractive else "written",
            calls=0 if self._writer is None else self._writer.calls,
            cached=self._cached,
            repaired=self._repaired,
            dropped=self._dropped,
            unread=tuple((path, str(error)) for path, error in self.unread.items()),
        )


def _identity(model: Any) -> str:
    """Return a name for the cache key that differs between models."""
    for name in ("model_name", "model"):
        value = getattr(model, name, None)
        if isinstance(value, str):
            return f"{type(model).__name__}:{value}"
    return type(model).__name__
