"""Bytes of one file in, text with structure out: one function a format, chosen by suffix.

`parse(payload)` is what a limited child process runs; it and every parser take and return plain JSON values
(the file's bytes apart) and keep no state. Parsers know formats; they refuse to know paths, tokens, stores
and the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chains.retrieval.errors import SourceError
from chains.retrieval.parsers.registry import IN_PROCESS, KINDS, kind_of, parser_for

__all__ = ["IN_PROCESS", "KINDS", "kind_of", "parse", "parser_for"]


def parse(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Parses `{"name": str, "data": bytes, "kind": str}` into `ParsedDocument.to_payload()`.

    A document that cannot be read gives `{"error": class name, "message": str}` instead of raising, so that
    the reason crosses the process boundary whole.
    """
    name, data, kind = str(payload["name"]), bytes(payload["data"]), str(payload["kind"])
    try:
        return parser_for(kind)(name, data).to_payload()
    except SourceError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except RecursionError:
        return {"error": "DamagedDocument", "message": f"expected {kind}, found it nested too deep to read"}
    except Exception as error:  # any failure of a format library is the document's
        found = f"{type(error).__name__}: {error}"[:300]
        return {"error": "DamagedDocument", "message": f"expected readable {kind}, found {found!r}"}
