"""What a running turn tells its caller: small typed events, in the order in which things happen.

LangGraph's streams (`messages`, `custom`, `updates`) become events here and nowhere else; the command line
and any application read only those.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> from agent.turn.graph import build_graph
    >>> agent = build_graph(FakeListChatModel(responses=["Hello."]))
    >>> [event.type for event in stream_events(agent, "Hi")]
    ['delta', 'delta', 'delta', 'delta', 'delta', 'delta', 'answer']
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, ToolMessage

from agent.turn.context import AGENT, COMPACT, RunContext, Stopped


@dataclass(frozen=True)
class Delta:
    """A piece of the answer's text: print it as it comes.

    >>> print(Delta("Hel").text + Delta("lo").text)
    Hello
    """

    text: str
    type: str = "delta"


@dataclass(frozen=True)
class AnswerLabel:
    """Comes before the text of an answer that is not from the documents, with the passages that came nearest.

    >>> AnswerLabel("Not from your documents; the model's own answer:").type
    'label'
    """

    text: str
    nearest: list[Any] = field(default_factory=list)
    type: str = "label"


@dataclass(frozen=True)
class Notice:
    """A line that is not part of the answer.

    Its `kind` is "status" (progress or a limit), "route", or "denied" (a call that needs approval).

    >>> Notice("limit: a tool failed twice").kind
    'status'
    """

    text: str
    kind: str = "status"
    type: str = "notice"


@dataclass(frozen=True)
class ToolCall:
    """A tool is about to be called.

    >>> ToolCall("call00001", "calculator", {"expression": "6 * 7"}).args["expression"]
    '6 * 7'
    """

    id: str
    name: str
    args: dict[str, Any]
    type: str = "tool_call"


@dataclass(frozen=True)
class ToolResult:
    """A tool has answered, or has failed (`status` is "error").

    >>> ToolResult("call00001", "calculator", "42", "success").text
    '42'
    """

    id: str
    name: str
    text: str
    status: str
    type: str = "tool_result"


@dataclass(frozen=True)
class Approval:
    """The run waits for a person; each of `requests` says exactly what will happen.

    >>> from langgraph.types import Command
    >>> pause = Approval("c0ffee", [{"name": "run_python", "args": {"code": "print(1)"}}])
    >>> answer = Command(resume={pause.id: {"type": "approve"}})    # stream_events(agent, answer, config=...)
    """

    id: str
    requests: list[dict[str, Any]]
    type: str = "approval"


@dataclass(frozen=True)
class Final:
    """The whole answer: the last event of each turn that does not wait for an approval.

    >>> final = Final("The licence is MIT. [1]", grounded=True)
    >>> print(final.text if final.grounded else "not in the documents")
    The licence is MIT. [1]
    """

    text: str
    grounded: bool = False
    citations: list[dict[str, Any]] = field(default_factory=list)
    nearest: list[Any] = field(default_factory=list)
    label: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    failed: str = ""
    """The tool whose error the answer is, "" if it is not one."""
    type: str = "answer"


Event = Delta | AnswerLabel | Notice | ToolCall | ToolResult | Approval | Final

_MODES = ["messages", "custom", "updates"]


class _TurnReader:
    """Turns the items of LangGraph's streams into events, and collects the whole answer from them."""

    def __init__(self) -> None:
        self.text = ""
        self.answer: AIMessage | None = None
        self.results: list[ToolMessage] = []
        self.label: AnswerLabel | None = None
        self.waiting = False
        self.usage: dict[str, Any] = {}

    def events(self, mode: str, payload: Any) -> Iterator[Event]:
        """Yield the events of one item."""
        if mode == "messages":
            yield from self._token(*payload)
        elif mode == "custom":
            yield from self._custom(payload)
        elif isinstance(payload, dict):
            for node, update in payload.items():
                if node != COMPACT:  # It repeats the messages that it keeps.
                    yield from self._update(update)

    def end(self) -> Iterator[Event]:
        """Yield the last events of a turn, unless it waits for an approval."""
        if self.waiting:
            return
        message = self.answer or AIMessage(content=self.text)
        facts = message.additional_kwargs.get("answer", {})
        text = message.text or self.text
        if self.results:  # Tools with `return_direct` ended the turn: what they returned is the answer.
            text = "\n".join(result.text for result in self.results)
            yield Delta(text)
        yield Final(
            text=text,
            grounded=bool(facts.get("grounded", False)),
            citations=facts.get("citations", []),
            nearest=facts.get("nearest", []) or (self.label.nearest if self.label else []),
            label=self.label.text if self.label else None,
            usage=self.usage,
            model=message.response_metadata.get("model_name") if not self.results else None,
            failed=str(message.additional_kwargs.get("failed", "")),
        )

    def _token(self, message: Any, metadata: dict[str, Any]) -> Iterator[Event]:
        if metadata.get("langgraph_node") != AGENT or not isinstance(message, AIMessageChunk):
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
            self.label = AnswerLabel(payload["text"], payload.get("nearest", []))
            yield self.label
        elif payload.get("type") == "notice":
            yield Notice(payload["text"], payload.get("kind", "status"))

    def _update(self, update: Any) -> Iterator[Event]:
        if isinstance(update, tuple):
            self.waiting = True
            for pause in update:
                yield Approval(pause.id, _requests(pause.value))
            return
        for part in update if isinstance(update, list) else [update]:
            messages = part.get("messages", []) if isinstance(part, dict) else []
            for message in messages if isinstance(messages, Sequence) else ():
                yield from self._message(message)

    def _message(self, message: AnyMessage) -> Iterator[Event]:
        if isinstance(message, ToolMessage):
            self.results.append(message)
            yield ToolResult(message.tool_call_id, message.name or "", message.text, message.status)
        elif isinstance(message, AIMessage):
            self.answer, self.results = message, []
            for name, count in (message.usage_metadata or {}).items():
                if isinstance(count, int):
                    self.usage[name] = self.usage.get(name, 0) + count
            for call in message.tool_calls:
                self.text = ""
                yield ToolCall(call["id"] or "", call["name"], call["args"])


