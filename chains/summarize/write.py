"""Written summaries: what the model is asked, and how each sentence that it writes is checked.

A text of one part takes one call. Otherwise the model summarizes each part and merges the summaries, in as
many levels as it takes. No prompt is longer than a part and a few lines, so none exceeds the window.

A written sentence with a number or a name that its part does not contain is replaced by the sentence of that
part which shares most words with it, or dropped if none shares enough.

    >>> sorted(unsupported("Ida paid 40 euros.", "The ticket that Ida bought cost 30 euros."))
    ['40']
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig

from chains.errors import OptionError
from chains.prompts import fence, load_prompt
from chains.summarize.parts import PART_TOKENS, Part
from chains.summarize.result import Style
from chains.text.sentences import Sentence, split_sentences
from chains.text.windows import estimate_tokens
from chains.text.words import content_words, names, numbers

Model = Runnable[LanguageModelInput, Any]
BATCH = 8
"""Number of parts in one batch of calls."""


class Writer:
    """Writes summaries with one model in one style; `calls` counts the calls of the model."""

    def __init__(self, llm: Model | None, style: Style, config: RunnableConfig) -> None:
        """Make a writer; `config` is passed on to the model. Raises OptionError without a model."""
        if llm is None:
            raise OptionError("expected a model that writes, found None: pass llm")
        self._llm, self._style, self._config = llm, style, config
        self.calls = 0

    def parts(self, parts: Sequence[Part], done: Callable[[int, str], None]) -> None:
        """Summarize each part, a batch at a time; `done` is called with the index and summary of each."""
        for first in range(0, len(parts), BATCH):
            some = parts[first : first + BATCH]
            alone = len(parts) == 1
            replies = self._replies(
                [self._prompt("whole" if alone else "part", one.text, alone) for one in some]
            )
            for place, reply in enumerate(replies, start=first):
                done(place, reply)

    def merge(self, summaries: Sequence[str]) -> str:
        """Return one summary of `summaries`; if they are too long together, merge groups of them first."""
        level = list(summaries)
        while len(level) > 1:
            groups = _groups(level)
            last = len(groups) == 1
            prompts = [self._prompt("merge", "\n\n".join(group), last) for group in groups]
            level = self._replies(prompts)
        return level[0] if level else ""

    def refine(self, summary: str, part: Part) -> str:
        """Return `summary` with what `part` adds to it."""
        prompt = load_prompt("chains.summarize", "refine").substitute(
            summary=summary,
            text=part.text.strip(),
            style=self._instructions(final=True),
            fence=fence(part.text),
        )
        return self._replies([prompt])[0]

    def _prompt(self, name: str, text: str, final: bool) -> str:
        return load_prompt("chains.summarize", name).substitute(
            text=text.strip(), style=self._instructions(final=final), fence=fence(text)
        )

    def _instructions(self, *, final: bool) -> str:
        style = self._style
        lines = []
        if final and style.words is not None:
            lines.append(f"Use at most {style.words} words.")
        elif final or style.tldr:
            count = style.most_sentences
            lines.append("Write one sentence." if count == 1 else f"Write {count} sentences.")
        else:
            lines.append("Write three sentences.")
        if style.focus:
            lines.append(f"Keep to what answers this: {style.focus}")
        if style.audience:
            lines.append(f"Write for this reader: {style.audience}")
        if style.language:
            lines.append(f"Write in this language: {style.language}")
        return " ".join(lines)

    def _replies(self, prompts: Sequence[str]) -> list[str]:
        self.calls += len(prompts)
        replies = self._llm.batch([[HumanMessage(prompt)] for prompt in prompts], self._config)
        return [reply if isinstance(reply, str) else str(reply.text) for reply in replies]


def _groups(level: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for one in level:
        tokens = estimate_tokens(one)
        # A group has at least two summaries, or the number of summaries would never shrink.
        if len(groups[-1]) >= 2 and size + tokens > PART_TOKENS:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += tokens
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2].extend(groups.pop())
    return groups


# Reading and checking the reply.

REPAIR_LEAST = 0.3
"""Share of a sentence's content words that its replacement must contain."""


def unsupported(sentence: str, text: str) -> set[str]:
    """Return the numbers and names of `sentence` that do not occur in `text`."""
    known = set(content_words(text))
    missing = {name for name in names(sentence) if not set(content_words(name)) <= known}
    return missing | (numbers(sentence) - numbers(text))


@dataclass(frozen=True, slots=True)
class CheckedSentence:
    """A sentence that may be shown.

    Attributes:
        text: The sentence.
        part: Index of its part.
        quote: The sentence of that part that is nearest to it.
        repaired: True if `text` replaces the sentence that the model wrote.
    """

    text: str
    part: int
    quote: str
    repaired: bool


def check(sentence: str, texts: Sequence[tuple[int, str, Sequence[Sentence]]]) -> CheckedSentence | None:
    """Return what may be shown for a written sentence, or None if it must be dropped.

    Args:
        sentence: A sentence that the model wrote.
        texts: Index, text and sentences of each part that it may come from.
    """
    claimed = set(content_words(sentence))
    if not claimed:
        return None
    ranked = [
        (len(claimed & set(content_words(one.text))) / len(claimed), place, text, one)
        for place, text, sentences in texts
        for one in sentences
        if one.kind in ("prose", "item")
    ]
    ranked.sort(key=lambda one: -one[0])
    if not ranked:
        return None
    for share, place, text, one in ranked[:8]:
        if share > 0 and not unsupported(sentence, text):
            return CheckedSentence(sentence, place, one.text, False)
    share, place, _, one = ranked[0]
    return CheckedSentence(one.flat, place, one.text, True) if share >= REPAIR_LEAST else None


def sentences_of(reply: str) -> list[str]:
    """Return the sentences of a reply, without bullets and phrases such as "Here is a summary:"."""
    found = [part.flat for part in split_sentences(reply) if part.kind in ("prose", "item")]
    return [one for one in found if not re.match(r"(?i)^(sure|here (is|are)|summary\b).{0,60}:$", one)]
