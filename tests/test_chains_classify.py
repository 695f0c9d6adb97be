"""classify_chain: every way of scoring, how labels may be given, and what is refused."""

from __future__ import annotations

import csv
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes import ScoringChat, ScriptedChat, WordEmbeddings
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel

from chains.classify import classify_chain, classify_table, read_examples_table
from chains.classify.labels import read_labels
from chains.classify.reply import match
from chains.errors import (
    EmptyInputError,
    ExamplesError,
    LabelsError,
    NotTextError,
    OptionError,
    ScoringNeededError,
    TableError,
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
    assert [len(labels) for _, labels in model.scored] == [3, 3, 3]  # two texts and, once, no text
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
    # No label's word occurs in these; what they share with texts that name it tells.
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
    assert match("**Card linking**", labels) == 1
    assert match("It is card linking, I think", labels) == 1
    assert match("card or loan", labels) is None
    assert match("cardboard", labels) is None


def test_labels_that_are_prefixes_of_each_other_stay_apart() -> None:
    chain = classify_chain(None, ["card", "card linking"], embeddings=WordEmbeddings())
    assert chain.invoke("This text is about card linking.").label == "card linking"
    assert chain.invoke("This text is about card.").label == "card"


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["one"],
        ["a", "A "],
        ["a", ""],
        ["a", "  "],
        "a,b",
        7,
        [1, 2],
        [f"label {n}" for n in range(10_000)],
    ],
)
def test_bad_labels_are_refused(labels: Any) -> None:
    with pytest.raises(LabelsError, match="expected"):
        classify_chain(ScoringChat(), labels)


def test_a_thousand_labels_are_taken() -> None:
    labels = [f"matter{n}" for n in range(1000)]
    chain = classify_chain(None, labels, embeddings=WordEmbeddings())
    assert chain.invoke("This text is about matter777.").label == "matter777"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", EmptyInputError),
        (" \n\t", EmptyInputError),
        (b"PK\x03\x04", NotTextError),
        ("a\x00b", NotTextError),
        (3, NotTextError),
    ],
)
def test_bad_texts_are_refused_and_the_others_of_a_batch_kept(text: Any, error: type[Exception]) -> None:
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    with pytest.raises(error, match="found"):
        chain.invoke(text)
    good, bad = chain.batch([MATCH, text], return_exceptions=True)
    assert good.label == "sports" and isinstance(bad, error)


@pytest.mark.parametrize(
    "text", ["今日は試合がありました。", "Сегодня был матч", "كانت هناك مباراة اليوم", "🏐🏐🏐"]
)
def test_text_in_other_scripts_gets_a_label(text: str) -> None:
    assert classify_chain(ScoringChat(), LABELS).invoke(text).label in LABELS


@pytest.mark.parametrize(
    "options",
    [
        {"abstain_below": 2},
        {"abstain_below": -1},
        {"method": "magic"},
        {"method": "embedder"},
        {"method": "examples"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        classify_chain(ScoringChat(), LABELS, **options)
    with pytest.raises(OptionError, match="embeddings"):
        classify_chain(None, LABELS)


@pytest.mark.parametrize("examples", [[("text", "unknown")], [("", "sports")], {"sports": [3]}])
def test_bad_examples_are_refused(examples: Any) -> None:
    with pytest.raises(ExamplesError, match="found"):
        classify_chain(None, LABELS, embeddings=WordEmbeddings(), examples=examples)


def _table(path: Path, rows: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "text"])
        writer.writerows([n, f'{MATCH if n % 2 else SOUP} "quoted"\r\n, {n}'] for n in range(rows))
    return path


def test_a_table_resumes_where_it_was_stopped(tmp_path: Path) -> None:
    source, target = _table(tmp_path / "in.csv", 25), tmp_path / "out.csv"
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    seen: list[tuple[int, int]] = []

    class Stop(Exception): ...

    def stop_after_two(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        classify_table(chain, source, target, column="text", batch_size=5, progress=stop_after_two)
    target.write_bytes(target.read_bytes()[:-9])  # as a crash in mid-row would leave it
    report = classify_table(chain, source, target, column="text", batch_size=5)
    assert (report.rows, report.resumed) == (25, 9) and seen == [(5, 25), (10, 25)]
    fresh = tmp_path / "fresh.csv"
    classify_table(chain, source, fresh, column="text", batch_size=7)
    assert target.read_bytes() == fresh.read_bytes()
    with target.open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert [row["id"] for row in found] == [str(n) for n in range(25)]
    assert [row["label"] for row in found] == ["sports" if n % 2 else "cooking" for n in range(25)]


def test_a_table_keeps_rows_without_text_unlabelled_and_takes_long_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f'text\n"{MATCH}"\n" "\nbinary\x00\n"{SOUP * 5000}"\n', encoding="utf-8")
    report = classify_table(
        classify_chain(None, LABELS, embeddings=WordEmbeddings()), source, target, column="text"
    )
    assert report.skipped == 2
    with target.open(newline="") as lines:
        assert [row["label"] for row in csv.DictReader(lines)] == ["sports", "", "", "cooking"]


@pytest.mark.parametrize(
    ("content", "column"),
    [(b"text\nx\n", "body"), (b"text\n", "text"), (b"", "text"), (b"text\n\xff\xfe\n", "text")],
)
def test_bad_tables_are_refused_and_nothing_is_written(tmp_path: Path, content: bytes, column: str) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content)
    with pytest.raises(TableError, match="found"):
        classify_table(classify_chain(ScoringChat(), LABELS), source, target, column=column)
    assert not target.exists()


def test_an_output_of_another_input_is_left_alone(tmp_path: Path) -> None:
    source, target = _table(tmp_path / "in.csv", 3), tmp_path / "out.csv"
    target.write_text("something,else\r\n1,2\r\n")
    chain = classify_chain(ScoringChat(), LABELS)
    with pytest.raises(TableError, match="another --out"):
        classify_table(chain, source, target, column="text")
    with pytest.raises(TableError, match="another --out"):
        classify_table(chain, source, source, column="text")
    assert target.read_text() == "something,else\n1,2\n"
    with pytest.raises(TableError, match="No such"):
        classify_table(chain, tmp_path / "absent.csv", target, column="text")


def test_examples_come_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "examples.csv"
    path.write_text("text,label\nmatch,sports\n,cooking\n")
    assert read_examples_table(path) == [("match", "sports")]
    path.write_text("text,label\n")
    with pytest.raises(TableError, match="labelled rows"):
        read_examples_table(path)
