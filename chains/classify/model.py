"""Scores from a language model: from its log-probabilities, or from its reply if it cannot score.

`ModelScores` scores a label by how much more probable the text before it makes it: log p(label | text, "This
text is about") minus log p(label | "This text is about"), so that frequent and short names gain nothing. The
text is only data before a fixed phrase, and the model is not asked to follow it, so instructions in it change
little. Listing the labels in a prompt, or asking for a letter, was near chance.

`reply_probabilities` asks a model that cannot score and looks for one label in its reply. A reply that names
no label, or several, gives no label and even scores; it is not guessed at.

Both read a long text window by window.
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
from chains.classify.labels import ClassLabel, label_key
from chains.classify.result import softmax
from chains.prompts import fence, load_prompt
from chains.text.windows import windows
from llms.protocols import Scorer

TEMPERATURE = 1.25
"""In nats. SmolLM2-135M is calibrated best at 1.0 on news and at 1.5 on banking intents."""
PRIOR_SHARE = 0.9
"""Share of a label's log-probability without a text that is subtracted. The accuracy on the tuning halves of
news and banking intents is 0.70 and 0.71; with 0.8 it is 0.68 and 0.67, with 1.0 it is 0.69 and 0.66. Other
content-free texts, other phrases and means over phrases were not better by more than noise."""
MULTI_FLOOR, MULTI_MARGIN = 2.3, 2.0
"""With `multi` a label has probability 0.5 at the gain MULTI_FLOOR, or at MULTI_MARGIN below the best label's
gain if that is more."""
WINDOW_TOKENS = 600
SHOTS_TOKENS = 900
"""Most tokens of labelled examples before the text."""


class ModelScores:
    """Scores labels with a model; their scores without a text are computed once."""

    def __init__(
        self, scorer: Scorer, labels: Sequence[ClassLabel], examples: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Prepare the labels' continuations; `examples` are pairs of a text and the index of its label."""
        self._scorer = scorer
        self._continuations = [label.continuation for label in labels]
        self._shots = self._examples(examples)
        self._prior: NDArray[np.float64] | None = None

    def _examples(self, examples: Sequence[tuple[str, int]]) -> str:
        """Return the shortest examples as text, at most four for each label."""
        shots, left = "", SHOTS_TOKENS
        count: dict[int, int] = {}
        for text, place in sorted(examples, key=lambda one: len(one[0])):
            shot = f"{self._prompt(text, '')}{self._continuations[place]}.\n\n"
            if count.get(place, 0) >= 4 or len(shot) // 3 > left:
                continue
            count[place] = count.get(place, 0) + 1
            left -= len(shot) // 3
            shots += shot
        return shots

    def _prompt(self, text: str, shots: str) -> str:
        return shots + load_prompt("chains.classify", "about").substitute(text=text)

    def gains(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float64]:
        """Return how much each text [n] raises each label [m], in nats, averaged over the text's windows."""
        pieces = [windows(text, WINDOW_TOKENS) for text in texts]
        requests = [
            (self._prompt(piece, self._shots), self._continuations) for one in pieces for piece in one
        ]
        if self._prior is None:
            requests.append((self._prompt("", self._shots).lstrip(), self._continuations))
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
        """Return probabilities [n, m]: a softmax over the labels, or with `multi` a logistic for each."""
        gains = self.gains(texts, progress)
        if multi:
            middle = np.maximum(MULTI_FLOOR, gains.max(axis=1, keepdims=True) - MULTI_MARGIN)
            return np.asarray(1 / (1 + np.exp(-(gains - middle) / TEMPERATURE)))
        return softmax(gains, TEMPERATURE)


SURE = 0.9
"""Probability of the label that a reply names. The other labels share the rest."""
REPLY_WINDOW_TOKENS = 1500


def reply_probabilities(
    llm: Runnable[LanguageModelInput, Any], labels: Sequence[ClassLabel], text: str, config: RunnableConfig
) -> NDArray[np.float64]:
    """Return probabilities [m], averaged over the replies to the windows of `text`."""
    names = "\n".join(
        f"- {label.name}" + (f": {label.description}" if label.description else "") for label in labels
    )
    template = load_prompt("chains.classify", "reply")
    rows = []
    for piece in windows(text, REPLY_WINDOW_TOKENS):
        reply = llm.invoke(
            [HumanMessage(template.substitute(labels=names, text=piece, fence=fence(piece)))], config
        )
        place = label_in(reply if isinstance(reply, str) else str(reply.text), labels)
        row = np.full(len(labels), 1 / len(labels))
        if place is not None:
            row = np.full(len(labels), (1 - SURE) / (len(labels) - 1))
            row[place] = SURE
        rows.append(row)
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


def label_in(reply: str, labels: Sequence[ClassLabel]) -> int | None:
    """Return the index of the one label that `reply` names, or None if it names none or several.

    >>> from chains.classify.labels import read_labels
    >>> labels = read_labels(["refund", "refund refused", "card"])
    >>> label_in("It is about a refund refused.", labels), label_in("A card, or a refund?", labels)
    (1, None)
    """
    text = " ".join(reply.casefold().split()).strip("\"'`.*- ")
    names = [label_key(label.name) for label in labels]
    if text in names:
        return names.index(text)
    named = [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    longest = [name for name in named if not any(name != other and name in other for other in named)]
    return names.index(longest[0]) if len(longest) == 1 else None
