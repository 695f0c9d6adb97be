"""Chat templates rendered without transformers, to the same text.

Knows Jinja's sandbox and what transformers adds to it for every template: `raise_exception`, `strftime_now`,
a `tojson` that escapes no HTML, `break` and `continue`. Refuses the three things for which it would need more
(`{% generation %}`, `namespace`, `dict`): a tokenizer whose template uses them stays transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template

_NEEDS_MORE = ("generation", "namespace", "dict")


class ChatTemplate:
    """One template, compiled when it is first rendered.

    Args:
        text: The template; it comes with a checkpoint and is not trusted.
        names: What it may use besides the conversation: the special tokens by name.
    """

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self.text = text
        self._names = dict(names)

    @staticmethod
    def serves(text: str) -> bool:
        """Tell whether a template needs no more than there is here; a doubtful word counts as more."""
        return not any(word in text.replace("add_generation_prompt", "") for word in _NEEDS_MORE)

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the text of a conversation.

        Args:
            turns: Messages of plain JSON values; keys whose value is None count as absent.
            tools: OpenAI-style tool dictionaries.
            add_generation_prompt: Whether to begin the model's answer.

        Raises:
            jinja2.TemplateError: The template is no template, refuses the conversation, or reaches for what
                its sandbox forbids.
        """
        messages = [{name: value for name, value in turn.items() if value is not None} for turn in turns]
        return self._compiled.render(
            messages=messages,
            tools=None if tools is None else list(tools),
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._names,
        )

    @cached_property
    def _compiled(self) -> Template:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.filters["tojson"] = _tojson
        sandbox.globals["raise_exception"] = _refuse
        sandbox.globals["strftime_now"] = _now
        return sandbox.from_string(self.text)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
