"""Tool calls of small models: which tool to call, for which part of a message, with which arguments.

`GuidedCalls` plans them and is the only part that the rest of the package uses.

A model of 135 million parameters that writes a tool's name picks the right tool in 70 % of cases. Asked how
probable the message is given each tool, it does far better. If it writes arguments freely, it invents them;
if it may only copy spans of the message, it picks well (all arguments right in .65 to .70 of 20 cases
instead of .55). It also commits itself with the first word of an argument ("Send Paul an email": to =
"email"). When candidates are scored as a whole, closing quotation mark included, and no two arguments may
share words, all arguments were right in .86 of a tuning half, where writing reached .70.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from llms.call import Call, plan_text
from llms.prompts import message_text
from llms.tool_calls.output import ArgumentsTranslator, CallsTranslator
from llms.tool_calls.plan import Tool, ToolRequest, arguments_grammar, call_head, parameters, tool_name

if TYPE_CHECKING:
    from llms.mistral_prompts import WrittenPrompt
    from llms.protocols import ToolPicker
    from llms.runtime import Runtime


class GuidedCalls:
    """The `llms.tool_calls.plan.ToolPlanner` of models that are too small to write calls themselves.

    The tool is chosen by log-probabilities before the answer begins, and the model writes arguments only.

    Args:
        runtime: The model.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def plan(self, request: ToolRequest) -> Call:
        """Return a call whose answer is the arguments of the chosen tools, or no tool call at all."""
        turn = last_turn(request.messages)
        if request.choice == "auto" and turn.over:
            return self._answer(request)
        # A tool that has answered is not called again while another one is left.
        left = [tool for tool in request.candidates if tool_name(tool) not in turn.answered_by]
        tools = left or request.candidates
        if request.parallel and len(tools) > 1:
            if parts := split_requests(self._runtime, turn.question, tools):
                return self._several(request, parts)
        must = request.choice != "auto"
        tool = choose_tool(self._runtime, turn.question, tools, must=must, picker=request.picker)
        return self._answer(request) if tool is None else self._one(request, tool, turn.text)

    def _answer(self, request: ToolRequest) -> Call:
        """Plan an answer without a tool."""
        if request.answer is not None:
            return request.answer()
        return plan_text(self._runtime, request.messages, request.params)

    def _one(self, request: ToolRequest, tool: Tool, text: str) -> Call:
        """Plan the call of one tool. The prompt ends where its arguments begin."""
        runtime = self._runtime
        head = call_head(runtime.prompts.tool_format, tool_name(tool))
        opened = runtime.prompts.write(request.messages, [tool]) + head
        schema = self._schema(request, tool, opened, text)
        return Call(
            runtime=runtime,
            prompt=runtime.encode(opened, special=False),
            params=request.params,
            constraint=lambda: runtime.grammars.schema(schema),
            translator=lambda: ArgumentsTranslator(tool_name(tool)),
        )

    def _several(self, request: ToolRequest, parts: Sequence[tuple[Tool, str]]) -> Call:
        """Plan one call for each part of the message. The model writes all arguments in one answer."""
        runtime, tools = self._runtime, [tool for tool, _ in parts]
        form = runtime.prompts.tool_format
        offered = list({tool_name(tool): tool for tool in tools}.values())
        text = runtime.prompts.write(request.messages, offered)
        schemas = [
            self._schema(request, tool, text + call_head(form, tool_name(tool)), part) for tool, part in parts
        ]
        head = call_head(form, tool_name(tools[0]))
        return Call(
            runtime=runtime,
            prompt=runtime.encode(text + head, special=False),
            params=request.params,
            constraint=lambda: runtime.grammars.lark(arguments_grammar(form, tools, schemas)),
            translator=lambda: CallsTranslator(form, opened=True, begun=head.removeprefix(form.opening)),
        )

    def _schema(
        self, request: ToolRequest, tool: Tool, opened: str | WrittenPrompt, text: str
    ) -> dict[str, Any]:
        """Return the schema of a tool's arguments, limited to what the text contains if they are copied."""
        schema = parameters(tool)
        if not request.copy:
            return schema
        return copied_arguments(self._runtime, opened, {**tool["function"], "parameters": schema}, text)


