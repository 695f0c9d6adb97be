"""One summary in the making: digests or written parts, the cache between, the checks, the result.

Knows the order of the steps. A model that does not write well never writes: its summary is made of the text's
own sentences.

summarize_chain: a text of any length in, a summary whose sentences name their parts out.

Knows the options and the two streams: pieces of a finished summary, or, refining, a whole one after each part
of a text that may still be coming in. How a summary is made lies in work.py.
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
from chains.summarize.cache import FolderCache, key
from chains.summarize.extract import Digest, choose, digest
from chains.summarize.parts import PART_TOKENS, Part, PartStream, plain, split_parts
from chains.summarize.result import Style, Summary, SummaryDelta, SummaryPart, SummarySentence
from chains.summarize.sources import SummaryInput, read_documents
from chains.summarize.write import Model, Writer, check, sentences_of
from chains.text.vectors import WordVectors, unit_vectors
from chains.text.words import numbers
from llms.protocols import writes_well

Mode = Literal["auto", "extractive", "written"]
Progress = Callable[[int, int], None]
"""Called with the parts done and the parts there are."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a chain was made with."""

    llm: Model | None
    embeddings: Embeddings
    style: Style
    mode: Mode
    cache: MutableMapping[str, str] | None
    progress: Progress
    part_tokens: int

    def __post_init__(self) -> None:
        """Check what the chain was made with; raises OptionError."""
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
        """Tell whether the model writes; raises OptionError where the style needs one that does."""
        found = self.mode == "written" or (
            self.mode == "auto" and self.llm is not None and writes_well(self.llm)
        )
        if not found and (self.style.audience or self.style.language):
            raise OptionError(
                f"expected a model that writes for audience or language, found {type(self.llm).__name__!r}: "
                "pass a larger model, or leave both out"
            )
        return found


