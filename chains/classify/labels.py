"""Labels and labelled examples, in each form that a caller may pass them.

    >>> labels = read_labels({"sport": "games and athletes", "politics": ["elections", "laws"]})
    >>> [label.name for label in labels]
    ['sport', 'politics > elections', 'politics > laws']
    >>> read_examples({"laws": ["The house passed the bill."]}, labels)
    [('The house passed the bill.', 2)]

Examples name a label by its path, or by its last name if no other label has that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

from chains.errors import ExamplesError, LabelsError, excerpt

MAX_LABELS = 1000
SEPARATOR = " > "


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """A label: its description, and its `path` in the hierarchy (one name if there is no hierarchy)."""

    path: tuple[str, ...]
    description: str = ""

    @property
    def name(self) -> str:
        """The label as it is returned: its name, or in a hierarchy its path, as in "politics > laws"."""
        return SEPARATOR.join(self.path)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups that contain the label, the outermost first."""
        return tuple(SEPARATOR.join(self.path[:depth]) for depth in range(1, len(self.path)))

    @property
    def phrase(self) -> str:
        """The names of its groups, then its own.

        Choosing a group first is worse: on banking intents in five groups it labels 0.73 of the texts right,
        these phrases 0.86, with 0.97 of the groups right.
        """
        return f"{', '.join(self.path[:-1])}: {self.path[-1]}" if len(self.path) > 1 else self.path[-1]

    @property
    def sentence(self) -> str:
        """A sentence whose vector is near to texts with this label."""
        description = f": {self.description.rstrip('. ')}" if self.description else ""
        return f"This text is about {self.phrase}{description}."

    @property
    def continuation(self) -> str:
        """The text that a model scores after "This text is about"."""
        return f" {self.description.rstrip('. ')}" if self.description else f" {self.phrase}"


Labels = Sequence[str] | Mapping[str, Any] | type[Enum] | Any
"""Names, {name: description}, {name: more labels}, an Enum class (or its members), or a Literal."""


def read_labels(given: Labels) -> list[ClassLabel]:
    """Return the labels of `given`, in order.

    Raises:
        LabelsError: There are fewer than two or more than 1,000 labels, or a label is empty or repeated.
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


def _walk(given: Labels, above: tuple[str, ...]) -> Iterable[ClassLabel]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if isinstance(value, str) or value is None:
                yield ClassLabel((*above, _checked(name)), " ".join((value or "").split()))
            else:
                yield from _walk(value, (*above, _checked(name)))
        return
    for name in _names(given):
        yield ClassLabel((*above, _checked(name)))


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
    """Return `name` without the differences in case and white space that do not make another label."""
    return " ".join(name.casefold().split())


def label_name(given: Any) -> Any:
    """Return the name of a label; for an Enum member its value if that is a str, else its name."""
    if isinstance(given, Enum):
        return given.value if isinstance(given.value, str) else given.name
    return given


def _checked(given: Any) -> str:
    name = label_name(given)
    if not isinstance(name, str) or not name.strip():
        raise LabelsError(f"expected every label to be a name, found {name!r}: remove it or give it one")
    return " ".join(name.split())


Examples = Mapping[str, Sequence[str]] | Iterable[tuple[str, str]]
"""{label: texts}, or pairs of a text and its label."""


def read_examples(given: Examples, labels: Sequence[ClassLabel]) -> list[tuple[str, int]]:
    """Return pairs of a text and the index of its label.

    Raises:
        ExamplesError: An example is not a pair, names an unknown label, or has no text.
    """
    places = _places(labels)
    found: list[tuple[str, int]] = []
    for text, label in _pairs(given):
        name = label_name(label)
        place = places.get(label_key(name)) if isinstance(name, str) else None
        if place is None:
            names = [one.name for one in labels[:10]]
            raise ExamplesError(
                f"expected examples of the labels {names!r}, found {excerpt(name)}: add that label or "
                f"remove its examples (label paths are joined with {SEPARATOR!r})"
            )
        if not isinstance(text, str) or not text.strip():
            raise ExamplesError(
                f"expected a text for each example, found {excerpt(text)} under {name!r}: remove it"
            )
        found.append((text, place))
    return found


def _places(labels: Sequence[ClassLabel]) -> dict[str, int]:
    """Return the index of each label by its key, and by its last name if no other label has that."""
    last = [label_key(label.path[-1]) for label in labels]
    alone = {key: place for place, key in enumerate(last) if last.count(key) == 1}
    return alone | {label_key(label.name): place for place, label in enumerate(labels)}


def _pairs(given: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of a text and a label in `given`, unchecked."""
    if isinstance(given, Mapping):
        # A single text is an example; iterating over it would give its characters.
        several = {name: [texts] if isinstance(texts, str) else texts for name, texts in given.items()}
        return [(text, name) for name, texts in several.items() for text in texts]
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        pairs = list(given)
        wrong = [one for one in pairs if isinstance(one, str | bytes) or not _is_pair(one)]
        if not wrong:
            return pairs
        given = wrong[0]
    raise ExamplesError(
        f"expected examples as label -> texts, or as pairs of a text and its label, found {excerpt(given)}: "
        'pass for example {"spam": ["You have won!"]}'
    )


def _is_pair(one: Any) -> bool:
    return isinstance(one, Sequence) and len(one) == 2
