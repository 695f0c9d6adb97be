"""A record of a turn's steps with their times and tokens, kept by LangChain's standard callbacks.

Knows starts and ends of models, tools and retrievers. Refuses to know what is printed of it; nothing leaves
the process.

OpenTelemetry spans with the GenAI conventions, for whoever asks (setting `otel`, extra `otel`).

Where spans go is the user's own set-up (`OTEL_EXPORTER_OTLP_ENDPOINT` and the like). Prompts and answers
are never put into spans, only names, counts and times. Conventions:
opentelemetry.io/docs/specs/semconv/gen-ai.
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
    """One step: `start` and the other times in seconds since the trace began, tokens where a model ran."""

    kind: str
    name: str
    start: float
    seconds: float | None = None
    first_token: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


class Trace(BaseCallbackHandler):
    """Collects the steps; pass it in `config={"callbacks": [trace]}`."""

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
        """A model begins."""
        name = (kwargs.get("metadata") or {}).get("ls_model_name") or kwargs.get("name") or "model"
        self._start("model", str(name), run_id)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A model writes; the first piece is timed."""
        step = self._open.get(run_id)
        if step is not None and step.first_token is None:
            step.first_token = time.perf_counter() - self._began - step.start

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model ends; its tokens are counted."""
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
        """A model fails."""
        self._end(run_id, error)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool begins."""
        self._start("tool", str((serialized or {}).get("name", "tool")), run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool ends."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool fails."""
        self._end(run_id, error)

    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A search begins."""
        self._start("search", "documents", run_id)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A search ends."""
        self._end(run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A search fails."""
        self._end(run_id, error)

    def rows(self) -> list[dict[str, Any]]:
        """The steps as a table: times in milliseconds."""
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
    """A span for each model call (`chat`) and each tool call (`execute_tool`)."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._open: dict[UUID, Any] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A model begins."""
        name = str((kwargs.get("metadata") or {}).get("ls_model_name") or "model")
        self._start(
            run_id, f"chat {name}", operation="chat", **{"request.model": name, "provider.name": "local"}
        )

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model ends."""
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        usage = (
            getattr(generation.message, "usage_metadata", None)
            if isinstance(generation, ChatGeneration)
            else None
        )
        counts = {f"usage.{name}": usage[name] for name in ("input_tokens", "output_tokens")} if usage else {}
        self._end(run_id, **counts)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model fails."""
        self._end(run_id, error)

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool begins."""
        name = str((serialized or {}).get("name", "tool"))
        self._start(run_id, f"execute_tool {name}", operation="execute_tool", **{"tool.name": name})

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool ends."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool fails."""
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
    """Spans sent where OpenTelemetry's own variables say; raises ConfigError without the extra."""
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
