"""Generated schemas: every text that a constraint completes is valid, within its budget."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jsonschema
import numpy as np
import pytest

from llms import ChatLocal
from llms.grammar_close import JsonState
from llms.grammar_schema import check_schema


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """Draw a schema: scalars with bounds, enums, unions, arrays, nested and recursive objects, maps."""
    simple = ["string", "integer", "number", "boolean", "enum", "pattern", "const", "null", "date"]
    simple += ["multiple", "map", "tree"]
    kind = draw.choice(simple if depth > 2 else [*simple, "array", "object", "object", "union"])
    if kind == "array":
        low = draw.randint(0, 2)
        return {"type": "array", "items": schema(draw, depth + 1), "minItems": low, "maxItems": low + 3}
    if kind == "object":
        names = draw.sample(["id", "name", "größe", "tags", "note", "x y", "next"], draw.randint(1, 4))
        required = [name for name in names if draw.random() < 0.6]
        properties = {name: schema(draw, depth + 1) for name in names}
        return {"type": "object", "properties": properties, "required": required}
    if kind == "union":
        return {"anyOf": [schema(draw, depth + 1), {"type": "null"}]}
    low = draw.randint(-50, 50)
    scalars: dict[str, dict[str, Any]] = {
        "string": {"type": "string", "minLength": draw.randint(0, 4), "maxLength": draw.randint(5, 40)},
        "integer": {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 500)},
        "number": {"type": "number", "minimum": low, "exclusiveMaximum": low + 7.5},
        "boolean": {"type": "boolean"},
        "enum": {"enum": draw.sample(["red", "grün", 'blue "1"', 3, None, True, 2.5], 3)},
        "pattern": {"type": "string", "pattern": draw.choice(["^[A-Z]{2}-[0-9]{3}$", "^a+b$", "^(x|yz)*$"])},
        "const": {"const": draw.choice(["fixed", 7, False])},
        "null": {"type": "null"},
        "multiple": {"type": "integer", "multipleOf": draw.randint(2, 9), "minimum": 0, "maximum": 900},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "tree": {"$ref": "#/$defs/tree"},
        "date": {"type": "string", "format": draw.choice(["date", "uuid", "date-time"])},
    }
    return scalars[kind]  # fmt: skip


TREE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
    },
    "required": ["name", "children"],
}


def drawn(seed: int) -> dict[str, Any]:
    """Return the schema of one seed: an object with one value."""
    properties = {"value": schema(random.Random(seed))}
    return {"type": "object", "properties": properties, "required": ["value"], "$defs": {"tree": TREE}}


def validate(text: str, expected: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        expected, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(json.loads(text))


def test_random_choices_under_a_grammar_close_in_time_and_are_valid(chat: ChatLocal) -> None:
    """A worse writer than any model: every allowed token is equally likely."""
    grammars = chat.runtime().grammars
    complete = 0
    for seed in range(60):
        wanted = drawn(seed)
        check_schema(wanted, "it")
        constraint, budget, ids, done = grammars.schema(wanted), 96, list[int](), False
        choose = np.random.default_rng(seed)
        while budget and not done:
            allowed = np.flatnonzero(constraint.mask(budget).numpy())
            token = constraint.settle(int(choose.choice(allowed)), budget)
            done = constraint.accept(token)
            ids.append(token)
            budget -= 1
        if done:
            complete += 1
            validate(chat.runtime().decode(ids), wanted)
    assert complete >= 0.98 * 60


PROMPTS = ("Describe a town.", "Invent a person.", "List what is on a desk.", "Say anything.")


def answers(chat: ChatLocal, seeds: Sequence[int], limit: int) -> Iterator[tuple[int, str]]:
    """Have the model fill a generated schema for each seed, at temperature 1, 48 at a time.

    Yields:
        (seed, "" where the limit of tokens cut it, else "valid" or what is wrong with it).
    """

    def answer(seed: int) -> tuple[int, str]:
        wanted = drawn(seed)
        form = {"type": "json_schema", "json_schema": {"schema": wanted}}
        how: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": limit}
        found = chat.invoke(PROMPTS[seed % 4], response_format=form, **how)
        if found.response_metadata["finish_reason"] != "stop":
            return seed, ""
        try:
            validate(found.text, wanted)
        except (ValueError, jsonschema.ValidationError) as error:
            return seed, f"{error}: {found.text!r}"
        return seed, "valid"

    with ThreadPoolExecutor(min(48, len(seeds))) as threads:
        for done in as_completed([threads.submit(answer, seed) for seed in seeds]):
            yield done.result()


def check(rows: Iterator[tuple[int, str]]) -> None:
    found = list(rows)
    assert [row for row in found if row[1] not in ("", "valid")] == []
    assert sum(state == "valid" for _, state in found) >= 0.98 * len(found)


def test_a_sample_of_schemas_at_temperature_one(chat: ChatLocal) -> None:
    check(answers(chat, random.Random(0).sample(range(1000), 10), 96))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_schemas_at_temperature_one(chat: ChatLocal) -> None:
    check(answers(chat, range(1000), 1024))


def test_json_state_follows_strings_and_escapes() -> None:
    state = JsonState()
    state.feed('{"a\\"}": [1, "')
    assert (state.depth, state.in_string) == (2, True)
    state.feed('x\\\\"]}')
    assert (state.depth, state.in_string) == (0, False)
