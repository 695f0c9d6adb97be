"""Which decoder runs a loaded model: the kinds that there are, best first, and what each has against a model.

Knows names, order and refusals. Refuses to import any decoder: a `Kind` imports its own when it is asked
(`llms.load` lists them), so that what serves one machine costs nothing on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llms.errors import BadRequest, UnsupportedModel

if TYPE_CHECKING:
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
    """

    name: str
    why_not: Callable[[LoadedModel], str | None]
    build: Callable[[LoadedModel, int, int], Decoder]


def pick(kinds: Sequence[Kind], loaded: LoadedModel, asked: str = AUTO) -> Kind:
    """Return the kind that was asked for; for `auto` the first that serves the model.

    Args:
        kinds: All there are, best first; the last serves every model.
        loaded: The model.
        asked: A kind's name, or `auto`.

    Raises:
        BadRequest: No such kind.
        UnsupportedModel: The kind that was asked for does not serve this model or device.
    """
    if asked == AUTO:
        return next(kind for kind in kinds if kind.why_not(loaded) is None)
    names = [AUTO, *(kind.name for kind in kinds)]
    if asked not in names:
        raise BadRequest(f"expected decoder to be one of {', '.join(names)}, found {asked!r}")
    kind = next(kind for kind in kinds if kind.name == asked)
    if reason := kind.why_not(loaded):
        raise UnsupportedModel(
            f"expected a model that the {asked} decoder serves, found: {reason}; use decoder 'auto' or "
            f"{kinds[-1].name!r}"
        )
    return kind