class Work:
    """One run over `parts`: all of them at once (`whole`), or one after the other (`add`)."""

    def __init__(self, settings: Settings, config: RunnableConfig) -> None:
        """Keep the settings, and the config that calls of the model get."""
        self._set = settings
        self._config = config
        self.parts: list[Part] = []
        self.unread: dict[str, Exception] = {}
        self._digests: list[Digest] = []
        self._sentences: list[SummarySentence] = []
        self._text = ""
        self._cached = self._repaired = self._dropped = 0
        self._chosen = False

    @cached_property
    def _writer(self) -> Writer | None:
        """The model as a writer, where it is one; asked once there is a text, for that may load it."""
        return Writer(self._set.llm, self._set.style, self._config) if self._set.writes() else None

    def whole(self, parts: Sequence[Part]) -> Summary:
        """Return the summary of `parts`."""
        self.parts = list(parts)
        if self._writer is not None:
            self._write(self._writer)
        else:
            for place, part in enumerate(parts, start=1):
                self._digests.append(self._digest(part))
                self._set.progress(place, len(parts))
            self._choose()
        return self._summary()

    def _fall_back(self) -> None:
        """Let the text's own sentences stand for it where nothing that the model wrote may be used."""
        style = self._set.style
        if style.audience or style.language:
            raise UnusableReplyError(
                f"expected sentences that the text supports, found {self._dropped} others: try "
                "another model, or leave audience and language out"
            )
        self._digests = [self._digest(part) for part in self.parts]
        self._choose()

    def add(self, part: Part, known: int) -> Summary:
        """Return the summary of the parts so far and `part`; `known` parts are known to come."""
        self.parts.append(part)
        if self._writer is None:
            self._digests.append(self._digest(part))
            self._choose()
        else:
            self._settle(self._refined(self._writer, part))
            self._text = " ".join(one.text for one in self._sentences)
        self._set.progress(len(self.parts), known)
        return self._summary()

    def _digest(self, part: Part) -> Digest:
        name = key("digest", _identity(self._set.embeddings), part.start == 0, part.text)
        held = self._held(name)
        if held is not None:
            try:
                found = Digest.from_dict(json.loads(held))
            except (ValueError, KeyError, TypeError):
                self._cached -= 1
            else:
                return found
        made = digest(part, self._set.embeddings)
        if self._set.cache is not None:
            self._keep(name, json.dumps(made.to_dict()))
        return made

    def _choose(self) -> None:
        style, digests = self._set.style, self._digests
        if not any(one.places for one in digests):
            # No prose anywhere: code, a table or a list of facts stands for itself.
            digests = [digest(part, self._set.embeddings, prose=False) for part in self.parts]
        focus = unit_vectors(self._set.embeddings, [style.focus])[0] if style.focus else None
        self._chosen = True
        self._sentences = [
            SummarySentence(plain(one.text), number, one.text)
            for number, place in choose(self.parts, digests, style, focus)
            for one in (self.parts[number].sentences[place],)
        ]

    def _write(self, writer: Writer) -> None:
        alone = len(self.parts) == 1
        names = [self._key("part", alone, part.text) for part in self.parts]
        held = {place: text for place, name in enumerate(names) if (text := self._held(name)) is not None}
        missing = [place for place in range(len(self.parts)) if place not in held]

        def done(at: int, reply: str) -> None:
            place = missing[at]
            held[place] = " ".join(one.text for one in self._checked(reply, [place]))
            self._keep(names[place], held[place])
            self._set.progress(len(held), len(self.parts))

        writer.parts([self.parts[place] for place in missing], done)
        self._settle(writer.merge([held[place] for place in range(len(self.parts)) if held[place]]))

    def _refined(self, writer: Writer, part: Part) -> str:
        name = self._key("refine", self._text, part.text)
        held = self._held(name)
        if held is None:
            held = writer.refine(self._text or "(nothing yet)", part)
            self._keep(name, held)
        return held

    def _settle(self, reply: str) -> None:
        style = self._set.style
        found = self._checked(reply, range(len(self.parts)))[: style.most_sentences]
        if style.words is not None:
            sizes = np.cumsum([len(one.text.split()) for one in found])
            found = [one for one, size in zip(found, sizes, strict=True) if size <= style.words] or found[:1]
        if found:
            self._sentences, self._chosen = found, False
        elif not self._sentences:
            self._fall_back()

    def _checked(self, reply: str, places: Sequence[int]) -> list[SummarySentence]:
        if self._set.style.language:
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
        """Words of another language: nearness of words can say nothing, numbers still can."""
        found = []
        for sentence in sentences:
            fits = [place for place in places if numbers(sentence) <= numbers(self.parts[place].text)]
            if fits:
                found.append(SummarySentence(sentence, fits[0], ""))
            else:
                self._dropped += 1
        return found

    def _key(self, step: str, *parts: Any) -> str:
        return key(step, _identity(self._set.llm), repr(self._set.style), *parts)

    def _held(self, name: str) -> str | None:
        found = self._set.cache.get(name) if self._set.cache is not None else None
        self._cached += found is not None
        return found

    def _keep(self, name: str, value: str) -> None:
        if self._set.cache is not None:
            self._set.cache[name] = value

    def _summary(self) -> Summary:
        style = self._set.style
        return Summary(
            "".join(style.lead(place) + one.text for place, one in enumerate(self._sentences)),
            sentences=tuple(self._sentences),
            parts=tuple(SummaryPart(one.heading, one.source, one.start, one.end) for one in self.parts),
            sources=tuple(dict.fromkeys(one.source for one in self.parts)),
            method="extractive" if self._chosen else "written",
            calls=0 if self._writer is None else self._writer.calls,
            cached=self._cached,
            repaired=self._repaired,
            dropped=self._dropped,
            unread=tuple((path, str(error)) for path, error in self.unread.items()),
        )


