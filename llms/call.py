"""One call of a chat model: the prompt, the parameters, the grammar, and how its answer is read.

`plan_text` and `plan_schema` plan a call without tools; `llms.tool_calls.plan` plans one with tools. The chat
model submits the planned `Call` to the engine and turns what comes back into LangChain's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration

from llms.grammar.schema import check_schema, json_text
from llms.output import AnswerInfo, TextTranslator, Translator
from llms.prompts import message_text
from llms.tool_calls.format import RESULT_TAGS
from llms.tool_calls.output import UntaggedTranslator

if TYPE_CHECKING:
    from llms.engine.request import Constraint, Piece
    from llms.engine.stream import Stream
    from llms.params import GenerationParams
    from llms.runtime import Runtime


@dataclass(kw_only=True, slots=True)
class Call:
    """A planned call, which `submit` hands to the engine.

        call = plan_text(runtime, [HumanMessage("Name three lakes.")], params)
        [stream] = call.submit()
        print(call.result(stream, stream.result()).text)

    Attributes:
        runtime: The model.
        prompt: Token ids.
        params: Parameters that have been checked.
        constraint: Makes the logits processor of one answer. None: the answer is free text.
        translator: Makes the translator of one answer.
        decode: Turns token ids into text, if the runtime's own `decode` will not do.
    """

    runtime: Runtime
    prompt: list[int]
    params: GenerationParams
    constraint: Callable[[], Constraint] | None = None
    translator: Callable[[], Translator] = field(default=TextTranslator)
    decode: Callable[[list[int]], str] | None = None

    def submit(self) -> list[Stream]:
        """Queue all answers of the call at once and return their streams."""
        requests = [
            self.runtime.request(
                self.params,
                self.prompt,
                index=index,
                decode=self.decode,
                constraint=self.constraint() if self.constraint else None,
            )
            for index in range(self.params.n)
        ]
        return self.runtime.engine.submit_all(requests)

    def info(self, stream: Stream) -> AnswerInfo:
        """Return the facts about an answer that its message reports."""
        return AnswerInfo(
            model_name=self.runtime.loaded.name,
            input_tokens=len(self.prompt),
            cached_tokens=stream.cached_tokens,
            token_text=self._token_text,
        )

    def result(self, stream: Stream, pieces: Sequence[Piece]) -> ChatGeneration:
        """Return one whole answer, from all its pieces."""
        return self.translator().collect(self.info(stream), pieces)

    def _token_text(self, token: int) -> str:
        """Return the text of one token; a control token's is its name."""
        if token in self.runtime.special_ids:
            return str(self.runtime.tokenizer.convert_ids_to_tokens(token))
        return self.runtime.decode([token])


def plan_text(runtime: Runtime, messages: Sequence[BaseMessage], params: GenerationParams) -> Call:
    """Plan an answer in text, without tools.

    After a tool's result that the prompt holds between tags, models tend to repeat the tags around their
    answer. The opening one is left out, and the closing one ends the answer.
    """
    prompt = runtime.prompt_ids(list(messages))
    tagged = runtime.prompts.tool_format.name == "generic"
    if not (tagged and any(isinstance(message, ToolMessage) for message in messages)):
        return Call(runtime=runtime, prompt=prompt, params=params)
    params = params.ending_at([f"\n{RESULT_TAGS[1]}", RESULT_TAGS[1]])
    return Call(runtime=runtime, prompt=prompt, params=params, translator=UntaggedTranslator)


def plan_schema(
    runtime: Runtime,
    messages: Sequence[BaseMessage],
    params: GenerationParams,
    schema: dict[str, Any] | None,
) -> Call:
    """Plan an answer that is JSON under a schema.

    Args:
        runtime: The model.
        messages: The conversation.
        params: Parameters that have been checked.
        schema: A JSON schema. None allows any JSON object.

    Raises:
        UnsupportedSchema: The grammar cannot enforce the schema.
    """
    if schema is not None:
        check_schema(schema, "the output schema")
    return Call(
        runtime=runtime,
        prompt=runtime.prompt_ids(with_schema_note(messages, schema)),
        params=params,
        constraint=lambda: runtime.grammars.schema(schema),
    )


def with_schema_note(messages: Sequence[BaseMessage], schema: dict[str, Any] | None) -> list[BaseMessage]:
    """Return the messages with the wanted schema written at the end of the last user message."""
    note = "Answer with one JSON object."
    if schema is not None:
        note = f"Answer with one JSON value that follows this schema: {json_text(schema)}"
    noted = list(messages)
    for place in range(len(noted) - 1, -1, -1):
        if isinstance(noted[place], HumanMessage):
            noted[place] = HumanMessage(content=f"{message_text(noted[place])}\n\n{note}")
            return noted
    return [*noted, HumanMessage(content=note)]
