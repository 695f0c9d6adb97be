"""The way of scoring that fits the models at hand.

In the order of how well they answer: a regression over labelled examples and the embedder, the embedder
alone, the model's log-probabilities, and last the reply of a model that cannot score; each lives in a file of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableConfig
from numpy.typing import NDArray

from chains.classify import embedder
from chains.classify.embedder import Progress, Regression
from chains.classify.labels import Label
from chains.classify.model import ModelScores, reply_probabilities
from chains.classify.result import Method
from chains.errors import OptionError, ScoringNeededError
from llms.protocols import Scorer, find

Wanted = Literal["auto", "embedder", "examples", "model", "reply"]
Model = Runnable[LanguageModelInput, Any]


@dataclass(kw_only=True)
class Scoring:
    """The models at hand, each made ready on first use."""

    llm: Model | None
    labels: tuple[Label, ...]
    embeddings: Embeddings | None
    shots: tuple[tuple[str, int], ...]
    progress: Progress | None = None

    @cached_property
    def scorer(self) -> Scorer | None:
        """The model's own scoring, where it has one."""
        return find(self.llm, Scorer)

    @cached_property
    def label_rows(self) -> NDArray[np.float32]:
        """The vectors of the labels' sentences."""
        return embedder.label_vectors(self.embedder, self.labels)

    @property
    def embedder(self) -> Embeddings:
        """The embedder; raises OptionError where none was given."""
        if self.embeddings is None:
            raise OptionError(
                f"expected embeddings for this method, found {self.embeddings!r}: pass embeddings="
            )
        return self.embeddings

    @cached_property
    def regression(self) -> Regression:
        """The regression, fitted on the examples."""
        texts = embedder.text_vectors(self.embedder, [text for text, _ in self.shots])
        return Regression(texts, [place for _, place in self.shots], self.label_rows)

    @cached_property
    def model_scores(self) -> ModelScores:
        """What scores with the model; raises ScoringNeededError where it cannot."""
        if self.scorer is None:
            raise ScoringNeededError(
                f"expected a model with score() for method='model', found {type(self.llm).__name__!r}: pass "
                "a ChatLocal, or leave method at 'auto'"
            )
        return ModelScores(self.scorer, self.labels, self.shots)

    def choose_method(self, wanted: Wanted, *, multi: bool) -> Method:
        """Return the way to score, and make sure that what it needs was given."""
        if wanted == "auto":
            if self.embeddings is not None:
                return "examples" if self.shots and not multi else "embedder"
            if self.llm is None:
                raise OptionError("expected a model or embeddings, found neither: pass llm or embeddings=")
            return "model" if self.scorer is not None else "reply"
        if wanted == "model":
            _ = self.model_scores
        elif wanted == "reply" and self.llm is None:
            raise OptionError(f"expected a model for method='reply', found {self.llm!r}: pass llm")
        elif wanted in ("embedder", "examples"):
            _ = self.embedder
        if wanted == "examples" and not self.shots:
            raise OptionError("expected examples for method='examples', found none: pass examples=")
        return wanted

    def probabilities(
        self, texts: Sequence[str], method: Method, config: RunnableConfig, *, multi: bool, together: bool
    ) -> NDArray[np.float64]:
        """Return probabilities [n, m] of the texts."""
        if method == "model":
            return self.model_scores.probabilities(texts, multi=multi, progress=self.progress)
        if method == "reply":
            llm = cast("Model", self.llm)
            return np.asarray([reply_probabilities(llm, self.labels, text, config) for text in texts])
        rows = embedder.text_vectors(self.embedder, texts, self.progress)
        if method == "examples":
            return self.regression.predict(rows)
        if together and len(texts) >= embedder.TRANSDUCTIVE_LEAST:
            return embedder.transductive(rows, self.label_rows)
        return embedder.zero_shot(rows, self.label_rows, multi=multi)
