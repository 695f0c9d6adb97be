"""Whether a written sentence keeps to the numbers and names of its source, and what to do when it does not.

Knows words, numbers and names; knows no model. A sentence with a number or a name that its part does not hold
is replaced by the part's own sentence that shares most words with it, or dropped where none shares enough.

Summaries that a capable model writes: one call, or map and merge, in as many levels as it takes.

Knows the plan from token counts and the prompts; knows no vectors. No prompt is longer than a part and a few
lines, so none meets the window. What comes back is sentences, checked by the caller against the parts they
come from.
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

REPAIR_LEAST = 0.3
"""Share of a sentence's content words that its replacement must hold."""


def unsupported(sentence: str, text: str) -> set[str]:
    """Return the numbers and names of `sentence` that do not occur in `text`."""
    held = set(content_words(text))
    missing = {name for name in names(sentence) if not set(content_words(name)) <= held}
    return missing | (numbers(sentence) - numbers(text))


@dataclass(frozen=True, slots=True)
class Checked:
    """A sentence as it may be shown, the place of its part, its nearest words, whether it was repaired."""

    text: str
    part: int
    quote: str
    repaired: bool


def check(sentence: str, texts: Sequence[tuple[int, str, Sequence[Sentence]]]) -> Checked | None:
    """Check a written sentence against its parts, given as (place, text, sentences); None drops it."""
    asked = set(content_words(sentence))
    if not asked:
        return None
    ranked = [
        (len(asked & set(content_words(one.text))) / len(asked), place, text, one)
        for place, text, sentences in texts
        for one in sentences
        if one.kind in ("prose", "item")
    ]
    ranked.sort(key=lambda one: -one[0])
    if not ranked:
        return None
    for share, place, text, one in ranked[:8]:
        if share > 0 and not unsupported(sentence, text):
            return Checked(sentence, place, one.text, False)
    share, place, _, one = ranked[0]
    return Checked(one.flat, place, one.text, True) if share >= REPAIR_LEAST else None


Model = Runnable[LanguageModelInput, Any]
BATCH = 8
"""Parts handed to the model at once."""


class Writer:
    """Writes with one model and one style; `calls` counts its calls."""

    def __init__(self, llm: Model | None, style: Style, config: RunnableConfig) -> None:
        """Keep the model, the style and the config that its calls get; raises OptionError without a model."""
        if llm is None:
            raise OptionError("expected a model that writes, found None: pass llm")
        self._llm, self._style, self._config = llm, style, config
        self.calls = 0

    def parts(self, parts: Sequence[Part], done: Callable[[int, str], None]) -> None:
        """Summarize each part, a batch at a time; `done` gets its place and summary when it is there."""
        for first in range(0, len(parts), BATCH):
            some = parts[first : first + BATCH]
            alone = len(parts) == 1
            replies = self._replies(
                [self._prompt("whole" if alone else "part", one.text, alone) for one in some]
            )
            for place, reply in enumerate(replies, start=first):
                done(place, reply)

    def merge(self, summaries: Sequence[str]) -> str:
        """Merge the parts' summaries into one; where they are too long together, group by group first."""
        level = list(summaries)
        while len(level) > 1:
            groups = _groups(level)
            last = len(groups) == 1
            prompts = [self._prompt("merge", "\n\n".join(group), last) for group in groups]
            level = self._replies(prompts)
        return level[0] if level else ""

    def refine(self, summary: str, part: Part) -> str:
        """Bring what `part` adds into `summary`."""
        prompt = load_prompt("chains.summarize", "refine").substitute(
            summary=summary, text=part.text.strip(), style=self._wishes(final=True), fence=fence(part.text)
        )
        return self._replies([prompt])[0]

    def _prompt(self, name: str, text: str, final: bool) -> str:
        return load_prompt("chains.summarize", name).substitute(
            text=text.strip(), style=self._wishes(final=final), fence=fence(text)
        )

    def _wishes(self, *, final: bool) -> str:
        style = self._style
        told = []
        if final and style.words is not None:
            told.append(f"Use at most {style.words} words.")
        elif final or style.tldr:
            count = style.most_sentences
            told.append("Write one sentence." if count == 1 else f"Write {count} sentences.")
        else:
            told.append("Write three sentences.")
        if style.focus:
            told.append(f"Keep to what answers this: {style.focus}")
        if style.audience:
            told.append(f"Write for this reader: {style.audience}")
        if style.language:
            told.append(f"Write in this language: {style.language}")
        return " ".join(told)

    def _replies(self, prompts: Sequence[str]) -> list[str]:
        self.calls += len(prompts)
        replies = self._llm.batch([[HumanMessage(prompt)] for prompt in prompts], self._config)
        return [reply if isinstance(reply, str) else str(reply.text) for reply in replies]


def sentences_of(reply: str) -> list[str]:
    """Return the sentences of a reply, bullets and opening phrases such as "Here is a summary:" taken off."""
    found = [part.flat for part in split_sentences(reply) if part.kind in ("prose", "item")]
    return [one for one in found if not re.match(r"(?i)^(sure|here (is|are)|summary\b).{0,60}:$", one)]


def _groups(level: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for one in level:
        tokens = estimate_tokens(one)
        # Two to a group at least, or the levels would never become fewer.
        if len(groups[-1]) >= 2 and size + tokens > PART_TOKENS:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += tokens
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2].extend(groups.pop())
    return groups