def _identity(model: Any) -> str:
    """A name that changes with the model, for the cache's keys."""
    for name in ("model_name", "model"):
        value = getattr(model, name, None)
        if isinstance(value, str):
            return f"{type(model).__name__}:{value}"
    return type(model).__name__


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
    """Summarize a text, Documents, a file (`pathlib.Path`), a folder or a `StoreSource` of any length.

    Args:
        llm: Any LangChain model, or None for the text's own sentences only.
        embeddings: Finds the sentences that stand for the text; without it shared words do.
        style: Length, bullets, focus, audience, language.
        mode: "extractive" chooses sentences, "written" lets the model write and checks each sentence; "auto"
            writes unless the model says that it is small.
        refine: Read part by part; the stream then gives a whole `Summary` after each. `transform` and
            `atransform` take a text in pieces, and refine as its parts come in.
        cache: Keeps what was made of a part, by hash: a mapping, or a folder. A second run works on changed
            parts only.
        progress: Called after each part with the parts done and the parts known so far.
        part_tokens: Upper estimate of the tokens of a part, 64 or more.

    Returns:
        A Runnable to a `Summary`; its stream yields `SummaryDelta`s, then the `Summary`. Where nothing that
        the model wrote is supported by the text, the text's own sentences stand for it.

    Raises:
        OptionError: an option is out of range, or needs a model that writes.
        InputError: (when run) there is no text.
        UnusableReplyError: (when run) an audience or a language was asked for, and nothing that the model
            wrote is supported by the text.
        chains.retrieval.errors.SourceError: (when run) a file or a source that is not there or not readable.
    """
    settings = Settings(
        llm=llm,
        embeddings=embeddings if embeddings is not None else WordVectors(),
        style=style if style is not None else Style(),
        mode=mode,
        cache=FolderCache(Path(cache)) if isinstance(cache, str | Path) else cache,
        progress=progress or (lambda done, total: None),
        part_tokens=part_tokens,
    )
    return _refining(settings) if refine else _whole(settings)


def _whole(settings: Settings) -> Runnable[SummaryInput, Summary]:
    def run(given: SummaryInput, config: RunnableConfig) -> Iterator[SummaryDelta | Summary]:
        work = Work(settings, config)
        found = work.whole(split_parts(read_documents(given, work.unread), settings.part_tokens))
        for place, one in enumerate(found.sentences):
            yield SummaryDelta(settings.style.lead(place) + one.text)
        yield found

    return generator_chain(run, name="summarize_chain", result=Summary)


class _Intake:
    """What comes in, as parts: pieces of a text, or inputs that are whole by themselves."""

    def __init__(self, part_tokens: int) -> None:
        self._limit = part_tokens
        self._stream = PartStream(part_tokens)
        self._given: Any = ""

    def take(self, given: Any, unread: dict[str, Exception]) -> list[Part]:
        if isinstance(given, str):
            self._given = self._given or given[:60]
            # A piece may be white space; what is refused is a text that holds nothing else.
            return self._stream.feed(require_text("a text to summarize", given) if given.strip() else given)
        return [*self._stream.rest(), *split_parts(read_documents(given, unread), self._limit)]

    def rest(self, *, empty: bool) -> list[Part]:
        found = self._stream.rest()
        if empty and not found:
            raise EmptyInputError("a text to summarize", self._given)
        return found

    @property
    def pending(self) -> bool:
        return self._stream.pending


def _refining(settings: Settings) -> Runnable[SummaryInput, Summary]:
    def steps(work: Work, intake: _Intake, given: Any, *, last: bool = False) -> Iterator[Summary]:
        parts = intake.rest(empty=not work.parts) if last else intake.take(given, work.unread)
        known = len(work.parts) + len(parts) + intake.pending
        for part in parts:
            yield work.add(part, known)

    def transform(chunks: Iterator[SummaryInput], config: RunnableConfig) -> Iterator[Summary]:
        work, intake = Work(settings, config), _Intake(settings.part_tokens)
        for chunk in chunks:
            yield from steps(work, intake, chunk)
        yield from steps(work, intake, None, last=True)

    async def atransform(
        chunks: AsyncIterator[SummaryInput], config: RunnableConfig
    ) -> AsyncIterator[Summary]:
        work, intake = Work(settings, config), _Intake(settings.part_tokens)
        async for chunk in chunks:
            async with aclosing(stepped(steps(work, intake, chunk), config)) as found:
                async for summary in found:
                    yield summary
        async with aclosing(stepped(steps(work, intake, None, last=True), config)) as found:
            async for summary in found:
                yield summary

    # LangChain passes `config` to functions that take it; its types know only the input.
    chain: Any = RunnableGenerator(cast("Any", transform), cast("Any", atransform), name="summarize_chain")
    return cast("Runnable[SummaryInput, Summary]", chain)