def stream_events(
    agent: Any, inputs: Any, *, context: RunContext | None = None, config: dict[str, Any] | None = None
) -> Iterator[Event]:
    """Run one turn of a compiled agent and yield its events; the last is `Final` or `Approval`.

    ```python
    for event in stream_events(build_agent(load_settings()), "What does README.md say about the licence?"):
        if isinstance(event, Delta):
            print(event.text, end="", flush=True)
    ```

    Errors of the model, the chains and the tools are raised as they are.

    Args:
        agent: What `build_agent` returns.
        inputs: A question, a state `{"messages": [...]}`, or a LangGraph `Command` that resumes a turn.
        context: Choices for this turn.
        config: LangGraph's: the thread (`{"configurable": {"thread_id": ...}}`), callbacks.
    """
    turn = _TurnReader()
    context = context or RunContext()
    for mode, payload in agent.stream(
        _state(inputs), _stoppable(config, context), context=context, stream_mode=_MODES, **_durable(agent)
    ):
        yield from turn.events(mode, payload)
    yield from turn.end()


async def astream_events(
    agent: Any, inputs: Any, *, context: RunContext | None = None, config: dict[str, Any] | None = None
) -> AsyncIterator[Event]:
    """As `stream_events`, asynchronously."""
    turn = _TurnReader()
    context = context or RunContext()
    stream = agent.astream(
        _state(inputs), _stoppable(config, context), context=context, stream_mode=_MODES, **_durable(agent)
    )
    try:
        async for mode, payload in stream:
            for event in turn.events(mode, payload):
                yield event
    except Exception as error:
        # LangChain's `agenerate` takes an exception that is not an Exception for a result, and stumbles over
        # it.
        if context.stop is not None and context.stop.wanted:
            raise Stopped from error
        raise
    for event in turn.end():
        yield event


def approvals(state: Any) -> list[Approval]:
    """Return the approvals that a thread waits for, from LangGraph's snapshot of it."""
    return [Approval(pause.id, _requests(pause.value)) for task in state.tasks for pause in task.interrupts]


def _durable(agent: Any) -> dict[str, Any]:
    """Write each step to the disk before the next begins, if the agent keeps threads."""
    return {"durability": "sync"} if getattr(agent, "checkpointer", None) else {}


def _stoppable(config: dict[str, Any] | None, context: RunContext) -> dict[str, Any] | None:
    """Return the config with the context's stop among its callbacks."""
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
    """Return what an interrupt asks for; LangChain's own middleware may batch several requests."""
    if isinstance(value, dict) and "action_requests" in value:
        return list(value["action_requests"])
    return [value if isinstance(value, dict) else {"description": str(value)}]
