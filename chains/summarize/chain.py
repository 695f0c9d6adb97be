"""summarize_chain: a text of any length in, a summary whose sentences name their parts out.

Knows the options and the two streams: pieces of a finished summary, or, refining, a whole one after each part
of a text that may still be coming in. How a summary is made lies in work.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from langchain_core.embeddings import Embeddings
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator

from chains.errors import EmptyInputError, require_text
from chains.runnable import generator_chain, stepped
from chains.summarize.cache import FolderCache
from chains.summarize.parts import PART_TOKENS, Part, PartStream, split_parts
from chains.summarize.result import Style, Summary, SummaryDelta
from chains.summarize.sources import SummaryInput, read_documents
from chains.summarize.work import Mode, Progress, Settings, Work
from chains.summarize.write import Model
from chains.vectors import WordVectors


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