@dataclass(frozen=True, kw_only=True, slots=True)
class UserTurn:
    """The last user message and the tool results that followed it.

    Attributes:
        question: The text of the user message.
        answers: The results of tools, without errors.
        answered_by: The names of the tools that gave them.
        failures: The number of errors.
        ends_with: `result`, `error`, or `other` if the last message is not from a tool.
    """

    question: str
    answers: tuple[str, ...] = ()
    answered_by: frozenset[str] = field(default_factory=frozenset)
    failures: int = 0
    ends_with: str = "other"

    @property
    def over(self) -> bool:
        """Whether no tool should be called any more: the last call succeeded, or a second one failed."""
        return self.ends_with == "result" or (self.ends_with == "error" and self.failures > 1)

    @property
    def text(self) -> str:
        """The text that arguments may be copied from: the question, then the results of tools."""
        return "\n".join([self.question, *self.answers])


def last_turn(messages: Sequence[BaseMessage]) -> UserTurn:
    """Return the turn that the last messages belong to.

    >>> last_turn([HumanMessage("What time is it?")]).question
    'What time is it?'
    """
    places = [place for place, message in enumerate(messages) if isinstance(message, HumanMessage)]
    if not places:
        return UserTurn(question=message_text(messages[-1]))
    since = messages[places[-1] + 1 :]
    names = {call["id"]: call["name"] for m in since if isinstance(m, AIMessage) for call in m.tool_calls}
    results = [m for m in since if isinstance(m, ToolMessage)]
    good = [m for m in results if m.status != "error"]
    last = messages[-1]
    ends = ("error" if last.status == "error" else "result") if isinstance(last, ToolMessage) else "other"
    return UserTurn(
        question=message_text(messages[places[-1]]),
        answers=tuple(message_text(m) for m in good),
        answered_by=frozenset(names.get(m.tool_call_id) or m.name or "" for m in good),
        failures=len(results) - len(good),
        ends_with=ends,
    )


MARGIN_NATS = 1.0
"""How much likelier than an answer without a tool a call must be for each part of a message. On the tuning
half, 7 of 10 messages that ask for two things got both calls, and none of 10 that only look like it nor any
of 44 others got a second one. On the other half 6 of 12 got both, and 2 of 12 that only look like it got a
second one."""

MOST_JOINTS = 3
"""Maximum number of joints that are tried. Each costs two decisions."""

_JOINT = re.compile(
    r"(?:[.;?!,]\s*)?\b(?:and then|and also|and|then|also)\b\s+(?:also\s+|then\s+)?|[.;?!]\s+(?=\w)", re.I
)
_EDGES = " \t\n,;."


def split_requests(runtime: Runtime, question: str, tools: Sequence[Tool]) -> list[tuple[Tool, str]]:
    """Return the parts of a message that ask for different tools, each with its tool.

    A small model that has written one call does not say by itself whether another one is needed. So each part
    is decided like a message of its own.

    Args:
        runtime: The model.
        question: The user's message.
        tools: The candidates. Two parts that need the same tool are one request.

    Returns:
        At least two pairs, or [] if the message does not ask for several tools.
    """
    for left, right in _halves(question):
        if (first := _tool_for_part(runtime, left, tools)) is None:
            continue
        second = _tool_for_part(runtime, right, tools)
        if second is not None and second is not first:
            return [(first, left), *(split_requests(runtime, right, tools) or [(second, right)])]
    return []


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """Yield the two sides of each joint if both have at least two words."""
    found = 0
    for joint in _JOINT.finditer(text):
        mark = (
            joint[0][0] if joint[0][0] in "?!" else ""
        )  # "How cold is it" without the mark reads less like a request.
        left, right = text[: joint.start()].strip(_EDGES) + mark, text[joint.end() :].strip(_EDGES)
        if len(left.split()) > 1 and len(right.split()) > 1 and found < MOST_JOINTS:
            found += 1
            yield left, right


def _tool_for_part(runtime: Runtime, text: str, tools: Sequence[Tool]) -> Tool | None:
    """Return the tool that a part of a message needs, or None if it may need none."""
    scores, plain = tool_scores(runtime, text, tools)
    best = max(range(len(tools)), key=scores.__getitem__)
    return tools[best] if scores[best] - plain >= MARGIN_NATS else None


