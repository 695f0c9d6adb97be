"""Raw continuations of a text, from any LangChain model.

A completion model (`BaseLLM`) continues a text as it stands. A chat model must be asked to, and what it adds
around the continuation is removed.

    >>> continuation_of("Sure, here is the rest: The end is near.", prefix="The end", suffix="")
    ' is near.'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs

from chains.prompts import load_prompt
from llms.protocols import Completing, Vocabulary, find

Model = Runnable[LanguageModelInput, Any]
_PREAMBLE = re.compile(r"(?is)\A(?:sure|certainly|here(?:'s| is))\b[^\n]{0,80}:\s*\n+")
_FENCE = re.compile(r"```\w*\n(.*?)(?:\n```|\Z)", re.DOTALL)
# Marks of models that fill in the middle: before the prefix, the suffix and the middle.
_FIM = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)


def unbound(llm: Any) -> tuple[Any, dict[str, Any], RunnableConfig]:
    """Return the model inside `.bind()` and `.with_config()`, and the options and config bound to it."""
    options: dict[str, Any] = {}
    config: RunnableConfig = {}
    while isinstance(llm, RunnableBindingBase):
        # The outermost binding was made last, so it wins.
        options = {**llm.kwargs, **options}
        config = merge_configs(llm.config, config)
        llm = llm.bound
    return llm, options, config


def completing(llm: Model) -> Model:
    """Return the completion model on a chat model's weights, bound like it; otherwise the model itself."""
    inner, options, config = unbound(llm)
    if isinstance(inner, BaseLLM) or not isinstance(inner, Completing):
        return llm
    raw = inner.as_completion_model()
    known = {name: value for name, value in options.items() if name in {"stop", *type(raw).model_fields}}
    return cast(Model, raw.bind(**known).with_config(config) if known or config else raw)


def fim_marks(llm: Any) -> tuple[str, str, str] | None:
    """Return the fill-in-the-middle marks of the model's tokenizer, or None if it has none.

    Asks a model that is a `Vocabulary`, such as `LocalLLM`, or the tokenizer of LangChain's
    `HuggingFacePipeline`.
    """
    pipeline = getattr(unbound(llm)[0], "pipeline", None)
    found = find(llm, Vocabulary) or find(getattr(pipeline, "tokenizer", None), Vocabulary)
    if found is None:
        return None
    vocabulary = found.get_vocab()
    return next((marks for marks in _FIM if all(mark in vocabulary for mark in marks)), None)


class Continuer:
    """Continues a text with one model, in front of a suffix if there is one."""

    def __init__(
        self,
        llm: Model,
        *,
        code: bool,
        max_tokens: int,
        fim: tuple[str, str, str] | None,
        stop: list[str] | None = None,
    ) -> None:
        """Prepare a model; `fim` are its fill-in-the-middle marks, and `stop` strings end a continuation."""
        self._stop = stop
        self._llm, self._code, self._max_tokens, self._fim = llm, code, max_tokens, fim
        self._inner, self._options, self._bound = unbound(llm)
        self._raw = isinstance(self._inner, BaseLLM)

    @property
    def raw(self) -> bool:
        """True if the model continues a text as it stands, False if it must be asked."""
        return self._raw

    def stream(self, prefix: str, suffix: str, config: RunnableConfig) -> Iterator[str]:
        """Yield the pieces of one continuation."""
        if not self._raw:
            yield self._asked(prefix, suffix, config)
            return
        prompt, lead = self._prompt(prefix, suffix)
        for piece in self._llm.stream(prompt, config, **self._known(max_tokens=self._max_tokens)):
            text = str(piece)
            if lead and text:
                # The first token begins with the space that was removed from the end of the prompt.
                text, lead = text.removeprefix(lead), ""
            if text:
                yield text

    def greedy(self, prefix: str, suffix: str, config: RunnableConfig) -> str:
        """Return the most probable continuation."""
        if not self._raw:
            return self._asked(prefix, suffix, config)
        return self._generated(prefix, suffix, config, temperature=0.0)[0]

    def sampled(
        self, prefix: str, suffix: str, count: int, config: RunnableConfig, temperature: float = 0.6
    ) -> list[str]:
        """Return `count` sampled continuations, in one batch if the model can do that."""
        if not self._raw:
            return [self._asked(prefix, suffix, config) for _ in range(count)]
        if count and self._known(n=1):
            return self._generated(
                prefix, suffix, config, temperature=temperature, top_p=0.95, seed=0, n=count
            )
        return [
            self._generated(prefix, suffix, config, temperature=temperature, seed=seed)[0]
            for seed in range(1, count + 1)
        ]

    def _generated(self, prefix: str, suffix: str, config: RunnableConfig, **wanted: Any) -> list[str]:
        prompt, lead = self._prompt(prefix, suffix)
        options = {**self._options, **self._known(max_tokens=self._max_tokens, **wanted)}
        stop = [*(options.pop("stop", None) or []), *(self._stop or [])] or None
        whole = merge_configs(self._bound, config)
        made = self._inner.generate(
            [prompt],
            stop=stop,
            callbacks=whole.get("callbacks"),
            tags=whole.get("tags"),
            metadata=whole.get("metadata"),
            **options,
        )
        return [str(one.text).removeprefix(lead) for one in made.generations[0]]

    def _prompt(self, prefix: str, suffix: str) -> tuple[str, str]:
        if self._fim is not None and suffix:
            before, after, middle = self._fim
            prefix, suffix = (_as_text(part, self._fim) for part in (prefix, suffix))
            return f"{before}{prefix}{after}{suffix}{middle}", ""
        # A token begins with its space, so after a prompt that ends with one the model sees odd tokens.
        stripped = prefix.removesuffix(" ") if self._code else prefix.rstrip(" ")
        return stripped or prefix, " " if len(stripped) < len(prefix) else ""

    def _known(self, **wanted: Any) -> dict[str, Any]:
        fields = getattr(type(self._inner), "model_fields", {})
        return {name: value for name, value in wanted.items() if name in fields}

    def _asked(self, prefix: str, suffix: str, config: RunnableConfig) -> str:
        name = "gap" if suffix else "code" if self._code else "text"
        prompt = load_prompt("chains.complete", name).substitute(prefix=prefix, suffix=suffix)
        reply = self._llm.invoke([HumanMessage(prompt)], config, **self._known(max_tokens=self._max_tokens))
        return continuation_of(reply if isinstance(reply, str) else str(reply.text), prefix, suffix)


def _as_text(code: str, marks: tuple[str, str, str]) -> str:
    """Return code in which the names of the marks are broken, so that they end no part of the prompt."""
    for mark in marks:
        code = code.replace(mark, f"{mark[0]}\u200b{mark[1:]}")
    return code


def continuation_of(reply: str, prefix: str, suffix: str) -> str:
    """Return the part of a chat reply that continues `prefix`, without fence, preamble, prefix and suffix."""
    fence = _FENCE.search(reply)
    text = fence.group(1) if fence else _PREAMBLE.sub("", reply)
    last = prefix.rstrip().rsplit("\n", 1)[-1]
    if prefix.strip() and text.startswith(prefix.strip()):
        text = text[len(prefix.strip()) :]
    elif len(last.strip()) > 3 and last.strip() in text.split("\n", 1)[0]:
        text = text[text.index(last.strip()) + len(last.strip()) :]
    if suffix.strip() and text.rstrip().endswith(suffix.strip()):
        text = text.rstrip()[: -len(suffix.strip())]
    return text.lstrip(" ") if prefix.endswith(" ") else text
