"""What a turn did and how long it took, recorded by LangChain's callbacks: a table, or OpenTelemetry spans.

`Trace` keeps its steps in the process. `GenAISpans` exports spans (setting and extra `otel`) to where
OpenTelemetry's own variables say, such as `OTEL_EXPORTER_OTLP_ENDPOINT`. Spans contain names, counts and
times, never prompts or answers; they follow opentelemetry.io/docs/specs/semconv/gen-ai.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, LLMResult

from agent.errors import ConfigError


@dataclass(kw_only=True)
class TraceStep:
    """One step. Times are in seconds, `start` since the trace began; the tokens are those of a model."""

    kind: str
    name: str
    start: float
    seconds: float | None = None
    first_token: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


class Trace(BaseCallbackHandler):
    """Collects the steps of a run.

    ```python
    trace = Trace()
    agent.invoke({"messages": [("user", "Hi")]}, {"callbacks": [trace]})
    print(trace.rows())
    ```
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._open: dict[UUID, TraceStep] = {}
        self.steps: list[TraceStep] = []

    def _start(self, kind: str, name: str, run_id: UUID) -> None:
        step = TraceStep(kind=kind, name=name, start=time.perf_counter() - self._began)
        self._open[run_id] = step
        self.steps.append(step)

    def _end(self, run_id: UUID, error: BaseException | None = None) -> TraceStep | None:
        step = self._open.pop(run_id, None)
        if step is not None:
            step.seconds = time.perf_counter() - self._began - step.start
            step.error = f"{type(error).__name__}: {error}" if error is not None else None
        return step

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a model call."""
        name = (kwargs.get("metadata") or {}).get("ls_model_name") or kwargs.get("name") or "model"
        self._start("model", str(name), run_id)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Time the first piece of a model's answer."""
        step = self._open.get(run_id)
        if step is not None and step.first_token is None:
            step.first_token = time.perf_counter() - self._began - step.start

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count the tokens of a model's answer."""
        step = self._end(run_id)
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        usage = (
            getattr(generation.message, "usage_metadata", None)
            if isinstance(generation, ChatGeneration)
            else None
        )
        if step is not None and usage:
            step.input_tokens, step.output_tokens = usage["input_tokens"], usage["output_tokens"]

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a model call that failed."""
        self._end(run_id, error)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a tool call."""
        self._start("tool", str((serialized or {}).get("name", "tool")), run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool call."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool call that failed."""
        self._end(run_id, error)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a search."""
        self._start("search", "documents", run_id)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a search."""
        self._end(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a search that failed."""
        self._end(run_id, error)

    def rows(self) -> list[dict[str, Any]]:
        """Return the steps as a table, with times in milliseconds."""
        return [
            {
                "at ms": round(step.start * 1000),
                "step": step.kind,
                "name": step.name,
                "ms": round(step.seconds * 1000) if step.seconds is not None else "",
                "first ms": round(step.first_token * 1000) if step.first_token is not None else "",
                "in": step.input_tokens or "",
                "out": step.output_tokens or "",
                "error": step.error or "",
            }
            for step in self.steps
        ]


class GenAISpans(BaseCallbackHandler):
    """Makes a span for each model call (`chat`) and each tool call (`execute_tool`)."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._open: dict[UUID, Any] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a model call."""
        name = str((kwargs.get("metadata") or {}).get("ls_model_name") or "model")
        self._start(
            run_id, f"chat {name}", operation="chat", **{"request.model": name, "provider.name": "local"}
        )

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """End a model call."""
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        usage = (
            getattr(generation.message, "usage_metadata", None)
            if isinstance(generation, ChatGeneration)
            else None
        )
        counts = {f"usage.{name}": usage[name] for name in ("input_tokens", "output_tokens")} if usage else {}
        self._end(run_id, **counts)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a model call that failed."""
        self._end(run_id, error)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a tool call."""
        name = str((serialized or {}).get("name", "tool"))
        self._start(run_id, f"execute_tool {name}", operation="execute_tool", **{"tool.name": name})

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool call."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a tool call that failed."""
        self._end(run_id, error)

    def _start(self, run_id: UUID, name: str, *, operation: str, **attributes: Any) -> None:
        given = {"gen_ai.operation.name": operation, **{f"gen_ai.{key}": v for key, v in attributes.items()}}
        self._open[run_id] = self._tracer.start_span(name, attributes=given)

    def _end(self, run_id: UUID, error: BaseException | None = None, **attributes: Any) -> None:
        span = self._open.pop(run_id, None)
        if span is None:
            return
        for key, value in attributes.items():
            span.set_attribute(f"gen_ai.{key}", value)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
        span.end()


def exporting_spans() -> GenAISpans:
    """Return a handler that exports spans; raises ConfigError without the extra `otel`."""
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found, unused-ignore]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"expected the extra `otel` for the setting otel = true, found {error}; "
            "pip install 'mistral-agent-toolkit[otel]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "mistral-agent-toolkit"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return GenAISpans(provider.get_tracer("agent"))
