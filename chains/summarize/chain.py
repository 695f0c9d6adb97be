"""summarize_chain: a text of any length in, a summary whose sentences name their parts out.

Knows the order of the steps (parts, then digests or written parts, then one summary), the cache between them
and the stream they make. A model that does not write well never writes: its summary is made of the text's own
sentences.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableConfig

from chains.errors import OptionError
from chains.rag.chain import writes_well
from chains.runnable import generator_chain
from chains.summarize.cache import FolderCache, key
from chains.summarize.extract import Digest, choose, digest
from chains.summarize.faithful import check
from chains.summarize.parts import PART_TOKENS, Part, read_documents, split_parts
from chains.summarize.result import Style, Summary, SummaryDelta, SummaryPart, SummarySentence
from chains.summarize.write import Model, Writer, sentences_of
from chains.vectors import WordVectors, unit_vectors
from chains.words import numbers

Mode = Literal["auto", "extractive", "written"]
SummaryInput = str | Document | Sequence[Document] | Path
Progress = Callable[[int, int], None]
"""Called with the parts done and the parts there are."""


def summarize_chain(
    llm: Model | None,
    *,
    embeddings: Embeddings | None = None,
    style: Style | None = None,
    mode: Mode = "auto",
    refine: bool = False,
    cache: MutableMapping[str, str] | Path | None = None,
    progress: Progress | None = None,
    part_tokens: int = PART_TOKENS,
) -> Runnable[SummaryInput, Summary]:
    """Summarize a text, Documents, a file or a folder of any length.

    Args:
        llm: Any LangChain model, or None for the text's own sentences only.
        embeddings: Finds the sentences that stand for the text; without it shared words do.
        style: Length, bullets, focus, audience, language.
        mode: "extractive" chooses sentences, "written" lets the model write and checks each sentence; "auto"
            writes unless the model says that it is small.
        refine: Read part by part; the stream then gives a whole `Summary` after each.
        cache: Keeps what was made of a part, by hash: a mapping, or a folder. A second run works on changed
            parts only.
        progress: Called after each part.
        part_tokens: Upper estimate of the tokens of a part, 64 or more.

    Returns:
        A Runnable to a `Summary`; its stream yields `SummaryDelta`s, then the `Summary`.

    Raises:
        OptionError: an option is out of range, or needs a model that writes.
    """
    style = style or Style()
    if mode not in get_args(Mode):
        raise OptionError(f"expected mode to be one of {get_args(Mode)}, found {mode!r}: choose one of them")
    if part_tokens < 64:
        raise OptionError(f"expected part_tokens of at least 64, found {part_tokens!r}: pass a larger number")
    if mode == "written" and llm is None:
        raise OptionError("expected a model for mode='written', found None: pass llm")
    steps = _Steps(
        llm=llm,
        embeddings=embeddings or WordVectors(),
        style=style,
        mode=mode,
        refine=refine,
        cache=FolderCache(cache) if isinstance(cache, Path) else cache,
        progress=progress or (lambda done, total: None),
        part_tokens=part_tokens,
    )
    return generator_chain(steps.run, name="summarize_chain", result=Summary)


@dataclass
class _Run:
    """One run: its parts, and what was counted on the way."""

    parts: list[Part]
    method: str
    cached: int = 0
    calls: int = 0
    repaired: int = 0
    dropped: int = 0
    sentences: list[SummarySentence] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Steps:
    llm: Model | None
    embeddings: Embeddings
    style: Style
    mode: Mode
    refine: bool
    cache: MutableMapping[str, str] | None
    progress: Progress
    part_tokens: int

    def run(self, given: SummaryInput, config: RunnableConfig) -> Iterator[SummaryDelta | Summary]:
        parts = split_parts(read_documents(given), self.part_tokens)
        writes = self.mode == "written" or (
            self.mode == "auto" and self.llm is not None and writes_well(self.llm)
        )
        if not writes and (self.style.audience or self.style.language):
            raise OptionError(
                f"expected a model that writes for audience or language, found {type(self.llm).__name__!r}: "
                "pass a larger model, or leave both out"
            )
        run = _Run(parts, "written" if writes else "extractive")
        if self.refine:
            yield from self._refined(run, config)
            return
        if writes:
            self._write(run, config)
        else:
            self._extract(run, parts)
        last = self._summary(run)
        for place, one in enumerate(run.sentences):
            yield SummaryDelta(self._lead(place) + one.text)
        yield last

    def _extract(self, run: _Run, parts: Sequence[Part]) -> None:
        digests = []
        for place, part in enumerate(parts, start=1):
            digests.append(self._digest(run, part))
            self.progress(place, len(run.parts))
        self._choose(run, parts, digests)

    def _choose(self, run: _Run, parts: Sequence[Part], digests: Sequence[Digest]) -> None:
        focus = unit_vectors(self.embeddings, [self.style.focus])[0] if self.style.focus else None
        run.sentences = [
            SummarySentence(parts[number].sentences[place].flat, number, parts[number].sentences[place].text)
            for number, place in choose(parts, digests, self.style, focus)
        ]

    def _digest(self, run: _Run, part: Part) -> Digest:
        name = key("digest", _identity(self.embeddings), part.text)
        held = self.cache.get(name) if self.cache is not None else None
        if held is not None:
            try:
                found = Digest.from_dict(json.loads(held))
            except (ValueError, KeyError, TypeError):
                pass
            else:
                run.cached += 1
                return found
        made = digest(part, self.embeddings)
        self._keep(name, json.dumps(made.to_dict()))
        return made

    def _keep(self, name: str, value: str) -> None:
        if self.cache is not None:
            self.cache[name] = value

    def _write(self, run: _Run, config: RunnableConfig) -> None:
        writer = self._writer(config)
        names = [
            key("part", _identity(self.llm), repr(self.style), len(run.parts) == 1, p.text) for p in run.parts
        ]
        known = self.cache if self.cache is not None else {}
        held = {place: known[name] for place, name in enumerate(names) if name in known}
        run.cached = len(held)
        missing = [place for place in range(len(run.parts)) if place not in held]

        def done(at: int, reply: str) -> None:
            place = missing[at]
            held[place] = " ".join(self._checked(run, reply, [place]))
            self._keep(names[place], held[place])
            self.progress(len(held), len(run.parts))

        writer.parts([run.parts[place] for place in missing], done)
        texts = [held[place] for place in range(len(run.parts)) if held[place]]
        self._settle(run, writer.merge(texts))
        run.calls = writer.calls

    def _refined(self, run: _Run, config: RunnableConfig) -> Iterator[Summary]:
        writer = self._writer(config) if run.method == "written" else None
        digests: list[Digest] = []
        text = ""
        for place, part in enumerate(run.parts, start=1):
            if writer is None:
                digests.append(self._digest(run, part))
                self._choose(run, run.parts[:place], digests)
            else:
                text = writer.refine(text or "(nothing yet)", part)
                self._settle(run, text, upto=place)
                text = " ".join(one.text for one in run.sentences)
                run.calls = writer.calls
            self.progress(place, len(run.parts))
            yield self._summary(run)

    def _writer(self, config: RunnableConfig) -> Writer:
        if self.llm is None:
            raise OptionError("expected a model that writes, found None: pass llm")
        return Writer(self.llm, self.style, config)

    def _checked(self, run: _Run, reply: str, places: Sequence[int]) -> list[str]:
        return [one.text for one in self._sentences(run, reply, places)]

    def _settle(self, run: _Run, reply: str, upto: int | None = None) -> None:
        places = range(len(run.parts) if upto is None else upto)
        run.sentences = self._sentences(run, reply, places)[: self.style.most_sentences]
        if self.style.words is not None:
            run.sentences = _within(run.sentences, self.style.words)

    def _sentences(self, run: _Run, reply: str, places: Sequence[int]) -> list[SummarySentence]:
        if self.style.language:
            # Its words are those of another language: nearness of words can say nothing, numbers still can.
            return _translated(run, sentences_of(reply), places)
        texts = [(place, run.parts[place].text, run.parts[place].sentences) for place in places]
        found: dict[str, SummarySentence] = {}
        for sentence in sentences_of(reply):
            checked = check(sentence, texts)
            if checked is None:
                run.dropped += 1
                continue
            run.repaired += checked.repaired
            found.setdefault(checked.text, SummarySentence(checked.text, checked.part, checked.quote))
        return list(found.values())

    def _lead(self, place: int) -> str:
        if self.style.bullets:
            return "- " if place == 0 else "\n- "
        return "" if place == 0 else " "

    def _summary(self, run: _Run) -> Summary:
        return Summary(
            "".join(self._lead(place) + one.text for place, one in enumerate(run.sentences)),
            sentences=tuple(run.sentences),
            parts=tuple(SummaryPart(one.heading, one.source, one.start, one.end) for one in run.parts),
            sources=tuple(dict.fromkeys(one.source for one in run.parts)),
            method=run.method,
            calls=run.calls,
            cached=run.cached,
            repaired=run.repaired,
            dropped=run.dropped,
        )


def _within(sentences: Sequence[SummarySentence], words: int) -> list[SummarySentence]:
    sizes = np.cumsum([len(one.text.split()) for one in sentences])
    return [one for one, size in zip(sentences, sizes, strict=True) if size <= words] or list(sentences[:1])


def _translated(run: _Run, sentences: Sequence[str], places: Sequence[int]) -> list[SummarySentence]:
    found = []
    for sentence in sentences:
        fits = [place for place in places if numbers(sentence) <= numbers(run.parts[place].text)]
        if fits:
            found.append(SummarySentence(sentence, fits[0], ""))
        else:
            run.dropped += 1
    return found


def _identity(model: Any) -> str:
    """A name that changes with the model, for the cache's keys."""
    for name in ("model_name", "model"):
        value = getattr(model, name, None)
        if isinstance(value, str):
            return f"{type(model).__name__}:{value}"
    return type(model).__name__