CONVERSATION = (
    "chat with the user",
    "answer a question from general knowledge",
    "give advice or an opinion",
    "write a short text, or translate or correct one",
    "explain something in words",
    "hold a conversation",
)
"""Descriptions of answers without a tool. Each competes as if it were a tool. With all of them the decision
was right in .79 of a labelled tuning half (balanced), with the first alone in .52, and there is no threshold
to tune. The mean over three wordings ranked better there (.88 of the pairs instead of .84), but it decided no
better (.76 to .82 after trivial changes of the wording) at three times the cost. Subtracting the evidence of
messages without content (Zhao et al. 2021) changed nothing beyond noise."""

_LONGEST = 400
"""Number of characters of the message that are scored. A long message makes its request at one of its
ends."""


def purpose(tool: Tool) -> str:
    """Return the purpose of a tool as a verb phrase: the first sentence of its description, or its name."""
    function = tool["function"]
    words = " ".join(str(function.get("description") or "").split())
    first = re.split(r"(?<=[.!?])\s", words, maxsplit=1)[0].rstrip(".!?")
    return (first or str(function["name"]).replace("_", " ")).strip()


def tool_scores(
    runtime: Runtime, question: str, tools: Sequence[Tool], *, conversation: bool = True
) -> tuple[list[float], float]:
    """Return the evidence for each tool and the evidence for an answer without one, in nats.

    Args:
        runtime: The model.
        question: The user's message.
        tools: OpenAI-style tools.
        conversation: Whether to score answers without a tool. If not, their evidence is -inf.
    """
    text = " " + shortened(question)
    kinds = [purpose(tool) for tool in tools] + list(CONVERSATION if conversation else ())
    scores = [row[0] for row in runtime.score_many([(_wish(kind), [text]) for kind in kinds])]
    return scores[: len(tools)], max(scores[len(tools) :], default=-math.inf)


def choose_tool(
    runtime: Runtime, question: str, tools: Sequence[Tool], *, must: bool, picker: ToolPicker | None = None
) -> Tool | None:
    """Return the tool to call, or None if the model should answer by itself.

    Args:
        runtime: The model.
        question: The user's message.
        tools: The candidates, at least one.
        must: Whether a tool has to be called.
        picker: Decides in place of the model's log-probabilities. Optional.
    """
    if must and len(tools) == 1:
        return tools[0]
    if picker is not None:
        by_name = {tool_name(tool): tool for tool in tools}
        described = {name: str(tool["function"].get("description") or "") for name, tool in by_name.items()}
        return by_name.get(picker.pick(question, described, must=must) or "")
    scores, plain = tool_scores(runtime, question, tools, conversation=not must)
    if max(scores) < plain:
        return None
    return tools[max(range(len(tools)), key=scores.__getitem__)]


def shortened(text: str) -> str:
    """Return a text, or its two ends if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _wish(kind: str) -> str:
    # The first word of "Find flights" begins a sentence and is lowered; that of "SQL query" is a name.
    lowered = kind[:1].lower() + kind[1:] if kind[1:2].islower() else kind
    return f"The user wants the assistant to {lowered}. The user says:"


MAX_WORDS = 80
MAX_SPAN = 12
MAX_SPANS = 1500
"""Limits on the number of spans: 300 of them compile in 8 ms."""

_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
_QUOTES = ("\"'`\u201c\u2018\u00ab\u300c\u300e", "\"'`\u201d\u2019\u00bb\u300d\u300f")
"""Opening and closing quotation marks: ASCII, curly, guillemets, Japanese."""
_PUNCTUATION = " \t\n.,;:!?()[]{}<>\u201e\u3001\u3002\uff0c\uff01\uff1f\uff08\uff09" + "".join(_QUOTES)
_QUOTED = re.compile(f"[{_QUOTES[0]}]([^{_QUOTES[1]}]{{1,200}})[{_QUOTES[1]}]")
_HELD = re.compile(r"\d").search
_FREE = {"enum", "const", "pattern", "format", "anyOf", "oneOf", "allOf", "$ref"}


def spans(text: str) -> list[str]:
    """Return the spans that may be copied from a text: runs of words, without the punctuation around them."""
    words = list(_WORD.finditer(text))[:MAX_WORDS]
    found: dict[str, None] = {}
    for inner in _QUOTED.findall(text):
        found[inner.strip()] = None
    for size in range(1, MAX_SPAN + 1):
        for first in range(len(words) - size + 1):
            piece = text[words[first].start() : words[first + size - 1].end()].strip(_PUNCTUATION)
            piece = re.sub(r"'s$", "", piece)
            if piece and "\n" not in piece:
                found[piece] = None
        if len(found) > MAX_SPANS:
            break
    return [piece for piece in found if piece]


def numbers(text: str) -> list[int | float]:
    """Return the numbers in a text.

    >>> numbers("3 nights at 49.50")
    [3, 49.5]
    """
    return [float(n) if "." in n else int(n) for n in dict.fromkeys(_NUMBER.findall(text.replace(",", "")))]


def limited_to_spans(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return the parameters of a tool with its top-level strings and numbers limited to those in a message.

    Args:
        schema: An object schema.
        text: The message to copy from.
    """
    copies, digits = candidates(text, schema), numbers(text)
    narrowed = dict(schema)
    narrowed["properties"] = {
        name: _narrowed(_named(inner, text), copies, digits)
        for name, inner in schema.get("properties", {}).items()
        if name in schema.get("required", ()) or not _is_map(inner)
    }
    return narrowed


