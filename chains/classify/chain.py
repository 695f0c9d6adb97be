"""classify_chain: a text in, always one of the labels out, with calibrated probabilities.

Knows which way of scoring fits what it was given and how results are made of rows of probabilities; each way
lives in a file of its own. In the order of how well they answer: a regression over labelled examples and the
embedder, the embedder alone, the model's log-probabilities, and last the reply of a model that cannot score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast, get_args

import numpy as np
from langchain_core.callbacks import CallbackManagerForChainRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor
from numpy.typing import NDArray

from chains.classify import embedder
from chains.classify.examples import Examples, Regression, read_examples
from chains.classify.guard import guarded
from chains.classify.labels import Label, Labels, read_labels
from chains.classify.model import ModelScores
from chains.classify.reply import reply_probabilities
from chains.classify.result import Classification, Method, choose
from chains.errors import OptionError, ScoringNeededError, require_text
from chains.sentences import split_sentences
from llms.protocols import Scorer, find_scorer

Wanted = Literal["auto", "embedder", "examples", "model", "reply"]
Model = Runnable[LanguageModelInput, Any]


def classify_chain(
    llm: Model | None,
    labels: Labels,
    *,
    embeddings: Embeddings | None = None,
    examples: Examples | None = None,
    multi_label: bool = False,
    abstain_below: float = 0.0,
    transductive: bool = False,
    explain: bool = False,
    method: Wanted = "auto",
) -> Runnable[str, Classification]:
    """Choose among `labels` for a text.

    Args:
        llm: Any LangChain model, or None where `embeddings` are given. One that scores is scored, never
            asked.
        labels: Names, name -> description, name -> more labels (a hierarchy), an Enum or a Literal; 2 to
            1,000.
        embeddings: Scores best; also what `examples` and `transductive` rest on.
        examples: label -> texts, or pairs of a text and its label. A few help, a few hundred help much.
        multi_label: Each label on its own: `labels` of the result holds all that apply, maybe none.
        abstain_below: Give no label where the best probability lies below this, 0 to 1.
        transductive: Let the texts of one `batch` of at least 100, of mixed classes, inform each other.
        explain: Also give the sentence of the text that speaks most for the label.
        method: "auto", or the one way of scoring to use.

    Returns:
        A Runnable of a text (or a Document) to its `Classification`; `batch` scores all its texts together.

    Raises:
        LabelsError: labels that cannot be told apart, too few or too many.
        ExamplesError: examples that do not fit the labels.
        OptionError: an option is out of range, or does not fit what was given.
        ScoringNeededError: `method="model"` and the model cannot score.
    """
    if not 0 <= abstain_below <= 1:
        raise OptionError(f"expected abstain_below to be 0 to 1, found {abstain_below!r}: pass a probability")
    if method not in get_args(Wanted):
        raise OptionError(f"expected method to be one of {get_args(Wanted)}, found {method!r}: choose one")
    read = read_labels(labels)
    shots = read_examples(examples, read) if examples is not None else []
    way = _Way(llm=llm, labels=tuple(read), embeddings=embeddings, shots=tuple(shots))
    if transductive and embeddings is None:
        raise OptionError(
            f"expected embeddings with transductive=True, found {embeddings!r}: pass embeddings="
        )
    chosen = way.choose_method(method, multi=multi_label)
    return ClassifyChain(
        way,
        chosen,
        multi=multi_label,
        abstain_below=abstain_below,
        transductive=transductive,
        explain=explain,
    )


@dataclass(kw_only=True)
class _Way:
    """The models at hand, each made ready on first use."""

    llm: Model | None
    labels: tuple[Label, ...]
    embeddings: Embeddings | None
    shots: tuple[tuple[str, int], ...]

    @cached_property
    def scorer(self) -> Scorer | None:
        return find_scorer(self.llm) if self.llm is not None else None

    @cached_property
    def label_rows(self) -> NDArray[np.float32]:
        return embedder.label_vectors(self.embedder, self.labels)

    @property
    def embedder(self) -> Embeddings:
        if self.embeddings is None:
            raise OptionError(
                f"expected embeddings for this method, found {self.embeddings!r}: pass embeddings="
            )
        return self.embeddings

    @cached_property
    def regression(self) -> Regression:
        texts = embedder.text_vectors(self.embedder, [text for text, _ in self.shots])
        return Regression(texts, [place for _, place in self.shots], self.label_rows)

    @cached_property
    def model_scores(self) -> ModelScores:
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
            return self.model_scores.probabilities(texts, multi=multi)
        if method == "reply":
            llm = cast("Model", self.llm)
            return np.asarray([reply_probabilities(llm, self.labels, text, config) for text in texts])
        rows = embedder.text_vectors(self.embedder, texts)
        if method == "examples":
            return self.regression.predict(rows)
        if together and len(texts) >= embedder.TRANSDUCTIVE_LEAST:
            return embedder.transductive(rows, self.label_rows)
        return embedder.zero_shot(rows, self.label_rows, multi=multi)


class ClassifyChain(Runnable[str, Classification]):
    """The Runnable that `classify_chain` makes; `method` tells how it scores."""

    def __init__(
        self,
        way: _Way,
        method: Method,
        *,
        multi: bool,
        abstain_below: float,
        transductive: bool,
        explain: bool,
    ) -> None:
        """Keep the way of scoring and how results are made."""
        self.name = "classify_chain"
        self.method = method
        self._way = way
        self._multi, self._abstain_below = multi, abstain_below
        self._transductive, self._explain = transductive, explain

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in order, as they are returned."""
        return tuple(label.name for label in self._way.labels)

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> Classification:
        """Classify one text.

        Raises:
            EmptyInputError: the text is empty.
            NotTextError: it is no text.
        """
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(
        self, input: str, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Classification:
        """Classify one text in LangChain's executor."""
        return await run_in_executor(config, self.invoke, input, config, **kwargs)

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Classification]:
        """Classify texts together: one batch of embeddings or scores for all of them."""
        return self._batch_with_config(
            self._many, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Classification]:
        """Classify texts together in LangChain's executor."""

        def work() -> list[Classification]:
            return self.batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

        return await run_in_executor(None, work)

    def _one(
        self, text: str, run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Classification:
        return self._results([self._text(text)], config)[0]

    def _many(
        self, texts: list[str], run_manager: list[CallbackManagerForChainRun], config: list[RunnableConfig]
    ) -> list[Exception | Classification]:
        good: dict[int, str] = {}
        bad: dict[int, Exception] = {}
        for place, text in enumerate(texts):
            try:
                good[place] = self._text(text)
            except Exception as error:
                bad[place] = error
        made = dict(zip(good, self._results(list(good.values()), config[0]), strict=True)) if good else {}
        return [bad[place] if place in bad else made[place] for place in range(len(texts))]

    def _text(self, given: Any) -> str:
        text = require_text(
            "a text to classify", given.page_content if isinstance(given, Document) else given
        )
        return guarded(text, [name for label in self._way.labels for name in (label.name, label.path[-1])])

    def _results(self, texts: Sequence[str], config: RunnableConfig) -> list[Classification]:
        rows = self._way.probabilities(
            texts, self.method, config, multi=self._multi, together=self._transductive
        )
        found = [
            choose(self.label_names, row, self.method, multi=self._multi, abstain_below=self._abstain_below)
            for row in rows
        ]
        if not self._explain:
            return found
        return [
            replace(one, evidence=self._evidence(text, one, config))
            for text, one in zip(texts, found, strict=True)
        ]

    def _evidence(self, text: str, found: Classification, config: RunnableConfig) -> str | None:
        parts = [part.flat for part in split_sentences(text) if part.kind != "code"]
        if found.label is None or not parts or self.method == "reply":
            return None
        place = self.label_names.index(found.label)
        rows = self._way.probabilities(parts, self.method, config, multi=self._multi, together=False)
        return parts[int(np.argmax(rows[:, place]))]
