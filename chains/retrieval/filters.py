"""Search filters: a mapping of field to condition, turned into the set of chunk rows it allows.

Knows the fields of sources and chunks. Fields are `source` (a path, a folder, a glob), `type` (the kind:
markdown, pdf, …), `title`, `heading`, `page`, `modified` (ISO date or seconds) and any key of a document's
own metadata. A condition is a value, a list of values, or a mapping of `$eq $ne $in $gt $gte $lt $lte
$contains`.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from chains.retrieval.errors import BadFilter
from chains.retrieval.manifest import Manifest
from chains.retrieval.records import ChunkRecord

Filter = Mapping[str, Any]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: _same(found, wanted),
    "$ne": lambda found, wanted: not _same(found, wanted),
    "$in": lambda found, wanted: any(_same(found, one) for one in wanted),
    "$gt": lambda found, wanted: found > wanted,
    "$gte": lambda found, wanted: found >= wanted,
    "$lt": lambda found, wanted: found < wanted,
    "$lte": lambda found, wanted: found <= wanted,
    "$contains": lambda found, wanted: str(wanted).lower() in str(found).lower(),
}


def allowed_rows(manifest: Manifest, chosen: Filter) -> list[int]:
    """The rows of every chunk that meets all conditions; raises BadFilter for one that cannot be read."""
    for name, condition in chosen.items():
        _check(name, condition)
    return [chunk.row for chunk in manifest.chunks("1") if matches(chunk, chosen)]


def matches(chunk: ChunkRecord, chosen: Filter) -> bool:
    """Whether one chunk meets every condition."""
    return all(_meets(name, _value(chunk, name), condition) for name, condition in chosen.items())


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
    if name == "modified":
        for wanted in condition.values() if isinstance(condition, Mapping) else [condition]:
            _seconds(wanted)


def _value(chunk: ChunkRecord, name: str) -> Any:
    own = {
        "source": chunk.source,
        "type": chunk.kind,
        "kind": chunk.kind,
        "title": chunk.title,
        "heading": chunk.heading,
        "page": chunk.page,
        "modified": chunk.modified,
        "chunk_id": chunk.chunk_id,
    }
    # A document that an app added speaks for itself; of a file, only "type" may be its own word (an e-mail, a
    # PEP).
    itself = chunk.origin == "app" or name == "type"
    if name in own and not (itself and name in chunk.metadata):
        return own[name]
    return chunk.metadata.get(name)


def _meets(name: str, found: Any, condition: Any) -> bool:
    if found is None:
        return isinstance(condition, Mapping) and set(condition) == {"$ne"}
    if isinstance(condition, list | tuple | set | frozenset):
        return any(_meets(name, found, one) for one in condition)
    if not isinstance(condition, Mapping):
        if name == "source":
            return _under(str(found), str(condition))
        if name == "heading":
            return str(condition).lower() in str(found).lower()
        condition = {"$eq": condition}
    if name == "modified":
        condition = {op: _seconds(wanted) for op, wanted in condition.items()}
    try:
        return all(_OPERATORS[op](found, wanted) for op, wanted in condition.items())
    except TypeError:
        return False  # a date is not comparable with a word: no match


def _under(path: str, wanted: str) -> bool:
    """Whether `path` is the wanted file, lies in the wanted folder, ends with the name or meets the glob."""
    if any(mark in wanted for mark in "*?["):
        return fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(os.path.basename(path), wanted)
    full = os.path.abspath(wanted)
    return path in (wanted, full) or path.startswith(full + os.sep) or path.endswith(os.sep + wanted)


def _same(found: Any, wanted: Any) -> bool:
    return bool(found == wanted) or (not isinstance(found, bool) and str(found) == str(wanted))


def _seconds(wanted: Any) -> float:
    if isinstance(wanted, int | float):
        return float(wanted)
    try:
        moment = datetime.fromisoformat(str(wanted))
    except ValueError:
        raise BadFilter(f"expected a date such as 2026-01-31 for modified, found {wanted!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
