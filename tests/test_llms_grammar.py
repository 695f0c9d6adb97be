"""Generated schemas: each text that a grammar completes is valid and fits its budget."""

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
from llms.grammar.close import JsonState
from llms.grammar.schema import check_schema


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
    """Return the schema for a seed: an object with one value."""
    value = schema(random.Random(seed))
    wanted: dict[str, Any] = {"type": "object", "properties": {"value": value}, "required": ["value"]}
    return wanted | ({"$defs": {"tree": TREE}} if "$ref" in json.dumps(value) else {})


def validate(text: str, expected: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(
        expected, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(json.loads(text))


def test_random_choices_under_a_grammar_close_in_time_and_are_valid(chat: ChatLocal) -> None:
    """All allowed tokens are equally likely, which is worse than what any model writes."""
    grammars = chat.runtime().grammars
    complete = 0
    for seed in range(60):
        wanted = drawn(seed)
        check_schema(wanted, "it")
        constraint, budget, ids, done = grammars.schema(wanted), 96, list[int](), False
        choose = np.random.default_rng(seed)
        while budget and not done:
            allowed = np.flatnonzero(constraint.mask(budget).numpy())
            token = constraint.fit_budget(int(choose.choice(allowed)), budget)
            done = constraint.accept(token)
            ids.append(token)
            budget -= 1
        if done:
            complete += 1
            validate(chat.runtime().decode(ids), wanted)
    assert complete >= 0.98 * 60


NUMBER: dict[str, Any] = {"type": "number"}
STRINGS = {
    "pattern": [{"pattern": "^a+b$"}, {"pattern": "^[a-z]+(-[a-z]+)+!$"}, {"pattern": "^(x|yz)*$"}],
    "format": [{"format": name} for name in ("date-time", "uuid", "email", "ipv4", "uri", "hostname")],
    "length": [{"minLength": 60}, {"minLength": 7, "maxLength": 9}],
}
HARD_TO_CLOSE = {
    "numbers": [NUMBER, NUMBER],
    "numbers just below a bound": [{**NUMBER, "minimum": -44, "exclusiveMaximum": -36.5}, NUMBER],
    "numbers in a narrow range": [{**NUMBER, "exclusiveMinimum": 0.999, "exclusiveMaximum": 1}],
    "multiples": [{"type": "integer", "multipleOf": 7, "minimum": 100}, {**NUMBER, "multipleOf": 0.25}],
    "arrays": [{"type": "array", "items": NUMBER, "minItems": 4}],
    "maps": [{"type": "object", "additionalProperties": NUMBER}, {}],
    "trees": [{"$ref": "#/$defs/tree"}],
} | {name: [{"type": "string", **how} for how in hows] for name, hows in STRINGS.items()}


@pytest.mark.parametrize("name", HARD_TO_CLOSE)
def test_every_place_in_a_text_has_a_way_to_close(chat: ChatLocal, name: str) -> None:
    values = {f"v{place}": value for place, value in enumerate(HARD_TO_CLOSE[name])}
    wanted = {"type": "object", "properties": values, "required": [*values], "$defs": {"tree": TREE}}
    runtime = chat.runtime()
    constraint, choose = runtime.grammars.schema(wanted), np.random.default_rng(0)
    ids, done = list[int](), False
    while not done and len(ids) < 40:
        path = constraint.close()
        assert path is not None and len(path) < 128, runtime.decode(ids)
        validate(runtime.decode([*ids, *path]), wanted)
        ids.append(int(choose.choice(np.flatnonzero(constraint.mask(999).numpy()))))
        done = constraint.accept(ids[-1])


def test_a_text_that_could_go_on_is_ended_within_its_budget(chat: ChatLocal) -> None:
    for wanted in ({"type": "integer"}, {"type": "number"}, {"type": "array", "items": {"type": "null"}}):
        form = {"type": "json_schema", "json_schema": {"schema": wanted}}
        for limit in (2, 3, 5):
            found = chat.invoke("Count.", response_format=form, temperature=9.0, seed=limit, max_tokens=limit)
            assert found.response_metadata["finish_reason"] == "stop", (wanted, limit, found.text)
            validate(found.text, wanted)


PROMPTS = ("Describe a town.", "Invent a person.", "List what is on a desk.", "Say anything.")


def answers(chat: ChatLocal, seeds: Sequence[int], limit: int) -> Iterator[tuple[int, str]]:
    """Let the model fill a generated schema for each seed, at temperature 1, 48 at a time.

    Yields:
        The seed, and "valid", the problem of the answer, or "" if the token limit cut it.
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
