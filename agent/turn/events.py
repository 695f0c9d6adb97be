"""What a running turn tells its caller, as small typed events in the order in which things happen.

One place turns LangGraph's streams (`messages`, `custom`, `updates`) into events; the command line and any
application read those and nothing of LangGraph's. Knows no printing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, ToolMessage

from agent.turn.context import RunContext, Stopped

MODEL_NODE = "model"


@dataclass(frozen=True)
class Delta:
    """A piece of the answer's text."""

    text: str
    type: str = "delta"


@dataclass(frozen=True)
class Label:
    """Says, before the text, that what follows does not come from the documents."""

    text: str
    nearest: list[Any] = field(default_factory=list)
    type: str = "label"


@dataclass(frozen=True)
class Notice:
    """A line of progress, a route and its reason, or a limit that was reached; not part of the answer."""

    text: str
    kind: str = "status"
    type: str = "notice"


@dataclass(frozen=True)
class ToolCall:
    """The model, or the router, calls a tool."""

    id: str
    name: str
    args: dict[str, Any]
    type: str = "tool_call"


@dataclass(frozen=True)
class ToolResult:
    """A tool has answered, or failed (`status` is `error`)."""

    id: str
    name: str
    text: str
    status: str
    type: str = "tool_result"


@dataclass(frozen=True)
class Approval:
    """The run waits for a person: `requests` say exactly what will happen."""

    id: str
    requests: list[dict[str, Any]]
    type: str = "approval"


@dataclass(frozen=True)
class Final:
    """The whole answer, always the last event of a turn that did not stop to wait for an approval."""

    text: str
    grounded: bool = False
    citations: list[dict[str, Any]] = field(default_factory=list)
    nearest: list[Any] = field(default_factory=list)
    label: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    type: str = "answer"


Event = Delta | Label | Notice | ToolCall | ToolResult | Approval | Final

_MODES = ["messages", "custom", "updates"]


class _Turn:
    """Collects what the whole answer will need while events pass by."""

    def __init__(self) -> None:
        self.text = ""
        self.answer: AIMessage | None = None
        self.label: Label | None = None
        self.waiting = False
        self.usage: dict[str, Any] = {}

    def events(self, mode: str, payload: Any) -> Iterator[Event]:
        if mode == "messages":
            yield from self._token(*payload)
        elif mode == "custom":
            yield from self._custom(payload)
        else:
            for update in payload.values() if isinstance(payload, dict) else ():
                yield from self._update(update)

    def _token(self, message: Any, metadata: dict[str, Any]) -> Iterator[Event]:
        if metadata.get("langgraph_node") != MODEL_NODE or not isinstance(message, AIMessageChunk):
            return
        if message.text:
            self.text += message.text
            yield Delta(message.text)

    def _custom(self, payload: Any) -> Iterator[Event]:
        if not isinstance(payload, dict):
            return
        if payload.get("type") == "delta":
            self.text += payload["text"]
            yield Delta(payload["text"])
        elif payload.get("type") == "label":
            self.label = Label(payload["text"], payload.get("nearest", []))
            yield self.label
        elif payload.get("type") == "notice":
            yield Notice(payload["text"], payload.get("kind", "status"))

    def _update(self, update: Any) -> Iterator[Event]:
        if isinstance(update, tuple):
            self.waiting = True
            for pause in update:
                yield Approval(pause.id, _requests(pause.value))
            return
        messages = update.get("messages", []) if isinstance(update, dict) else []
        for message in messages if isinstance(messages, Sequence) else ():
            yield from self._message(message)

    def _message(self, message: AnyMessage) -> Iterator[Event]:
        if isinstance(message, ToolMessage):
            yield ToolResult(message.tool_call_id, message.name or "", message.text, message.status)
        elif isinstance(message, AIMessage):
            self.answer = message
            for name, count in (message.usage_metadata or {}).items():
                if isinstance(count, int):
                    self.usage[name] = self.usage.get(name, 0) + count
            for call in message.tool_calls:
                self.text = ""
                yield ToolCall(call["id"] or "", call["name"], call["args"])

    def final(self) -> Final:
        message = self.answer or AIMessage(content=self.text)
        facts = message.additional_kwargs.get("answer", {})
        return Final(
            text=message.text or self.text,
            grounded=bool(facts.get("grounded", False)),
            citations=facts.get("citations", []),
            nearest=facts.get("nearest", []) or (self.label.nearest if self.label else []),
            label=self.label.text if self.label else None,
            usage=self.usage,
            model=message.response_metadata.get("model_name"),
        )


def stream_events(
    agent: Any, inputs: Any, *, context: RunContext | None = None, config: dict[str, Any] | None = None
) -> Iterator[Event]:
    """Run one turn of a compiled agent; yields events, the last of which is `Final` or `Approval`.

    `inputs` is a question, a state `{"messages": [...]}`, or a LangGraph `Command` that resumes a turn.
    Errors of model, chains and tools are raised as they are.
    """
    turn = _Turn()
    context = context or RunContext()
    for mode, payload in agent.stream(
        _state(inputs), _stoppable(config, context), context=context, stream_mode=_MODES, **_durable(agent)
    ):
        yield from turn.events(mode, payload)
    if not turn.waiting:
        yield turn.final()


async def astream_events(
    agent: Any, inputs: Any, *, context: RunContext | None = None, config: dict[str, Any] | None = None
) -> AsyncIterator[Event]:
    """As `stream_events`, asynchronously."""
    turn = _Turn()
    context = context or RunContext()
    stream = agent.astream(
        _state(inputs), _stoppable(config, context), context=context, stream_mode=_MODES, **_durable(agent)
    )
    try:
        async for mode, payload in stream:
            for event in turn.events(mode, payload):
                yield event
    except Exception as error:
        # LangChain's `agenerate` takes an exception that is no Exception for a result, and stumbles over it.
        if context.stop is not None and context.stop.wanted:
            raise Stopped from error
        raise
    if not turn.waiting:
        yield turn.final()


def approvals(state: Any) -> list[Approval]:
    """The approvals that a thread waits for, from LangGraph's snapshot of it."""
    return [Approval(pause.id, _requests(pause.value)) for task in state.tasks for pause in task.interrupts]


def _durable(agent: Any) -> dict[str, Any]:
    """Each step is on the disk before the next begins, where anything keeps steps at all."""
    return {"durability": "sync"} if getattr(agent, "checkpointer", None) else {}


def _stoppable(config: dict[str, Any] | None, context: RunContext) -> dict[str, Any] | None:
    """The config with the context's stop among its callbacks."""
    if context.stop is None:
        return config
    callbacks = (config or {}).get("callbacks") or []
    if isinstance(callbacks, list):
        return {**(config or {}), "callbacks": [*callbacks, context.stop]}
    manager = callbacks.copy()
    manager.add_handler(context.stop, inherit=True)
    return {**(config or {}), "callbacks": manager}


def _state(inputs: Any) -> Any:
    return {"messages": [{"role": "user", "content": inputs}]} if isinstance(inputs, str) else inputs


def _requests(value: Any) -> list[dict[str, Any]]:
    """The approvals that an interrupt asks for, whichever way LangChain's middleware batches them."""
    if isinstance(value, dict) and "action_requests" in value:
        return list(value["action_requests"])
    return [value if isinstance(value, dict) else {"description": str(value)}]
