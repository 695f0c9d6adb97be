"""Labels: names, names with descriptions, Enum, Literal, or a hierarchy of them.

Knows how labels are given and which cannot be told apart; knows no text and no model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

from chains.errors import LabelsError

MAX_LABELS = 1000
SEPARATOR = " > "


@dataclass(frozen=True, slots=True)
class Label:
    """A label: its `path` from the top of the hierarchy (one name where there is none) and what it means."""

    path: tuple[str, ...]
    description: str = ""

    @property
    def name(self) -> str:
        """The label as it is returned: its own name, or the path where a hierarchy was given."""
        return SEPARATOR.join(self.path)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups that the label is in, the outermost first."""
        return tuple(SEPARATOR.join(self.path[:depth]) for depth in range(1, len(self.path)))

    @property
    def phrase(self) -> str:
        """The label in words, behind those of its groups.

        Groups scored by themselves mislead: on banking intents in five groups, choosing a group first gives
        0.73 right, these phrases 0.86, and 0.97 of the groups.
        """
        return f"{', '.join(self.path[:-1])}: {self.path[-1]}" if len(self.path) > 1 else self.path[-1]

    @property
    def sentence(self) -> str:
        """A sentence that a text of this label would be near to."""
        told = f": {self.description.rstrip('. ')}" if self.description else ""
        return f"This text is about {self.phrase}{told}."

    @property
    def spoken(self) -> str:
        """The label as it is scored after "This text is about"."""
        return f" {self.description.rstrip('. ')}" if self.description else f" {self.phrase}"


Labels = Sequence[str] | Mapping[str, Any] | type[Enum] | Any
"""Names, name -> description, name -> more labels, an Enum class (or its members) or a Literal."""


def read_labels(given: Labels) -> list[Label]:
    """Return the labels of `given`, in order.

    Raises:
        LabelsError: fewer than two or more than 1,000 labels, an empty label, or one that is given twice.
    """
    found = list(_walk(given, ()))
    if len(found) < 2:
        raise LabelsError(
            f"expected at least two labels to choose between, found {[one.name for one in found]!r}: add some"
        )
    if len(found) > MAX_LABELS:
        raise LabelsError(
            f"expected at most {MAX_LABELS} labels, found {len(found)!r}: group them into a hierarchy and "
            "classify level by level"
        )
    seen: dict[str, str] = {}
    for one in found:
        key = label_key(one.name)
        if key in seen:
            raise LabelsError(f"expected labels that differ, found {one.name!r} twice: remove or rename one")
        seen[key] = one.name
    return found


def _walk(given: Labels, above: tuple[str, ...]) -> Iterable[Label]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if isinstance(value, str) or value is None:
                yield Label((*above, _checked(name)), " ".join((value or "").split()))
            else:
                yield from _walk(value, (*above, _checked(name)))
        return
    for name in _names(given):
        yield Label((*above, _checked(name)))


def _names(given: Labels) -> Sequence[Any]:
    if isinstance(given, type) and issubclass(given, Enum):
        return list(given)
    if get_args(given):
        return get_args(given)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise LabelsError(
            f"expected labels as a list, a mapping, an Enum or a Literal, found {given!r}: pass for example "
            '["news", "spam"]'
        )
    return list(given)


def label_key(name: str) -> str:
    """Return what tells labels apart: names that differ in case or white space alone do not."""
    return " ".join(name.casefold().split())


def label_name(given: Any) -> Any:
    """Return the name of a label: a member of an Enum goes by its text, or else by its own name."""
    if isinstance(given, Enum):
        return given.value if isinstance(given.value, str) else given.name
    return given


def _checked(given: Any) -> str:
    name = label_name(given)
    if not isinstance(name, str) or not name.strip():
        raise LabelsError(f"expected every label to be a name, found {name!r}: remove it or give it one")
    return " ".join(name.split())
