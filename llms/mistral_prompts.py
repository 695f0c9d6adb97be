"""Prompts of Mistral's own tokenizers, written as token ids, as the library mistral-common writes them.

Two versions are known: v1 (Mistral-7B-Instruct v0.1 and v0.2), whose instructions are plain text, and v3
(v0.3), which has control tokens for instructions, tools, calls and results. A control token is written as
its id, and every text between two of them is encoded by itself, so text of a message is never read as one.
JSON is written for tools, calls and results; a result that is JSON is embedded as it is, and any other as a
string. mistral-common reads `[REFERENCE_DOC_0]` to `[REFERENCE_DOC_19]` in a text as one piece each; here
they are text.

    >>> from llms.tokenizer import ModelTokenizer
    >>> writer = find_writer(ModelTokenizer.read(folder), template)  # doctest: +SKIP
    >>> writer.write([{"role": "user", "content": "Hi"}], []).text   # doctest: +SKIP
    '<s>[INST] Hi[/INST]'

v3 puts system text and tools into the last user turn. A conversation that goes on therefore moves them, and
what a prefix cache can reuse of the prompt before ends where that turn began (docs/MODELS.md has figures).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llms.tokenizer import ModelTokenizer

_CONTROLS = (
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)  # fmt: skip
"""The control tokens of v3 that prompts use; their ids are 3 to 9."""

_BEGIN_END = {"<s>": 1, "</s>": 2}
_PIECES = {"▁▁": 0, "▁▁▁▁": 1, "▁t": 2, "in": 3, "er": 4}
"""The first pieces behind the 256 bytes, which no other SentencePiece vocabulary has in this order."""


class Encoder(Protocol):
    """Turns texts into ids, in which no control token occurs."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text that stands by itself."""
        ...

    def name(self, token: int) -> str:
        """Return the name of a control token."""
        ...


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt made of control tokens and texts. Text can be added to it, as to a `str`.

    Attributes:
        parts: Ids of control tokens, and texts.
        encoder: Turns the texts into ids.
        opening: Texts that begin an addition and stand for a control token, with its id.
        begun: Whether the last part is the beginning of the answer.
    """

    parts: tuple[int | str, ...]
    encoder: Encoder
    opening: Mapping[str, int]
    begun: bool = False

    def __add__(self, text: str) -> WrittenPrompt:
        parts = list(self.parts)
        for marker, token in self.opening.items():
            if text.startswith(marker):
                parts, text = [*parts, token], text[len(marker) :]
        last = parts[-1]
        if self.begun and isinstance(last, str):
            parts[-1] = last + text
        elif text:
            # A text by itself gets the space that begins it from the encoder.
            parts.append(text.removeprefix(" "))
        return WrittenPrompt(tuple(parts), self.encoder, self.opening, begun=True)

    def ids(self) -> list[int]:
        """Return the token ids."""
        found: list[int] = []
        for part in self.parts:
            found += [part] if isinstance(part, int) else self.encoder.encode(part)
        return found

    @property
    def text(self) -> str:
        """The prompt for people: control tokens by their names, and the space that begins each text."""
        return "".join(
            self.encoder.name(part) if isinstance(part, int) else f" {part}" for part in self.parts
        )


class PromptWriter:
    """Writes the turns of a conversation for one of Mistral's tokenizers.

    Args:
        tokenizer: The tokenizer.
        version: 1 or 3.
    """

    def __init__(self, tokenizer: ModelTokenizer, version: int) -> None:
        self.version = version
        self._tokenizer = tokenizer
        from tokenizers import Tokenizer, normalizers

        # The same model without its control tokens, and with SentencePiece's space before a text.
        self._plain = Tokenizer(tokenizer.backend_tokenizer.model)
        self._plain.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        self._begin, self._end = _BEGIN_END.values()
        self._ids = {} if version == 1 else {name: token for token, name in enumerate(_CONTROLS, 3)}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, none of which is a control token's."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate has no bytes
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return ids

    def name(self, token: int) -> str:
        """Return the name of a control token."""
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def write(self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> WrittenPrompt:
        """Return the prompt up to the start of the model's answer.

        Args:
            turns: Turns of the roles system, user, assistant and tool, neighbours of one role joined. An
                assistant's turn with calls loses its text, for which the format has no place.
            tools: OpenAI-style tool dictionaries; v1 has no place for them.
        """
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        spoken = [turn for turn in turns if turn["role"] != "system"]
        if not spoken or spoken[0]["role"] != "user":
            spoken.insert(0, {"role": "user", "content": ""})
        users = [place for place, turn in enumerate(spoken) if turn["role"] == "user"]
        parts: list[int | str] = [self._begin]
        for place, turn in enumerate(spoken):
            if turn["role"] == "user":
                told = system and place == (users[0] if self.version == 1 else users[-1])
                text = f"{system}\n\n{turn['content']}" if told else turn["content"]
                parts += self._user(text, tools if place == users[-1] else ())
            elif turn["role"] == "tool":
                parts += self._result(turn)
            else:
                parts += self._answer(turn)
        opening = {_CONTROLS[2]: self._ids[_CONTROLS[2]]} if self._ids else {}
        return WrittenPrompt(tuple(part for part in parts if part != ""), self, opening)

    def _user(self, text: str, tools: Sequence[Mapping[str, Any]]) -> list[int | str]:
        if self.version == 1:
            return [f"[INST] {text} [/INST]"]
        begin, end, _, tools_begin, tools_end, *_ = self._ids.values()
        listed: list[int | str] = []
        if tools:
            listed = [tools_begin, _json([_tool(tool) for tool in tools]), tools_end]
        return [*listed, begin, text, end]

    def _answer(self, turn: Mapping[str, Any]) -> list[int | str]:
        if not turn.get("tool_calls"):
            return [turn["content"] if self.version == 1 else turn["content"].rstrip(" "), self._end]
        calls = [
            {"name": call["function"]["name"], "arguments": call["function"]["arguments"], "id": call["id"]}
            for call in turn["tool_calls"]
        ]
        return [self._ids["[TOOL_CALLS]"], _json(calls), self._end]

    def _result(self, turn: Mapping[str, Any]) -> list[int | str]:
        content = {"content": _parsed(turn["content"]), "call_id": turn["tool_call_id"]}
        return [self._ids["[TOOL_RESULTS]"], _json(content), self._ids["[/TOOL_RESULTS]"]]


def find_writer(tokenizer: ModelTokenizer, template: str) -> PromptWriter | None:
    """Return the writer for one of Mistral's tokenizers; None for any other.

    Args:
        tokenizer: A tokenizer.
        template: Its chat template. Models that were made from Mistral's often have another format.
    """
    from tokenizers.models import BPE

    backend = tokenizer.backend_tokenizer
    if "[INST]" not in template or not isinstance(getattr(backend, "model", None), BPE):
        return None
    for version, bytes_at in ((1, 3), (3, 771)):
        pieces = {
            **_BEGIN_END,
            "<0x00>": bytes_at,
            **{name: bytes_at + 256 + at for name, at in _PIECES.items()},
        }
        controls = {} if version == 1 else {name: token for token, name in enumerate(_CONTROLS, 3)}
        if all(
            backend.token_to_id(name) == token
            for name, token in {**_BEGIN_END, "<0x00>": bytes_at, **pieces, **controls}.items()
        ):
            return PromptWriter(tokenizer, version)
    return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(content: str) -> Any:
    """Return the value of a result that is JSON; otherwise the text. An empty one is an empty object."""
    try:
        return json.loads(content or "{}")
    except (ValueError, RecursionError):
        return content


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool with the keys that Mistral's models were trained on, in their order."""
    function = tool["function"]
    return {
        "type": "function",
        "function": {
            "name": function["name"],
            "description": function.get("description") or "",
            "parameters": function.get("parameters") or {},
        },
    }
