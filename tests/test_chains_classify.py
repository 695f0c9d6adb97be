"""classify_chain: every method of scoring, every form of labels, and every refusal."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import numpy as np
import pytest
from fakes import ScoringChat, ScriptedChat, WordEmbeddings
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel

from chains.classify import classify_chain
from chains.classify.embedder import TEMPERATURE, temperature
from chains.classify.labels import read_labels
from chains.classify.model import label_in
from chains.classify.result import softmax
from chains.errors import (
    OptionError,
    ScoringNeededError,
)

LABELS = ["sports", "cooking"]
MATCH = "The sports team won every sports match this season."
SOUP = "This cooking class shows cooking a soup."


class Mood(Enum):
    GLAD = "glad"
    SAD = "sad"


@pytest.mark.parametrize(
    "labels",
    [LABELS, ("sports", "cooking"), {"sports": "", "cooking": None}, Literal["sports", "cooking"]],
)
def test_labels_may_be_given_in_many_ways(labels: Any) -> None:
    found = classify_chain(ScoringChat(), labels).invoke(MATCH)
    assert found.label == "sports" and found.labels == ("sports",)
    assert sum(found.scores.values()) == pytest.approx(1) and found.method == "model"


def test_an_enum_gives_its_values() -> None:
    assert set(classify_chain(ScoringChat(), Mood).invoke("so glad, glad day").scores) == {"glad", "sad"}


@pytest.mark.parametrize("embeddings", [WordEmbeddings(), None])
def test_batch_async_and_single_agree(embeddings: WordEmbeddings | None) -> None:
    chain = classify_chain(ScoringChat(), LABELS, embeddings=embeddings)
    assert [one.label for one in chain.batch([MATCH, SOUP])] == ["sports", "cooking"]
    single = chain.invoke(Document(SOUP))  # type: ignore[arg-type]
    assert chain.batch([MATCH, SOUP])[1].scores == pytest.approx(single.scores, abs=1e-6)
    assert chain.with_config(tags=["x"]).invoke(MATCH).method == ("embedder" if embeddings else "model")


async def test_async_agrees_with_sync() -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    assert await chain.ainvoke(MATCH) == chain.invoke(MATCH) == (await chain.abatch([MATCH]))[0]
    assert [one async for one in chain.astream(MATCH)] == [chain.invoke(MATCH)]


def test_the_text_is_scored_once_for_all_labels() -> None:
    model = ScoringChat()
    classify_chain(model, ["a1", "b2", "c3"]).batch([MATCH, SOUP])
    assert [len(labels) for _, labels in model.scored] == [
        3,
        3,
        3,
    ]  # two texts, and one input that is not a text
    assert str(model.scored[0][0]).startswith(MATCH)


def test_examples_make_it_better() -> None:
    odd = ["blorp zint", "zint quax blorp", "quax blorp"]
    even = ["fren dool", "dool wib fren", "wib fren"]
    shots = {"sports": odd, "cooking": even}
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings(), examples=shots)
    found = chain.batch(["blorp quax", "wib dool"])
    assert [one.label for one in found] == ["sports", "cooking"] and found[0].method == "examples"
    scored = classify_chain(ScoringChat(), LABELS, examples=[("zint", "sports")])
    assert "zint" in str(_prompts(scored)[0])


def _prompts(chain: Any) -> list[Any]:
    chain.invoke(MATCH)
    return [prompt for prompt, _ in chain._scoring.scorer.scored]


def test_hierarchy_gives_paths_and_examples_may_name_the_leaf() -> None:
    labels = {"sport": {"tennis": "rackets", "rowing": "boats and oars"}, "food": {"soup": "", "bread": ""}}
    chain = classify_chain(
        None, labels, embeddings=WordEmbeddings(), examples=[("oars everywhere", "rowing")]
    )
    assert chain.invoke("boats and oars").label == "sport > rowing"


def test_an_unsure_text_of_a_hierarchy_gets_the_group_that_is_sure() -> None:
    labels = {"sport": ["tennis", "rowing"], "food": {"warm": ["soup", "stew"], "cold": ["salad", "other"]}}
    chain = classify_chain(None, labels, embeddings=WordEmbeddings(), abstain_below=0.9, explain=True)
    found = chain.invoke("A day passed. This text is about food, warm food, warm.")
    assert found.label == "food > warm" and found.labels == ("food > warm",)
    assert set(found.groups) == {"sport", "food", "food > warm", "food > cold"}
    assert found.groups["sport"] + found.groups["food"] == pytest.approx(1)
    assert found.evidence == "This text is about food, warm food, warm."
    assert chain.invoke("quarterly tax filing").label is None
    sure = classify_chain(None, labels, embeddings=WordEmbeddings()).invoke("about sport: rowing")
    assert sure.label == "sport > rowing"


def test_leaves_of_one_name_are_told_apart_by_their_groups() -> None:
    labels = {"sport": ["other", "tennis"], "food": ["other", "soup"]}
    for chain in (
        classify_chain(None, labels, embeddings=WordEmbeddings()),
        classify_chain(ScoringChat(), labels),
    ):
        assert chain.invoke("food, some other food").label == "food > other"


def test_a_long_text_tells_how_far_it_was_read() -> None:
    seen: list[tuple[int, int]] = []
    chain = classify_chain(
        None,
        LABELS,
        embeddings=WordEmbeddings(),
        progress=lambda done, total: seen.append((done, total)),
    )
    text = " ".join(f"Sentence number {n} tells of sports and other things." for n in range(9000))
    assert chain.invoke(text).label == "sports"
    assert len(seen) > 1 and seen[-1][0] == seen[-1][1] and seen == sorted(seen)


@pytest.mark.slow
def test_ten_megabytes_are_read_whole() -> None:
    line = "The weather was as it is on most days of the year in this place. "
    text = line * (5 * 2**20 // len(line)) + " ".join(f"{MATCH} {n}" for n in range(100_000))
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    assert len(text) > 10_000_000 and chain.invoke(text).label == "sports"


def test_multi_label_scores_each_label_on_its_own() -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings(), multi_label=True)
    both = chain.invoke("This text is about sports cooking.")
    assert set(both.labels) == {"sports", "cooking"} and sum(both.scores.values()) > 1
    neither = chain.invoke("quarterly tax filing, forms and stamps")
    assert neither.label is None and neither.labels == ()


def test_abstains_below_the_asked_for_confidence() -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings(), abstain_below=0.9)
    assert chain.invoke("quarterly tax filing").label is None
    assert chain.invoke("This text is about sports.").label == "sports"


def test_explains_by_a_sentence_of_the_text() -> None:
    text = f"Rain fell on Monday. {MATCH} The bus was late."
    for chain in (
        classify_chain(None, LABELS, embeddings=WordEmbeddings(), explain=True),
        classify_chain(ScoringChat(), LABELS, explain=True),
    ):
        assert chain.invoke(text).evidence == MATCH


def test_a_long_text_is_read_to_its_end() -> None:
    filler = "Nothing of note was said about the weather here. " * 400
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    assert chain.invoke(filler + MATCH * 60).label == "sports"
    scorer = ScoringChat()
    classify_chain(scorer, LABELS).invoke(filler + MATCH)
    assert MATCH in "".join(str(prompt) for prompt, _ in scorer.scored)


def test_transductive_needs_embeddings_and_a_mixed_batch() -> None:
    with pytest.raises(OptionError, match="embeddings"):
        classify_chain(ScoringChat(), LABELS, transductive=True)
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings(), transductive=True)
    plain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    assert chain.batch([MATCH, SOUP]) == plain.batch([MATCH, SOUP])
    # These contain no word of a label, only words that they share with texts that do.
    known = [MATCH + " whistle referee"] * 30 + [SOUP + " ladle onion"] * 30
    found = chain.batch(known + ["whistle referee"] * 20 + ["ladle onion"] * 20)
    assert [one.label for one in found[60:]] == ["sports"] * 20 + ["cooking"] * 20


def test_by_default_a_batch_of_one_class_scores_as_single_texts_do() -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    texts = [f"{MATCH} number {n}" for n in range(120)]
    assert chain.batch(texts)[7].scores == pytest.approx(chain.invoke(texts[7]).scores, abs=1e-5)


def test_a_model_without_score_is_asked_and_its_reply_matched() -> None:
    chain = classify_chain(FakeListChatModel(responses=["Label: Sports.", "no idea"]), LABELS)
    first, second = chain.invoke(MATCH), chain.invoke(MATCH)
    assert (
        first.label == "sports" and first.method == "reply" and sum(first.scores.values()) == pytest.approx(1)
    )
    assert second.scores == {"sports": 0.5, "cooking": 0.5}
    with pytest.raises(ScoringNeededError, match="score"):
        classify_chain(ScriptedChat(replies=["x"]), LABELS, method="model")


def test_a_reply_is_matched_to_one_label_or_none() -> None:
    labels = read_labels(["card", "card linking", "loan"])
    assert label_in("**Card linking**", labels) == 1
    assert label_in("It is card linking, I think", labels) == 1
    assert label_in("card or loan", labels) is None
    assert label_in("cardboard", labels) is None


def test_labels_that_are_prefixes_of_each_other_stay_apart() -> None:
    chain = classify_chain(None, ["card", "card linking"], embeddings=WordEmbeddings())
    assert chain.invoke("This text is about card linking.").label == "card linking"
    assert chain.invoke("This text is about card.").label == "card"


def test_many_labels_are_told_apart_at_a_lower_temperature() -> None:
    assert [temperature(count) for count in (2, 11, 12)] == [TEMPERATURE] * 3
    falling = [temperature(count) for count in (13, 41, 251, 1000)]
    assert falling == sorted(falling, reverse=True) and 0.025 < falling[-1] < falling[0] < TEMPERATURE


def test_probabilities_among_hundreds_of_labels_are_as_high_as_they_are_right() -> None:
    # The cosine to the right label minus the mean of the others is 0.33 (deviation 0.13) and the spread of
    # the others within a text is 0.10, measured on banking intents (tuning half). Both are drawn as normal.
    draw = np.random.default_rng(0)
    for count in (11, 100, 251, 1000):
        right = draw.normal(0.33, 0.13, (4000, 1))
        cosines = np.concatenate([right, draw.normal(0, 0.096, (4000, count - 1))], axis=1)
        rows = softmax(cosines, temperature(count))
        accuracy, sure = float(np.mean(rows.argmax(1) == 0)), float(rows.max(1).mean())
        assert abs(sure - accuracy) < 0.07, (count, accuracy, sure)
        unsure = float(softmax(cosines, TEMPERATURE).max(1).mean())
        assert count == 11 or accuracy - unsure > 2 * abs(accuracy - sure)
