"""Questions about logs: the line that matters is quoted with its number, and nothing is made up."""

from __future__ import annotations

import time

import pytest
from agent_fakes import last, scripted
from log_samples import SAMPLES
from test_agent_text_answers import ByWords, Sends

from agent.planner.log_answers import log_answer
from agent.planner.planner import Planner
from agent.planner.text_answers import TextAnswers
from agent.turn.events import stream_events
from agent.turn.graph import build_graph
from agent.turn.messages import user_message
from chains.text.logs import Severity, looks_like_log, read_log, severity


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_line_that_matters_is_in_the_answer(name: str) -> None:
    text, keys = SAMPLES[name]()
    assert looks_like_log(text, "standard input")
    answer = log_answer("what went wrong?", text, "standard input")
    assert answer is not None and answer.grounded
    assert [key for key in keys if key not in answer.text] == []
    lines = text.split("\n")
    for citation in answer.citations:
        assert citation.line is not None and citation.start is not None
        assert text[citation.start : citation.end] == citation.quote
        assert lines[citation.line - 1] == citation.quote.split("\n")[0]
    assert len(answer.text.splitlines()) < 80


def test_two_megabytes_take_seconds() -> None:
    text = SAMPLES["traceback_in_noise"]()[0]
    started = time.process_time()
    log_answer("what went wrong?", text, "a.log")
    assert len(text) > 1_700_000 and time.process_time() - started < 10


@pytest.mark.parametrize(
    "line", ["-" * 2000, "a-" * 1000 + "error", "A" * 1_000_000, "retry " * 300, "[ " * 1000]
)
def test_a_hostile_line_takes_no_time(line: str) -> None:
    started = time.process_time()
    for _ in range(20):
        severity(line)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("INFO loaded error handler", "NONE"),
        ("0 errors, 0 warnings", "NONE"),
        ("failed=0 unreachable=0", "NONE"),
        ("gcc -Werror -c a.c", "NONE"),
        ("2026-11-30 12:00:00 WARNING low disk", "WARNING"),
        ("Process completed with exit code 1.", "CONSEQUENCE"),
        ("E1130 12:00:00.000001  1 main.go:3] lost lease", "FAILURE"),
        ("level=error msg=\"no route\"", "FAILURE"),
        ("2026-11-30 12:00:00 ERROR disk full", "FAILURE"),
    ],
)  # fmt: skip
def test_how_much_a_line_says(line: str, name: str) -> None:
    assert severity(line) == Severity[name]


def test_repeated_failures_are_one_with_their_count() -> None:
    text = "start\n" + "".join(
        f"12:00:{i % 60:02} ERROR cannot reach 10.0.0.{i} after {i} ms\n" for i in range(500)
    )
    report = read_log(text)
    assert [one.count for one in report.failures] == [500] and report.failures[0].last == 501
    answer = log_answer("what failed?", text, "a.log")
    assert answer is not None and "line 2 (500 times, last on line 501)" in answer.text


def test_a_log_without_a_failure_has_none() -> None:
    text = "".join(f"12:00:{i:02} INFO order {i} stored\n" for i in range(60)) + "0 errors\n"
    answer = log_answer("why did it fail?", text, "a.log")
    assert answer is not None and answer.text.startswith("None of the 61 lines names a failure")


def test_what_can_be_counted_and_when_it_began() -> None:
    text = SAMPLES["nginx"]()[0]

    def said(question: str, of: str = text) -> str:
        answer = log_answer(question, of, "a.log")
        assert answer is not None
        return answer.text

    assert said("How many requests failed?").startswith("1 of 1,101 requests failed: 1 with status 502.")
    assert said("When did it start?").startswith("10.0.0.0 ") and "12:03:19" in said("When did it end?")
    assert "1 failed, 213 passed" in said("How many tests failed?", SAMPLES["pytest_run"]()[0])
    assert log_answer("Which host is it?", text, "a.log") is None


@pytest.mark.parametrize(
    "text", ["Dear Ada,\n\nthe pond is frozen.\n", "# Errors\n\nAn error is a mistake.\n", ""]
)
def test_prose_is_no_log(text: str) -> None:
    assert not looks_like_log(text, "notes.md") and not looks_like_log(text, "standard input")


def test_the_agent_answers_without_its_model() -> None:
    text, keys = SAMPLES["make"]()
    model = scripted("the model's words", writes_well=False)
    agent = build_graph(model, planner=Planner(Sends(), texts=TextAnswers(model, ByWords)))
    asked = user_message("what went wrong?", attached=text, origin="build.log")
    final = last(list(stream_events(agent, {"messages": [asked]})))
    assert final.grounded and keys[0] in final.text and model.seen == []
    assert final.citations[0]["line"] == 62
