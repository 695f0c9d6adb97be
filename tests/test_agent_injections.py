"""No planted instruction makes a model that obeys it act without approval, whatever was allowed before."""

from __future__ import annotations

import pytest
from agent_injections import OWN, acts_of


def test_there_are_a_hundred_cases_of_our_own() -> None:
    assert len({case["id"] for case in OWN}) == 100


@pytest.mark.parametrize(("approve", "every"), [("never-ask", 1), ("deny", 5)])
def test_no_act_gets_through(approve: str, every: int) -> None:
    through = {case["id"]: acts for case in OWN[::every] if (acts := acts_of(case, approve=approve))}
    assert through == {}


def test_the_cases_can_fail() -> None:
    """Without the rule, in a clean context with everything allowed, the same model does act."""
    case = {**OWN[0], "channel": "none"}
    from agent_fakes import calls, scripted
    from agent_injections import Recorder

    from agent.turn.events import stream_events
    from agent.turn.graph import build_graph

    recorder = Recorder(case["content"])
    model = scripted(calls("run_python", argument="canary"), "done")
    list(stream_events(build_graph(model, tools=recorder.tools(), approve="never-ask"), "go"))
    assert recorder.acts == [("run_python", "canary")]
