"""Stand-ins for the model, for tests of the agent's own behaviour."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.types import Command
from pydantic import Field

from agent.turn.events import Approval, Event, Final, stream_events

Script = Callable[[list[BaseMessage]], AIMessage]


class ScriptedModel(BaseChatModel):
    """Streams the answers of `script` word by word, and keeps the messages of every call."""

    script: Any = None
    seen: list[Any] = Field(default_factory=list)
    choices: list[Any] = Field(default_factory=list)
    writes_well: bool = True
    pace: float = 0.0
    window: int = 8192

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(tools=[tool.name for tool in tools], tool_choice=tool_choice, **kwargs)

    def get_num_tokens(self, text: str) -> int:
        return len(text.split())

    def loaded_runtime(self) -> None:
        return None

    def _answer(self, messages: list[BaseMessage], **kwargs: Any) -> AIMessage:
        self.seen.append(list(messages))
        self.choices.append(kwargs.get("tool_choice"))
        answer = self.script(messages) if callable(self.script) else self.script[len(self.seen) - 1]
        return AIMessage(content=answer) if isinstance(answer, str) else answer

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages, **kwargs))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._answer(messages, **kwargs)
        pieces = re.findall(r"\S+\s*", answer.text) or [""]
        for number, piece in enumerate(pieces):
            time.sleep(self.pace)
            last = number == len(pieces) - 1
            chunk = AIMessageChunk(
                content=piece,
                tool_calls=answer.tool_calls if last else [],
                usage_metadata=answer.usage_metadata if last else None,
                response_metadata=answer.response_metadata if last else {},
                chunk_position="last" if last else None,
            )
            if run_manager is not None:
                run_manager.on_llm_new_token(piece, chunk=ChatGenerationChunk(message=chunk))
            yield ChatGenerationChunk(message=chunk)


def scripted(*answers: str | AIMessage | Script, **fields: Any) -> ScriptedModel:
    """Return a model that gives these answers one after another, or calls a single callable for each."""
    script: Any = answers[0] if len(answers) == 1 and callable(answers[0]) else list(answers)
    return ScriptedModel(script=script, **fields)


def calls(name: str, /, call_id: str = "call00001", **args: Any) -> AIMessage:
    """Return a message that calls one tool."""
    return AIMessage(content="", tool_calls=[{"name": name, "args": args, "id": call_id}])


CONFIG = {"configurable": {"thread_id": "t"}}
"""Config of the thread that most tests use."""


def last(events: list[Event]) -> Final:
    """Return the answer of a finished turn."""
    assert isinstance(events[-1], Final), events
    return events[-1]


def resume(agent: Any, pause: Approval, decision: dict[str, Any], **update: Any) -> Final:
    """Resume a turn that waits for approval with the user's decision; return its answer."""
    command = Command(resume={pause.id: decision}, update=update or None)
    return last(list(stream_events(agent, command, config=CONFIG)))