def _is_map(schema: Any) -> bool:
    """Return whether a value is an object with arbitrary keys, which cannot be copied from a message."""
    if not isinstance(schema, Mapping):
        return False
    return any(map(_is_map, schema.get("anyOf", ()))) or (
        schema.get("type") == "object" and not schema.get("properties")
    )


def _named(schema: Any, text: str) -> Any:
    """Limit an enum to the values that the message names, if it names any."""
    if not isinstance(schema, Mapping):
        return schema
    if isinstance(values := schema.get("enum"), list):
        said = [value for value in values if isinstance(value, str) and _says(text, value)]
        return {**schema, "enum": said} if said else schema
    inner = {"items": _named(schema["items"], text)} if "items" in schema else {}
    if isinstance(branches := schema.get("anyOf"), list):
        inner["anyOf"] = [_named(branch, text) for branch in branches]
    return {**schema, **inner}


def _says(text: str, value: str) -> bool:
    """Return whether a text contains a value as separate words. Values of two letters ("in") do not count."""
    words = re.escape(value.replace("_", " "))
    found = re.search(rf"(?<!\w){words}(?!\w)", text.replace("_", " "), re.IGNORECASE)
    return found is not None and len(value) > 2


def candidates(text: str, schema: Mapping[str, Any], argument: Mapping[str, Any] | None = None) -> list[str]:
    """Return the spans that may become a text argument.

    If the tool takes as many numbers as the message has, spans with digits are left out: "50 dollars" then
    gives the amount 50, and never the currency "50 dollars".

    Args:
        text: The message to copy from.
        schema: The tool's parameters, an object schema.
        argument: The argument's own schema, for its length limits.
    """
    found = spans(text)
    kinds = [
        inner.get("type") for inner in schema.get("properties", {}).values() if isinstance(inner, Mapping)
    ]
    numeric = sum(kind in ("integer", "number") for kind in kinds)
    if numeric:
        taken = _HELD if len(numbers(text)) <= numeric else _NUMBER.fullmatch
        found = [piece for piece in found if not taken(piece)]
    return [piece for piece in found if _fits_length(piece, argument or {})]


def _narrowed(schema: Any, copies: list[str], digits: list[int | float]) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    branches = schema.get("anyOf")
    if isinstance(branches, list):
        return {**schema, "anyOf": [_narrowed(branch, copies, digits) for branch in branches]}
    if _FREE & set(schema):
        return schema
    kind = schema.get("type")
    if kind == "string" and copies:
        fitting = [c for c in copies if _fits_length(c, schema)]
        return {"enum": fitting} if fitting else schema
    if kind in ("integer", "number"):
        fitting_numbers = [n for n in digits if _in_range(n, schema, whole=kind == "integer")]
        return {"enum": fitting_numbers} if fitting_numbers else schema
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        return {**schema, "items": _narrowed(schema["items"], copies, digits)}
    return schema


def _fits_length(text: str, schema: Mapping[str, Any]) -> bool:
    return bool(schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text)))


