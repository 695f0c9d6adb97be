"""Scores from a model's log-probabilities: how much more likely a label becomes by the text before it.

Knows the `Scorer` Protocol and the phrase that is scored; knows no embedder. A label's score is
log p(label | text, "This text is about") minus log p(label | "This text is about"), so that frequent and
short names gain nothing; listing the labels in a prompt or asking for a letter was near chance. The text is
data before a fixed phrase, it is never asked to follow anything, so commands in it change little. Long texts
are scored window by window.

Labels from a model's reply, for a model that cannot score.

Knows the prompt and how a reply is matched to a label; knows no probabilities beyond how sure the match is. A
reply that names no label, or several, gives no label and even scores; it is never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from numpy.typing import NDArray

from chains.classify.embedder import WINDOWS_AT_ONCE, Progress
from chains.classify.labels import Label, label_key
from chains.classify.result import softmax
from chains.prompts import fence, load_prompt
from chains.text.windows import windows
from llms.protocols import Scorer

TEMPERATURE = 1.25
"""Nats; between what calibrates SmolLM2-135M best on news (1.0) and on banking intents (1.5)."""
PRIOR_SHARE = 0.9
"""Share of a label's log-probability without a text that is taken off. Right on news / banking intents,
tuning halves: 0.70 / 0.71; 0.8 of it 0.68 / 0.67, all of it 0.69 / 0.66. Other content-free texts,
phrases and means over phrases were no better by more than noise."""
MULTI_FLOOR, MULTI_MARGIN = 2.3, 2.0
"""With `multi` a label is as likely as not to apply at this gain, or so far below the best label's if that is
more."""
WINDOW_TOKENS = 600
SHOTS_TOKENS = 900
"""Room for labelled examples before the text."""


class ModelScores:
    """Scores labels with a model; what the labels weigh without a text is computed once."""

    def __init__(
        self, scorer: Scorer, labels: Sequence[Label], examples: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Keep the phrase for each label; `examples` are pairs of a text and its label's place."""
        self._scorer = scorer
        self._spoken = [label.spoken for label in labels]
        self._shots = self._examples(examples)
        self._prior: NDArray[np.float64] | None = None

    def _examples(self, examples: Sequence[tuple[str, int]]) -> str:
        told, left = "", SHOTS_TOKENS
        by_round: dict[int, int] = {}
        for text, place in sorted(examples, key=lambda one: len(one[0])):
            shown = f"{self._prompt(text, '')}{self._spoken[place]}.\n\n"
            if by_round.get(place, 0) >= 4 or len(shown) // 3 > left:
                continue
            by_round[place] = by_round.get(place, 0) + 1
            left -= len(shown) // 3
            told += shown
        return told

    def _prompt(self, text: str, shots: str) -> str:
        return shots + load_prompt("chains.classify", "about").substitute(text=text)

    def gains(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float64]:
        """Return the gain [n, m] in nats of each label by each text, averaged over the windows of a text."""
        pieces = [windows(text, WINDOW_TOKENS) for text in texts]
        requests = [(self._prompt(piece, self._shots), self._spoken) for one in pieces for piece in one]
        if self._prior is None:
            requests.append((self._prompt("", self._shots).lstrip(), self._spoken))
        scored: list[list[float]] = []
        for first in range(0, len(requests), WINDOWS_AT_ONCE):
            scored += self._scorer.score_many(requests[first : first + WINDOWS_AT_ONCE])
            if progress is not None:
                progress(len(scored), len(requests))
        rows = np.asarray(scored, dtype=np.float64)
        if self._prior is None:
            self._prior = rows[-1]
        found, at = [], 0
        for one in pieces:
            weights = np.asarray([len(piece) for piece in one], dtype=np.float64)
            found.append((rows[at : at + len(one)] * (weights / weights.sum())[:, None]).sum(axis=0))
            at += len(one)
        return np.asarray(found) - PRIOR_SHARE * self._prior

    def probabilities(
        self, texts: Sequence[str], *, multi: bool, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Return probabilities [n, m]: softmax over labels, or one logistic a label with `multi`."""
        gains = self.gains(texts, progress)
        if multi:
            middle = np.maximum(MULTI_FLOOR, gains.max(axis=1, keepdims=True) - MULTI_MARGIN)
            return np.asarray(1 / (1 + np.exp(-(gains - middle) / TEMPERATURE)))
        return softmax(gains, TEMPERATURE)


SURE = 0.9
"""Probability given to the label that a reply names; the rest is shared by the others."""
REPLY_WINDOW_TOKENS = 1500


def reply_probabilities(
    llm: Runnable[LanguageModelInput, Any], labels: Sequence[Label], text: str, config: RunnableConfig
) -> NDArray[np.float64]:
    """Return probabilities [m] from one reply a window of `text`, averaged."""
    told = "\n".join(
        f"- {label.name}" + (f": {label.description}" if label.description else "") for label in labels
    )
    template = load_prompt("chains.classify", "reply")
    rows = []
    for piece in windows(text, REPLY_WINDOW_TOKENS):
        reply = llm.invoke(
            [HumanMessage(template.substitute(labels=told, text=piece, fence=fence(piece)))], config
        )
        place = match(reply if isinstance(reply, str) else str(reply.text), labels)
        row = np.full(len(labels), 1 / len(labels))
        if place is not None:
            row = np.full(len(labels), (1 - SURE) / (len(labels) - 1))
            row[place] = SURE
        rows.append(row)
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def match(reply: str, labels: Sequence[Label]) -> int | None:
    """Return the place of the one label that `reply` names (the longest of nested ones), else None."""
    said = " ".join(reply.casefold().split()).strip("\"'`.*- ")
    names = [label_key(label.name) for label in labels]
    if said in names:
        return names.index(said)
    held = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said)]
    longest = [name for name in held if not any(name != other and name in other for other in held)]
    return names.index(longest[0]) if len(longest) == 1 else None
