"""Search filters: a mapping of field to condition, turned into SQL over the manifest's tables.

Knows the fields of sources and chunks. Fields are `source` (a path, a folder, a glob), `type` (the kind:
markdown, pdf, …), `title`, `heading`, `page`, `modified` (ISO date or seconds), `chunk_id` and any key of a
document's own metadata. A condition is a value, a list of values, or a mapping of `$eq $ne $in $gt $gte $lt
$lte $contains`. Values are compared as JSON has them; a word also equals a number or a truth value that is
written so.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chains.retrieval.errors import BadFilter
from chains.retrieval.manifest import Manifest

Filter = Mapping[str, Any]
# Fields of ours and the columns they stand in; all others are keys of a document's own metadata.
_SOURCE_FIELDS = {"source": "path", "type": "kind", "kind": "kind", "modified": "modified"}
_CHUNK_FIELDS = {"title": "chunks.title", "heading": "heading", "page": "page", "chunk_id": "chunk_id"}
_COMPARED = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = ("$eq", "$ne", "$in", *_COMPARED, "$contains")


@dataclass(frozen=True, slots=True)
class _Sql:
    """A piece of SQL and the values of its question marks, in their order."""

    text: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _Value:
    """Where a field's value stands: an SQL expression, and one for its JSON type."""

    value: str
    type: str


_OWN = _Value("own.value", "own.type")


def allowed_rows(manifest: Manifest, chosen: Filter) -> list[int]:
    """The rows of every chunk that meets all conditions; raises BadFilter for one that cannot be read."""
    of_sources, of_chunks = [_Sql("1")], [_Sql("1")]
    for name, condition in chosen.items():
        _check(name, condition)
        (of_chunks if name in _CHUNK_FIELDS else of_sources).append(_field(name, condition))
    inner, outer = _joined(of_sources, " AND "), _joined(of_chunks, " AND ")
    sql = (
        "SELECT chunks.id FROM chunks JOIN sources ON sources.id = source_id "
        f"WHERE source_id IN (SELECT sources.id FROM sources WHERE {inner.text}) AND {outer.text}"
    )
    return [row[0] for row in manifest.execute(sql, (*inner.values, *outer.values))]


def _check(name: str, condition: Any) -> None:
    if not isinstance(name, str) or not name:
        raise BadFilter(
            f"expected a field name, found {name!r}; fields are source, type, title, heading, page, …"
        )
    if isinstance(condition, Mapping):
        unknown = [op for op in condition if op not in _OPERATORS]
        if unknown or not condition:
            raise BadFilter(
                f"expected conditions out of {' '.join(_OPERATORS)} for {name!r}, found {dict(condition)!r}"
            )
        if "$in" in condition and not isinstance(condition["$in"], list | tuple | set | frozenset):
            raise BadFilter(f"expected a list behind $in for {name!r}, found {condition['$in']!r}")


def _field(name: str, condition: Any) -> _Sql:
    """The condition on one field, wherever its value stands.

    A document that an app added speaks for itself, where its metadata has a field of ours; of a file, only
    "type" may be its own word (an e-mail's, a PEP's).
    """
    missing_meets = isinstance(condition, Mapping) and set(condition) == {"$ne"}
    own = _meets(name, _OWN, condition)
    # A value that is not there, or null, is unequal to everything and meets nothing else.
    mine = f"EXISTS (SELECT 1 FROM json_each(sources.metadata) AS own WHERE own.key = ? AND {own.text})"
    none = "NOT EXISTS (SELECT 1 FROM json_each(sources.metadata) WHERE key = ? AND type <> 'null')"
    from_metadata = _Sql(mine, (name, *own.values))
    if missing_meets:
        from_metadata = _Sql(f"({mine} OR {none})", (name, *own.values, name))
    column = _SOURCE_FIELDS.get(name) or _CHUNK_FIELDS.get(name)
    if column is None:
        return from_metadata
    ours = _meets(name, _Value(column, f"typeof({column})"), condition)
    present = f"{column} IS NOT NULL AND ({ours.text})"
    if missing_meets:
        present = f"({column} IS NULL OR ({ours.text}))"
    speaks = "1" if name == "type" else "origin = 'app'"
    has = "EXISTS (SELECT 1 FROM json_each(sources.metadata) WHERE key = ?)"
    return _Sql(
        f"CASE WHEN {speaks} AND {has} THEN {from_metadata.text} ELSE {present} END",
        (name, *from_metadata.values, *ours.values),
    )


def _meets(name: str, at: _Value, condition: Any) -> _Sql:
    if isinstance(condition, list | tuple | set | frozenset):
        return _any(_meets(name, at, one) for one in condition)
    if isinstance(condition, Mapping):
        return _joined([_operator(name, at, op, wanted) for op, wanted in condition.items()], " AND ")
    if name == "source":
        return _under(at, str(condition))
    if name == "heading":
        return _operator(name, at, "$contains", condition)
    return _operator(name, at, "$eq", condition)


def _operator(name: str, at: _Value, op: str, wanted: Any) -> _Sql:
    if op == "$in":
        return _any(_operator(name, at, "$eq", one) for one in wanted)
    if op == "$contains":
        return _Sql(f"instr(lowered({at.value}), ?) > 0", (str(wanted).lower(),))
    if name == "modified":
        wanted = _seconds(wanted)
    if op == "$eq":
        return _equal(at, wanted)
    if op == "$ne":
        equal = _equal(at, wanted)
        return _Sql(f"NOT ({equal.text})", equal.values)
    # A date is not comparable with a word: no match.
    kind = "('integer', 'real')" if _is_number(wanted) else "('text')"
    return _Sql(f"({at.type} IN {kind} AND {at.value} {_COMPARED[op]} ?)", (_plain(name, wanted),))


def _equal(at: _Value, wanted: Any) -> _Sql:
    word = json.dumps(wanted) if isinstance(wanted, bool) else str(wanted)
    same = f"CASE WHEN {at.type} IN ('true', 'false') THEN {at.type} ELSE CAST({at.value} AS TEXT) END = ?"
    if not _is_number(wanted):
        return _Sql(f"({same})", (word,))
    return _Sql(f"({same} OR ({at.type} IN ('integer', 'real') AND {at.value} = ?))", (word, wanted))


def _is_number(wanted: Any) -> bool:
    return isinstance(wanted, int | float) and not isinstance(wanted, bool) and math.isfinite(wanted)


def _plain(name: str, wanted: Any) -> Any:
    if _is_number(wanted) or isinstance(wanted, str):
        return wanted
    raise BadFilter(f"expected a number or a text to compare {name!r} with, found {wanted!r}")


def _under(at: _Value, wanted: str) -> _Sql:
    """Whether the path is the wanted file, lies in that folder, ends with the name or meets the glob."""
    if any(mark in wanted for mark in "*?["):
        glob = wanted.replace("[!", "[^")  # SQLite's spelling of a negated class
        return _Sql(f"({at.value} GLOB ? OR base_name({at.value}) GLOB ?)", (glob, glob))
    full = os.path.abspath(wanted)
    inside, tail = full.rstrip(os.sep) + os.sep, os.sep + wanted
    return _Sql(
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


def _any(pieces: Iterable[_Sql]) -> _Sql:
    found = list(pieces)
    return _joined(found, " OR ") if found else _Sql("0")


def _joined(pieces: Sequence[_Sql], word: str) -> _Sql:
    text = word.join(piece.text for piece in pieces)
    return _Sql(f"({text})", tuple(value for piece in pieces for value in piece.values))
