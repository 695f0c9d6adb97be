"""Generated schemas: every text that a constraint completes is valid, within its budget."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from llms import ChatLocal
from llms.grammar_close import JsonState
from llms.grammar_schema import check_schema


def schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """Draw a schema: scalars with bounds, enums, unions, arrays, nested objects with optional fields."""
    simple = ["string", "integer", "number", "boolean", "enum", "pattern", "const", "null", "date"]
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
        "date": {"type": "string", "format": draw.choice(["date", "uuid", "date-time"])},
    }
    return scalars[kind]  # fmt: skip


def validate(text: str, expected: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        expected, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(json.loads(text))


def test_random_choices_under_a_grammar_close_in_time_and_are_valid(chat: ChatLocal) -> None:
    """A worse writer than any model: every allowed token is equally likely."""
    grammars = chat.runtime().grammars
    complete = 0
    for seed in range(60):
        draw = random.Random(seed)
        wanted = {"type": "object", "properties": {"value": schema(draw)}, "required": ["value"]}
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


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_schemas_at_temperature_one(chat: ChatLocal) -> None:
    prompts = ("Describe a town.", "Invent a person.", "List what is on a desk.", "Say anything.")
    complete = 0
    for start in range(0, 1000, 40):
        batch = []
        for seed in range(start, start + 40):
            wanted = {"type": "object", "properties": {"value": schema(random.Random(seed))}}
            batch.append({**wanted, "required": ["value"]})
        forms = [{"type": "json_schema", "json_schema": {"schema": s}} for s in batch]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(40) as threads:
            answers = list(
                threads.map(
                    lambda pair: chat.invoke(
                        prompts[pair[0] % 4],
                        response_format=pair[1],
                        temperature=1.0,
                        seed=pair[0],
                        max_tokens=1024,
                    ),
                    enumerate(forms, start),
                )
            )
        for answer, wanted in zip(answers, batch, strict=True):
            if answer.response_metadata["finish_reason"] == "stop":
                complete += 1
                validate(answer.text, wanted)
    assert complete >= 980


def test_json_state_follows_strings_and_escapes() -> None:
    state = JsonState()
    state.feed('{"a\\"}": [1, "')
    assert (state.depth, state.in_string) == (2, True)
    state.feed('x\\\\"]}')
    assert (state.depth, state.in_string) == (0, False)
