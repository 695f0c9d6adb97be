"""A prompt, made of LangChain messages by the tokenizer's chat template, or as Mistral's models expect it.

The template's text already has its special tokens, so it is tokenized without adding any; a second BOS costs
quality. Text of a message or a tool's description cannot become a control token: `<|im_end|>` in a document
does not end a turn. Mistral's own tokenizers need no template (`llms.mistral_prompts`).

    >>> message_text(HumanMessage([{"type": "text", "text": "Hello"}]))
    'Hello'
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
from llms.mistral_prompts import WrittenPrompt, find_writer
from llms.tokenizer import ModelTokenizer
from llms.tool_calls.format import (
    GENERIC,
    MISTRAL,
    ToolFormat,
    calls_text,
    detect,
    result_text,
    short_id,
    tool_list_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]

_TEXT_BLOCKS = {"text", "text-plain"}
_SILENT_BLOCKS = {
    "thinking", "reasoning", "redacted_thinking", "tool_use", "tool_call", "tool_call_chunk",
    "invalid_tool_call", "server_tool_call", "function_call",
}  # fmt: skip
_BREAK = "\u200b"
"""A zero-width space. A reader sees the same text with it, but a tokenizer does not."""
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "system": "system"}


class PromptBuilder:
    """Renders messages for one tokenizer.

        text = PromptBuilder(tokenizer).render([HumanMessage("Hi")])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    Args:
        tokenizer: The model's tokenizer, or one of transformers.
    """

    def __init__(self, tokenizer: ModelTokenizer | PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer = ModelTokenizer.wrap(tokenizer)
        self._template = _template_text(tokenizer)
        self._system: bool | None = None
        self._writer = find_writer(tokenizer, self._template)
        if self._writer is None:
            self.tool_format: ToolFormat = detect(self._template)
            self._control_names = _control_names(tokenizer)
        else:
            self.tool_format = MISTRAL if self._writer.version == 3 else GENERIC
            self._control_names = None  # its prompts are ids, so a text never becomes a control token

    def render(self, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the prompt as text, up to the start of the model's answer; see `write`."""
        written = self.write(messages, tools)
        return written if isinstance(written, str) else written.text

    def write(
        self, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()
    ) -> str | WrittenPrompt:
        """Return the prompt up to the start of the model's answer, for `Runtime.encode`.

        Args:
            messages: At least one message.
            tools: OpenAI-style dictionaries of the tools that the model is told about.

        Raises:
            BadRequest: There is no message, a user message is empty, a role is unknown, or the template
                refuses a message.
            TextOnly: A message has an image, audio or file block.
            UnsupportedModel: The tokenizer has no chat template.
        """
        if not self._template:
            raise UnsupportedModel(
                "expected a tokenizer with a chat template, found none, so this is a base model; use "
                "LocalLLM, which takes raw text, or an instruction-tuned checkpoint"
            )
        turns = self._turns(messages)
        offered: list[Mapping[str, Any]] = self._escaped(list(tools))
        native = self.tool_format.name != "generic"
        if offered and not native:
            turns = _with_system(turns, tool_list_text(offered))
        if self._writer is not None:
            return self._writer.write(_merged(turns), offered if native else ())
        if not self._takes_system():
            turns = _folded(turns)
        return self._apply(_merged(turns), offered if native and offered else None)

    def _apply(self, turns: list[Turn], tools: list[Mapping[str, Any]] | None) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tools=tools, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            roles = [turn["role"] for turn in turns]
            raise BadRequest(
                f"expected messages that the model's chat template accepts, found roles {roles!r}, which it "
                f"refuses ({error}); start with a user message and alternate"
            ) from error
        return str(text)

    def _takes_system(self) -> bool:
        """Return whether the template shows a system turn. Some refuse one, and others drop it silently."""
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
            raise BadRequest("expected at least one message, found none; pass a question")
        turns: list[Turn] = []
        for place, message in enumerate(messages):
            turns.extend(self._turn(message, place))
        if not any(turn["role"] != "system" for turn in turns):
            # A template needs a user turn to answer, so system messages alone become the request.
            turns = [{**turn, "role": "user"} for turn in turns]
        if not turns:
            raise BadRequest("expected a message with text, found only empty ones; pass a question")
        return turns

    def _turn(self, message: BaseMessage, place: int) -> list[Turn]:
        """Return the turn of a message, in a list that is empty if the message adds no turn."""
        text = self._escaped(message_text(message))
        if isinstance(message, AIMessage):
            return self._assistant(message, text)
        if isinstance(message, ToolMessage):
            return [self._tool_result(message, text)]
        role = _role(message)
        if role == "user" and not text.strip():
            raise BadRequest(
                f"expected text in message {place + 1}, found an empty {type(message).__name__} "
                f"({message.content!r}); leave it out, or give it text"
            )
        return [{"role": role, "content": text}] if text.strip() else []

    def _assistant(self, message: AIMessage, text: str) -> list[Turn]:
        calls = self._escaped(
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

    def _escaped(self, value: Any) -> Any:
        """Return a value with the names of control tokens in its texts broken, so that they stay text."""
        if isinstance(value, str) and self._control_names is not None:
            return self._control_names.sub(lambda found: f"{found[0][0]}{_BREAK}{found[0][1:]}", value)
        if isinstance(value, list):
            return [self._escaped(item) for item in value]
        if isinstance(value, dict):
            return {self._escaped(key): self._escaped(item) for key, item in value.items()}
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
    """Return the text of a message, without blocks of reasoning and tool calls.

    Raises:
        TextOnly: A block is not text.
        BadRequest: The text holds half of a surrogate pair, which no tokenizer accepts.
    """
    text = _joined_text(message)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"expected whole characters in a {type(message).__name__}, found half of a surrogate pair "
            f"({text[error.start]!r}) at {error.start}; decode the text with errors='replace'"
        ) from error
    return text


def _joined_text(message: BaseMessage) -> str:
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
                f"expected text only, found a content block of type {kind!r} in a {type(message).__name__}, "
                f"and this model does not read images, audio, video or files; send their text instead"
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
        f"expected a message of role system, user, assistant or tool, found {role!r} "
        f"({type(message).__name__}); use one of LangChain's message classes for these"
    )


def _with_system(turns: list[Turn], text: str) -> list[Turn]:
    """Return the turns with a text added to the system turn, which is made if there is none."""
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _folded(turns: list[Turn]) -> list[Turn]:
    """Return the turns with the text of system turns moved into the user turns that follow them."""
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
    """Return the turns with neighbours of one role joined, because templates require alternating roles."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        plain = last is not None and "tool_calls" not in last and "tool_calls" not in turn
        if last is not None and plain and last["role"] == turn["role"] and turn["role"] != "tool":
            last["content"] = f"{last['content']}\n\n{turn['content']}"
        else:
            merged.append(dict(turn))
    return merged


def _control_names(tokenizer: ModelTokenizer) -> re.Pattern[str] | None:
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
