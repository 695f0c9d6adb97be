"""The choice of a method of scoring, by what the caller passed.

The methods from best to worst are a regression over labelled examples ("examples"), the embedder alone
("embedder"), the log-probabilities of the model ("model"), and the reply of a model that cannot score
("reply").
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
from chains.classify.embedder import ExamplesRegression, Progress
from chains.classify.labels import ClassLabel
from chains.classify.model import ModelScores, reply_probabilities
from chains.classify.result import Method
from chains.errors import OptionError, ScoringNeededError
from llms.protocols import Scorer, find

MethodOption = Literal["auto", "embedder", "examples", "model", "reply"]
Model = Runnable[LanguageModelInput, Any]


@dataclass(kw_only=True)
class Scoring:
    """The models and labels of a chain; each method of scoring is prepared when it is first used."""

    llm: Model | None
    labels: tuple[ClassLabel, ...]
    embeddings: Embeddings | None
    shots: tuple[tuple[str, int], ...]
    progress: Progress | None = None

    @cached_property
    def scorer(self) -> Scorer | None:
        """The model as a `Scorer`, or None if it cannot score."""
        return find(self.llm, Scorer)

    @cached_property
    def label_rows(self) -> NDArray[np.float32]:
        """The vectors [m, d] of the labels' sentences."""
        return embedder.label_vectors(self.embedder, self.labels)

    @property
    def embedder(self) -> Embeddings:
        """The embedder. Raises OptionError if none was passed."""
        if self.embeddings is None:
            raise OptionError(
                f"expected embeddings for this method, found {self.embeddings!r}: pass embeddings="
            )
        return self.embeddings

    @cached_property
    def regression(self) -> ExamplesRegression:
        """The regression, fitted on the examples."""
        texts = embedder.text_vectors(self.embedder, [text for text, _ in self.shots])
        return ExamplesRegression(texts, [place for _, place in self.shots], self.label_rows)

    @cached_property
    def model_scores(self) -> ModelScores:
        """The scores of the model. Raises ScoringNeededError if it cannot score."""
        if self.scorer is None:
            raise ScoringNeededError(
                f"expected a model with score() for method='model', found {type(self.llm).__name__!r}: pass "
                "a ChatLocal, or leave method at 'auto'"
            )
        return ModelScores(self.scorer, self.labels, self.shots)

    def choose_method(self, wanted: MethodOption, *, multi: bool) -> Method:
        """Return the method of scoring; raises OptionError if it lacks something it needs."""
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
        """Return probabilities [n, m]; `together` lets the texts of a batch inform each other."""
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
