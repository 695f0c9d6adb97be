"""From LangChain messages to the prompt's text, by the tokenizer's own chat template.

Knows messages and templates; refuses to know models and sampling. The template is rendered once, and its text
is tokenized without special tokens: it already holds them, and a second BOS costs quality. What a message or
a tool's description says cannot become a control token: `<|im_end|>` in a document ends no turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from llms.errors import BadRequest, TextOnly, UnsupportedModel
from llms.tokenizer import ModelTokenizer
from llms.tool_calls.format import ToolFormat, calls_text, detect, result_text, short_id, tool_list_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]

_TEXT_BLOCKS = {"text", "text-plain"}
_SILENT_BLOCKS = {
    "thinking", "reasoning", "redacted_thinking", "tool_use", "tool_call", "tool_call_chunk",
    "invalid_tool_call", "server_tool_call", "function_call",
}  # fmt: skip
_BREAK = "\u200b"
"""Zero-width space: a reader sees the same text, a tokenizer another one."""
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "system": "system"}


class PromptBuilder:
    """Renders messages for one tokenizer.

    Args:
        tokenizer: The model's tokenizer, or one of transformers.
    """

    def __init__(self, tokenizer: ModelTokenizer | PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer = ModelTokenizer.wrap(tokenizer)
        self._template = _template_text(tokenizer)
        self.tool_format: ToolFormat = detect(self._template)
        self._system: bool | None = None
        self._controls = _controls(tokenizer)

    def render(self, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the prompt up to the start of the model's answer.

        Args:
            messages: At least one, text only.
            tools: OpenAI-style tool dictionaries to tell the model about.

        Raises:
            BadRequest: No messages, an empty user message, an unknown role, or a message the template
            refuses. TextOnly: A message holds an image, audio or file block.
            UnsupportedModel: The tokenizer has no chat template.
        """
        if not self._template:
            raise UnsupportedModel(
                "Expected a tokenizer with a chat template, found none: this is a base model. Use "
                "LocalLLM, which takes raw text, or an instruction-tuned checkpoint."
            )
        turns = self._turns(messages)
        told: list[Mapping[str, Any]] = self._harmless(list(tools))
        native = self.tool_format.name != "generic"
        if told and not native:
            turns = _with_system(turns, tool_list_text(told))
        if not self._takes_system():
            turns = _folded(turns)
        return self._apply(_merged(turns), told if native and told else None)

    def _apply(self, turns: list[Turn], tools: list[Mapping[str, Any]] | None) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            roles = [turn["role"] for turn in turns]
            raise BadRequest(
                f"Expected messages that the model's chat template accepts, found roles {roles!r}, which "
                f"it refuses ({error}). Start with a user message and alternate."
            ) from error
        return str(text)

    def _takes_system(self) -> bool:
        """Try the template once: some refuse a system turn, others drop it in silence."""
        if self._system is None:
            probe = [{"role": "system", "content": "probe-7391"}, {"role": "user", "content": "x"}]
            try:
                text = self._tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
                self._system = "probe-7391" in text
            except Exception:
                self._system = False
        return self._system

    def _turns(self, messages: Sequence[BaseMessage]) -> list[Turn]:
        if not messages:
            raise BadRequest("Expected at least one message, found none. Pass a question.")
        turns: list[Turn] = []
        for place, message in enumerate(messages):
            turns.extend(self._turn(message, place))
        if not any(turn["role"] != "system" for turn in turns):
            # A template needs somebody to answer; a lone system message is taken as the request itself.
            turns = [{**turn, "role": "user"} for turn in turns]
        if not turns:
            raise BadRequest("Expected a message with text, found only empty ones. Pass a question.")
        return turns

    def _turn(self, message: BaseMessage, place: int) -> list[Turn]:
        """Return the turns of one message: one, or none for an empty system or assistant message."""
        text = self._harmless(message_text(message))
        if isinstance(message, AIMessage):
            return self._assistant(message, text)
        if isinstance(message, ToolMessage):
            return [self._tool_result(message, text)]
        role = _role(message)
        if role == "user" and not text.strip():
            raise BadRequest(
                f"Expected text in message {place + 1}, found an empty {type(message).__name__} "
                f"({message.content!r}). Leave it out, or give it text."
            )
        return [{"role": role, "content": text}] if text.strip() else []

    def _assistant(self, message: AIMessage, text: str) -> list[Turn]:
        calls = self._harmless(
            [{"name": c["name"], "args": c["args"], "id": c["id"]} for c in message.tool_calls]
        )
        if not calls:
            return [{"role": "assistant", "content": text}] if text.strip() else []
        if self.tool_format.name == "generic":
            written = calls_text(self.tool_format, calls)
            return [{"role": "assistant", "content": f"{text}\n{written}" if text.strip() else written}]
        native = [
            {
                "id": short_id(call["id"]),
                "type": "function",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in calls
        ]
        return [{"role": "assistant", "content": text, "tool_calls": native}]

    def _harmless(self, value: Any) -> Any:
        """Break the names of control tokens in a text, and in the texts of lists and dictionaries."""
        if isinstance(value, str) and self._controls is not None:
            return self._controls.sub(lambda found: f"{found[0][0]}{_BREAK}{found[0][1:]}", value)
        if isinstance(value, list):
            return [self._harmless(item) for item in value]
        if isinstance(value, dict):
            return {self._harmless(key): self._harmless(item) for key, item in value.items()}
        return value

    def _tool_result(self, message: ToolMessage, text: str) -> Turn:
        error = message.status == "error"
        if self.tool_format.name == "generic":
            return {"role": "user", "content": result_text(text, error=error)}
        return {
            "role": "tool",
            "name": message.name or "",
            "content": f"Error: {text}" if error else text,
            "tool_call_id": short_id(message.tool_call_id),
        }


def message_text(message: BaseMessage) -> str:
    """Return a message's text; blocks of reasoning and tool calls are left out.

    Raises:
        TextOnly: A block of another modality.
        BadRequest: A block that is no content block at all.
    """
    if isinstance(message.content, str):
        return message.content
    parts: list[str] = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
            continue
        kind = block.get("type")
        if kind in _TEXT_BLOCKS and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif kind not in _SILENT_BLOCKS:
            raise TextOnly(
                f"Expected text only, found a content block of type {kind!r} in a {type(message).__name__}: "
                f"this model reads no images, audio, video or files. Send their text instead."
            )
    return "".join(parts)


def _role(message: BaseMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, ChatMessage) and message.role.lower() in _ROLES:
        return _ROLES[message.role.lower()]
    role = message.role if isinstance(message, ChatMessage) else message.type
    raise BadRequest(
        f"Expected a message of role system, user, assistant or tool, found {role!r} "
        f"({type(message).__name__}). Use one of LangChain's message classes for these."
    )


def _with_system(turns: list[Turn], text: str) -> list[Turn]:
    """Add text to the system turn, making one where there is none."""
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _folded(turns: list[Turn]) -> list[Turn]:
    """Move system text into the user turn that follows it."""
    folded: list[Turn] = []
    held: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            held.append(turn["content"])
        elif held and turn["role"] == "user":
            folded.append({**turn, "content": "\n\n".join([*held, turn["content"]])})
            held = []
        else:
            folded.append(turn)
    if held:
        folded.append({"role": "user", "content": "\n\n".join(held)})
    return folded


def _merged(turns: list[Turn]) -> list[Turn]:
    """Join consecutive turns of one role; templates insist on alternation."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        plain = last is not None and "tool_calls" not in last and "tool_calls" not in turn
        if last is not None and plain and last["role"] == turn["role"] and turn["role"] != "tool":
            last["content"] = f"{last['content']}\n\n{turn['content']}"
        else:
            merged.append(dict(turn))
    return merged


def _controls(tokenizer: ModelTokenizer) -> re.Pattern[str] | None:
    """Return a pattern of the texts that a tokenizer reads as control tokens; None if it has none."""
    names = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    names |= set(tokenizer.all_special_tokens)
    longest_first = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _template_text(tokenizer: ModelTokenizer) -> str:
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        return str(template.get("tool_use") or template.get("default") or next(iter(template.values()), ""))
    return str(template or "")