def _in_range(number: float, schema: Mapping[str, Any], *, whole: bool) -> bool:
    if whole and number != int(number):
        return False
    low, high = schema.get("minimum", number), schema.get("maximum", number)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    inside = low <= number <= high
    return inside and (above is None or number > above) and (below is None or number < below)


SCORED = 24
"""Number of candidates per argument that are scored as a whole: those with the most probable first token."""

_COMBINATIONS = 512
_PLAIN = {"type", "title", "description", "minLength", "maxLength"}


def copied_arguments(
    runtime: Runtime, opened: str | WrittenPrompt, function: Mapping[str, Any], text: str
) -> dict[str, Any]:
    """Return the parameters of a tool limited to what the message contains, each text to its best span.

    Args:
        runtime: The model.
        opened: The prompt up to the beginning of the arguments.
        function: The tool: its `name`, `description` and `parameters`.
        text: The message to copy from.
    """
    schema = function["parameters"]
    narrowed = limited_to_spans(schema, text)
    found = {
        name: spans
        for name, inner in schema.get("properties", {}).items()
        if isinstance(inner, Mapping) and inner.get("type") == "string" and set(inner) <= _PLAIN
        if (spans := _without(candidates(text, schema, inner), _naming(function), text))
    }
    if not found:
        return narrowed
    scored = _scores(runtime, opened, found)
    for name, span in _best(scored, text).items():
        narrowed["properties"][name] = {"const": span}
    return narrowed


def _naming(function: Mapping[str, Any]) -> set[str]:
    """Return the words that name a tool and its arguments. "email" and "subject" are not addressees."""
    names = [
        function["name"],
        function.get("description") or "",
        *function["parameters"].get("properties", {}),
    ]
    return {word.casefold() for name in names for word in re.split(r"[\W_]+", str(name)) if word}


def _without(found: Sequence[str], naming: set[str], text: str) -> list[str]:
    """Leave out single words that only name the tool, unless the message quotes them."""

    def quoted(span: str) -> bool:
        return any(f"{mark}{span}{mark}" in text for mark in "'\"")

    return [span for span in found if span.casefold() not in naming or quoted(span)]


def _scores(
    runtime: Runtime, opened: str | WrittenPrompt, found: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[float, str]]]:
    """Return the most probable candidates of each argument with their log-probabilities, best first."""
    items = [
        runtime.split(opened + f'{{"{name}": "', [_quoted(span) for span in spans], special=False)
        for name, spans in found.items()
    ]
    firsts = runtime.engine.score(
        [(prompt, [ids[:1] for ids in texts]) for prompt, texts in items], keep=True
    )
    kept = [_largest(row, SCORED) for row in firsts]
    wholes = runtime.engine.score(
        [(prompt, [texts[i] for i in places]) for (prompt, texts), places in zip(items, kept, strict=True)],
        keep=True,
    )
    return {
        name: sorted(((value, spans[i]) for value, i in zip(values, places, strict=True)), reverse=True)
        for (name, spans), places, values in zip(found.items(), kept, wholes, strict=True)
    }


def _largest(values: Sequence[float], count: int) -> list[int]:
    """Return the indices of the largest values."""
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def _best(scored: Mapping[str, Sequence[tuple[float, str]]], text: str) -> dict[str, str]:
    """Choose one span per argument: the most probable combination in which no two spans share words.

    If all combinations share words, each argument takes its own best span.
    """
    most = max(2, int(_COMBINATIONS ** (1 / len(scored))))
    rows = [row[:most] for row in scored.values()]
    apart = [
        combination
        for combination in itertools.islice(itertools.product(*rows), 4 * _COMBINATIONS)
        if all(_apart(text, a, b) for (_, a), (_, b) in itertools.combinations(combination, 2))
    ]
    chosen = max(apart, key=lambda c: sum(value for value, _ in c), default=tuple(row[0] for row in rows))
    return {name: span for name, (_, span) in zip(scored, chosen, strict=True)}


def _apart(text: str, one: str, other: str) -> bool:
    """Return whether two spans occur in the text at places that do not overlap."""
    first, second = ([m.start() for m in re.finditer(re.escape(span), text)] for span in (one, other))
    return any(a + len(one) <= b or b + len(other) <= a for a in first for b in second)


def _quoted(span: str) -> str:
    """Return the rest of a JSON string after its opening quotation mark."""
    return json.dumps(span, ensure_ascii=False)[1:]
