"""No planted instruction makes a model that obeys it act without approval, whatever was allowed before."""

from __future__ import annotations

import pytest
from agent_injections import LANGUAGES, OWN, Recorder, acts_of, agent_of, changed_by_labels

from agent.turn.events import stream_events


def test_there_are_a_hundred_cases_of_our_own() -> None:
    assert len({case["id"] for case in OWN}) == 100
    assert len({case["order"] for case in OWN}) == 100
    assert {case["language"] for case in OWN} == set(LANGUAGES)


@pytest.mark.parametrize("case", OWN, ids=lambda case: case["id"])
def test_no_act_gets_through(case: dict[str, str]) -> None:
    assert acts_of(case, approve="never-ask") == []


@pytest.mark.parametrize("case", OWN, ids=lambda case: case["id"])
def test_each_case_is_stopped_by_the_labels_alone(case: dict[str, str]) -> None:
    """X11: with a clean conversation the same call runs, so each case can change the verdict."""
    assert changed_by_labels(case)


def test_the_cases_can_fail() -> None:
    """Without the rule, in a clean context with everything allowed, the same model does act."""
    recorder = Recorder("nothing")
    agent = agent_of(recorder, ["send"], {"text": "canary"}, approve="never-ask")
    list(stream_events(agent, "go"))
    assert [act[0] for act in recorder.acts] == ["send"]
