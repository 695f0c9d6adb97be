"""Which decoder runs a loaded model: the kinds that there are, best first, and what each has against a model.

Knows names, order and refusals. Refuses to import any decoder: a `Kind` imports its own when it is asked
(`llms.load` lists them), so that what serves one machine costs nothing on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llms.errors import BadRequest, UnsupportedModel
from llms.footprint import Footprint, Setting, reference

if TYPE_CHECKING:
    from llms.checkpoint.facts import Facts
    from llms.decoder import Decoder
    from llms.loaded import LoadedModel

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One implementation of the `Decoder` seam.

    Attributes:
        name: What a user calls it.
        why_not: The reason in a few words why it does not serve a model; None where it does. It must be cheap
            where the answer is plain (another device), and must not change the model.
        build: Makes the decoder from the model, the most sequences at once, and the longest sequence in
            tokens.
        expects: Tells from a checkpoint and how it would be run, before anything is loaded, whether this kind
            will serve it: what memory is planned for.
        footprint: How it spends memory.
    """

    name: str
    why_not: Callable[[LoadedModel], str | None]
    build: Callable[[LoadedModel, int, int], Decoder]
    expects: Callable[[Facts, Setting], bool] = lambda facts, setting: True
    footprint: Footprint = reference


def expected(kinds: Sequence[Kind], facts: Facts, setting: Setting, asked: str = AUTO) -> list[Kind]:
    """Return the kinds that may come to serve a checkpoint, the likeliest first.

    Args:
        kinds: All there are, best first; the last serves every model.
        facts: The checkpoint.
        setting: How it would be run.
        asked: A kind's name, or `auto`.

    Raises:
        BadRequest: No such kind.
    """
    if asked != AUTO:
        return [_named(kinds, asked)]
    return [kind for kind in kinds if kind.expects(facts, setting)]


def pick(kinds: Sequence[Kind], loaded: LoadedModel, asked: str = AUTO) -> Kind:
    """Return the kind that was asked for; for `auto` the first that serves the model.

    Where memory was planned for one of them, `auto` looks no further up than that one.

    Args:
        kinds: All there are, best first; the last serves every model.
        loaded: The model.
        asked: A kind's name, or `auto`.

    Raises:
        BadRequest: No such kind.
        UnsupportedModel: The kind that was asked for does not serve this model or device.
    """
    if asked == AUTO:
        planned = kinds.index(_named(kinds, loaded.decoder)) if loaded.decoder else 0
        return next(kind for kind in kinds[planned:] if kind.why_not(loaded) is None)
    kind = _named(kinds, asked)
    if reason := kind.why_not(loaded):
        raise UnsupportedModel(
            f"expected a model that the {asked} decoder serves, found: {reason}; use decoder 'auto' or "
            f"{kinds[-1].name!r}"
        )
    return kind


def _named(kinds: Sequence[Kind], name: str) -> Kind:
    for kind in kinds:
        if kind.name == name:
            return kind
    names = [AUTO, *(kind.name for kind in kinds)]
    raise BadRequest(f"expected decoder to be one of {', '.join(names)}, found {name!r}")
