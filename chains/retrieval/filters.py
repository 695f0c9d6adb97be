"""Search filters: mappings of field to condition, translated to SQL over the manifest's tables.

Fields are `source` (a path, a folder or a glob), `type` (the kind: markdown, pdf, ...), `title`, `heading`,
`page`, `modified` (a date, or seconds since the epoch), `chunk_id`, and any key of a document's own metadata.
A condition is a value, a list of values of which one must match, or a mapping with `$eq`, `$ne`, `$in`,
`$nin`, `$gt`, `$gte`, `$lt`, `$lte` and `$contains`. Values are compared as JSON values; a text also equals a
number or a boolean that is written the same way, and a `date` or `datetime` is its ISO text.

All fields of a mapping must match. `$or` and `$and` take a list of filters and may be nested; `$not` takes
one filter.

    {"source": "docs/*.md", "modified": {"$gte": "2026-01-31"}, "author": ["Ada", "Grace"]}
    {"$or": [{"type": "pdf"}, {"published": {"$lt": date(2026, 1, 31)}}]}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from chains.retrieval.errors import BadFilter
from chains.retrieval.manifest import Manifest

Filter = Mapping[str, Any]
# The store's own fields and their columns. Every other field is a key of a document's own metadata.
_SOURCE_FIELDS = {"source": "path", "type": "kind", "kind": "kind", "modified": "modified"}
_CHUNK_FIELDS = {"title": "chunks.title", "heading": "heading", "page": "page", "chunk_id": "chunk_id"}
_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_LISTS = ("$in", "$nin")
_OPERATORS = ("$eq", "$ne", *_LISTS, *_COMPARED, "$contains")


@dataclass(frozen=True, slots=True)
class _SqlCondition:
    """A piece of SQL and the values of its placeholders, in their order."""

    text: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _SqlField:
    """The SQL expressions for a field's value and for the JSON type of that value."""

    value: str
    type: str


_METADATA = _SqlField("own.value", "own.type")


def allowed_rows(manifest: Manifest, chosen: Filter) -> list[int]:
    """Return the rows of the chunks that meet all conditions; raise BadFilter for an invalid condition."""
    if not isinstance(chosen, Mapping):
        raise BadFilter(f"expected a filter as a mapping of fields to conditions, found {chosen!r}")
    of_sources, of_chunks = [_SqlCondition("1")], [_SqlCondition("1")]
    for name, condition in chosen.items():
        of_source = not _names_chunk_field({name: condition})
        (of_sources if of_source else of_chunks).append(_entry(name, condition))
    inner, outer = _joined(of_sources, " AND "), _joined(of_chunks, " AND ")
    # Conditions on sources are looked at once for each source, and not once for each of its chunks.
    sql = (
        "SELECT chunks.id FROM chunks JOIN sources ON sources.id = source_id "
        f"WHERE source_id IN (SELECT sources.id FROM sources WHERE {inner.text}) AND {outer.text}"
    )
    return [row[0] for row in manifest.execute(sql, (*inner.values, *outer.values))]


def iso_text(moment: date) -> str:
    """Return a date or time as the text that metadata holds; a time with a zone is given in UTC."""
    if isinstance(moment, datetime) and moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat()


def _names_chunk_field(chosen: Filter) -> bool:
    for name, condition in chosen.items():
        nested = [condition] if name == "$not" else condition if name in _JUNCTIONS else []
        if name in _CHUNK_FIELDS or any(
            _names_chunk_field(one) for one in nested if isinstance(one, Mapping)
        ):
            return True
    return False


_JUNCTIONS = {"$or": " OR ", "$and": " AND "}


def _entry(name: str, condition: Any) -> _SqlCondition:
    """Return the SQL of one entry of a filter: a field's condition, or filters that are joined."""
    if name in _JUNCTIONS:
        if not isinstance(condition, list | tuple) or not condition:
            raise BadFilter(f"expected a list of filters behind {name}, found {condition!r}")
        return _joined([_all_of(one) for one in condition], _JUNCTIONS[name])
    if name == "$not":
        inner = _all_of(condition)
        return _SqlCondition(f"NOT coalesce({inner.text}, 0)", inner.values)
    _check(name, condition)
    return _field(name, condition)


def _all_of(chosen: Any) -> _SqlCondition:
    if not isinstance(chosen, Mapping) or not chosen:
        raise BadFilter(f"expected a filter as a mapping of fields to conditions, found {chosen!r}")
    return _joined([_entry(name, condition) for name, condition in chosen.items()], " AND ")


def _check(name: str, condition: Any) -> None:
    if not isinstance(name, str) or not name or name.startswith("$"):
        raise BadFilter(
            f"expected a field name, $and, $or or $not, found {name!r}; fields are source, type, title, "
            "heading, page, modified, chunk_id and the names of your metadata"
        )
    if isinstance(condition, Mapping):
        unknown = [op for op in condition if op not in _OPERATORS]
        if unknown or not condition:
            raise BadFilter(
                f"expected conditions out of {' '.join(_OPERATORS)} for {name!r}, found {dict(condition)!r}"
            )
        for op in _LISTS:
            if op in condition and not isinstance(condition[op], list | tuple | set | frozenset):
                raise BadFilter(f"expected a list behind {op} for {name!r}, found {condition[op]!r}")


