"""Labels: what is in a conversation that can misuse a tool call, or must not leave through one.

`untrusted` text was written by somebody else: it stands in a document, a file, a pipe, a tool's result or the
description of an MCP server's tool, and may hold instructions. `private` text is the user's own documents and
files. A message carries the labels of its text, so they are stored with the thread, outlive a restart and go
into the summary that replaces old turns. A message of the user or the model without labels is clean, a tool's
result without labels is both.

    >>> told = labelled(HumanMessage("From the shop: order now!"), both("mail.eml"))
    >>> labels_of([HumanMessage("Read my mail"), told]).untrusted
    ('mail.eml',)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage

LABELS = "labels"
"""Key in a message's `additional_kwargs`: the labels of its text, as a mapping from label to origins."""

OWN_INPUT = "own_input"
"""Key in a message's `additional_kwargs`: the user's words alone, if other text came with them."""

_OLD_ORIGIN = "untrusted"
"""Key under which version 0.1 kept the origin of text that came with a message of the user."""

Message = TypeVar("Message", bound=BaseMessage)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The origins of untrusted and of private text, without repetitions; an empty tuple means there is none.

    >>> Labels(untrusted=("a web page",)) | both("lease.pdf")
    Labels(untrusted=('a web page', 'lease.pdf'), private=('lease.pdf',))
    """

    untrusted: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    def __or__(self, other: Labels) -> Labels:
        """Return the labels of both texts together."""
        return Labels(
            untrusted=tuple(dict.fromkeys((*self.untrusted, *other.untrusted))),
            private=tuple(dict.fromkeys((*self.private, *other.private))),
        )

    def __bool__(self) -> bool:
        """Return False if the text is clean: neither untrusted nor private."""
        return bool(self.untrusted or self.private)


CLEAN = Labels()


def both(*origins: str) -> Labels:
    """Return the labels of text that is untrusted and private, as documents and files are."""
    return Labels(untrusted=origins, private=origins)


def marks(labels: Labels) -> dict[str, dict[str, list[str]]]:
    """Return the entry of a message's `additional_kwargs` that holds the labels."""
    return {LABELS: {label: list(origins) for label, origins in asdict(labels).items()}}


def labelled(message: Message, labels: Labels) -> Message:
    """Return the message with these labels in place of its own."""
    kept = {**message.additional_kwargs, **marks(labels)}
    return message.model_copy(update={"additional_kwargs": kept})


def labels_of(messages: Iterable[AnyMessage]) -> Labels:
    """Return the labels of a whole conversation."""
    found = CLEAN
    for message in messages:
        found |= _labels_of_one(message)
    return found


def _labels_of_one(message: AnyMessage) -> Labels:
    kept = message.additional_kwargs
    given = kept.get(LABELS)
    if isinstance(given, Mapping):
        return Labels(**{label: tuple(map(str, given.get(label, ()))) for label in ("untrusted", "private")})
    if isinstance(message, ToolMessage):
        return both(f"tool {message.name}")
    if origin := kept.get(_OLD_ORIGIN):
        return both(str(origin))
    if isinstance(message, AIMessage):
        quotes = (kept.get("answer") or {}).get("citations", ())
        return both(*(f"document {quote['source']}" for quote in quotes))
    return CLEAN


def own_words(message: AnyMessage) -> str:
    """Return what the user typed of a message, "" if all of its text came from a file or a pipe."""
    own = message.additional_kwargs.get(OWN_INPUT)
    if own is not None:
        return str(own)
    return message.text if isinstance(message, HumanMessage) and not _labels_of_one(message) else ""


def occurrences(args: Mapping[str, Any], messages: Sequence[AnyMessage]) -> dict[str, str]:
    """Return, by argument, the origin of the untrusted text in which the argument's value occurs.

    This is a hint for the person who is asked. It decides nothing, because it does not find a
    disguised value. Values of fewer than four characters occur everywhere and are left out.
    """
    texts = [(origins[0], _plain(m.text)) for m in messages if (origins := _labels_of_one(m).untrusted)]
    found: dict[str, str] = {}
    for name, value in args.items():
        for part in _strings(value):
            origin = next((origin for origin, text in texts if _plain(part) in text), None)
            if origin is not None:
                found[name] = origin
                break
    return found


def _strings(value: Any) -> Iterable[str]:
    """Yield the strings of four characters and more in an argument, at any depth."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str) and len(value.strip()) >= 4:
        yield value


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