def _field(name: str, condition: Any) -> _SqlCondition:
    """Return the condition on one field, which may be a column, a key of the metadata, or both.

    If a text that an app added has a key in its metadata that is also one of the store's fields, its own key
    counts. For a file this holds for "type" only, which e-mails and PEPs define themselves.
    """
    missing_meets = isinstance(condition, Mapping) and set(condition) <= {"$ne", "$nin"}
    own = _meets(name, _METADATA, condition)
    # A missing or null value is unequal to everything and meets no other condition.
    mine = f"EXISTS (SELECT 1 FROM json_each(sources.metadata) AS own WHERE own.key = ? AND {own.text})"
    none = "NOT EXISTS (SELECT 1 FROM json_each(sources.metadata) WHERE key = ? AND type <> 'null')"
    from_metadata = _SqlCondition(mine, (name, *own.values))
    if missing_meets:
        from_metadata = _SqlCondition(f"({mine} OR {none})", (name, *own.values, name))
    column = _SOURCE_FIELDS.get(name) or _CHUNK_FIELDS.get(name)
    if column is None:
        return from_metadata
    ours = _meets(name, _SqlField(column, f"typeof({column})"), condition)
    present = f"{column} IS NOT NULL AND ({ours.text})"
    if missing_meets:
        present = f"({column} IS NULL OR ({ours.text}))"
    own_counts = "1" if name == "type" else "origin = 'app'"
    has = "EXISTS (SELECT 1 FROM json_each(sources.metadata) WHERE key = ?)"
    return _SqlCondition(
        f"CASE WHEN {own_counts} AND {has} THEN {from_metadata.text} ELSE {present} END",
        (name, *from_metadata.values, *ours.values),
    )


def _meets(name: str, at: _SqlField, condition: Any) -> _SqlCondition:
    if isinstance(condition, list | tuple | set | frozenset):
        return _any(_meets(name, at, one) for one in condition)
    if isinstance(condition, Mapping):
        return _joined([_operator(name, at, op, wanted) for op, wanted in condition.items()], " AND ")
    if name == "source":
        return _under(at, str(condition))
    if name == "heading":
        return _operator(name, at, "$contains", condition)
    return _operator(name, at, "$eq", condition)


def _operator(name: str, at: _SqlField, op: str, wanted: Any) -> _SqlCondition:
    if op == "$nin":
        found = [_operator(name, at, "$ne", one) for one in wanted]
        return _joined(found, " AND ") if found else _SqlCondition("1")
    if op == "$in":
        return _any(_operator(name, at, "$eq", one) for one in wanted)
    if op == "$contains":
        return _SqlCondition(f"instr(lowered({at.value}), ?) > 0", (str(wanted).lower(),))
    if name == "modified":
        wanted = _seconds(wanted)
    if isinstance(wanted, date):
        wanted = iso_text(wanted)
    if op == "$eq":
        return _equal(at, wanted)
    if op == "$ne":
        equal = _equal(at, wanted)
        return _SqlCondition(f"NOT ({equal.text})", equal.values)
    # A number is not comparable with a text, so such a row does not match.
    kind = "('integer', 'real')" if _is_number(wanted) else "('text')"
    return _SqlCondition(f"({at.type} IN {kind} AND {at.value} {_COMPARED[op]} ?)", (_plain(name, wanted),))


def _equal(at: _SqlField, wanted: Any) -> _SqlCondition:
    word = json.dumps(wanted) if isinstance(wanted, bool) else str(wanted)
    same = f"CASE WHEN {at.type} IN ('true', 'false') THEN {at.type} ELSE CAST({at.value} AS TEXT) END = ?"
    if not _is_number(wanted):
        return _SqlCondition(f"({same})", (word,))
    return _SqlCondition(f"({same} OR ({at.type} IN ('integer', 'real') AND {at.value} = ?))", (word, wanted))


def _is_number(wanted: Any) -> bool:
    return isinstance(wanted, int | float) and not isinstance(wanted, bool) and math.isfinite(wanted)


def _plain(name: str, wanted: Any) -> Any:
    if _is_number(wanted) or isinstance(wanted, str):
        return wanted
    raise BadFilter(f"expected a number or a text to compare {name!r} with, found {wanted!r}")


def _under(at: _SqlField, wanted: str) -> _SqlCondition:
    """Return the condition that a path is this file, lies in this folder, ends so or matches the glob."""
    if any(mark in wanted for mark in "*?["):
        glob = wanted.replace("[!", "[^")  # SQLite writes a negated class with ^
        return _SqlCondition(f"({at.value} GLOB ? OR base_name({at.value}) GLOB ?)", (glob, glob))
    full = os.path.abspath(wanted)
    inside, tail = full.rstrip(os.sep) + os.sep, os.sep + wanted
    return _SqlCondition(
        f"({at.value} IN (?, ?) OR substr({at.value}, 1, ?) = ? OR substr({at.value}, -?) = ?)",
        (wanted, full, len(inside), inside, len(tail), tail),
    )


def _seconds(wanted: Any) -> float:
    if isinstance(wanted, int | float):
        return float(wanted)
    try:
        moment = datetime.fromisoformat(str(wanted))
    except ValueError:
        raise BadFilter(f"expected a date such as 2026-01-31 for modified, found {wanted!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _any(pieces: Iterable[_SqlCondition]) -> _SqlCondition:
    found = list(pieces)
    return _joined(found, " OR ") if found else _SqlCondition("0")


def _joined(pieces: Sequence[_SqlCondition], word: str) -> _SqlCondition:
    text = word.join(piece.text for piece in pieces)
    return _SqlCondition(f"({text})", tuple(value for piece in pieces for value in piece.values))
