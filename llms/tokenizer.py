"""Chat templates rendered without transformers, to the same text.

Knows Jinja's sandbox and what transformers adds to it for every template: `raise_exception`, `strftime_now`,
a `tojson` that escapes no HTML, `break` and `continue`. Refuses the three things for which it would need more
(`{% generation %}`, `namespace`, `dict`): a tokenizer whose template uses them stays transformers' own.

A tokenizer.json and its chat template, read without transformers, which takes a second to import.

Knows the kind of folder that `save_pretrained` of a plain fast tokenizer writes. Refuses every other one:
what a setting, a legacy file or a flag of a token might change is left to
`llms.models.weights.read_tokenizer`. The ids, the texts and the prompts are the same, as a test compares.
Importing it imports neither library.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import AddedToken, Tokenizer

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


PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names in tokenizer_config.json under which tokenizer.json alone says what the tokenizer does."""

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_IDLE = {
    "backend",
    "clean_up_tokenization_spaces",  # asked for at every call
    "is_local",
    "local_files_only",
    "model_input_names",
    "model_max_length",  # the window is the model's
    "padding_side",
    "tokenizer_class",
}
"""Settings that change nothing of what is asked here."""

_LEGACY = (
    "added_tokens.json",
    "additional_chat_templates",
    "chat_template.json",
    "special_tokens_map.json",
)
_PATCHED = 100_000
"""Words above which transformers may replace a tokenizer's pattern (its mend for Mistral's)."""


class PlainTokenizer:
    """What a runtime asks of a tokenizer, under transformers' names.

    Args:
        backend: The tokenizer proper.
        names: Its special tokens by their roles.
        chat_template: Its chat template; None: it has none.
        whole: Loads the same folder as a `transformers` tokenizer.
    """

    def __init__(
        self,
        backend: Tokenizer,
        names: Mapping[str, str],
        chat_template: str | None,
        whole: Callable[[], Any],
    ) -> None:
        self.backend_tokenizer = backend
        self.special_tokens_map = dict(names)
        self.chat_template = chat_template
        self._template = ChatTemplate(chat_template or "", names)
        self._load, self._whole = whole, None
        self._lock = threading.Lock()

    def whole(self) -> Any:
        """Return the `transformers` tokenizer, loaded when it is first asked for.

        Raises:
            UnsupportedModel: transformers cannot read it.
        """
        with self._lock:
            if self._whole is None:
                self._whole = self._load()
            return self._whole

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> dict[str, list[int]]:
        """Return the ids of a text under `input_ids`; `verbose` is for transformers' warnings alone."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of ids; spaces are never cleaned up, which destroys text."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: Literal[False] = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the text of a conversation; `tokenize` is there for transformers' default of it.

        Raises:
            jinja2.TemplateError: The template refuses the conversation.
        """
        if not _is_json([*turns, *(tools or ())]):
            # transformers has its own ways with objects that a template must not get hold of.
            render = self.whole().apply_chat_template
            how = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
            return str(render(turns, tools=tools, **how))
        return self._template.render(turns, tools=tools, add_generation_prompt=add_generation_prompt)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return a token's id; the unknown token's, where there is one, for a text that is no token."""
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return a token as the vocabulary writes it; None for an id beyond it."""
        return self.backend_tokenizer.id_to_token(token)

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id, added ones included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the added tokens by their ids."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @cached_property
    def all_special_tokens(self) -> list[str]:
        """Return the tokens that have a role, each once."""
        return list(dict.fromkeys(self.special_tokens_map[n] for n in _NAMES if n in self.special_tokens_map))

    @property
    def all_special_ids(self) -> list[int | None]:
        """Return the ids of the tokens that have a role."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    @property
    def bos_token_id(self) -> int | None:
        """Return the id of the token that begins a text."""
        return self._role("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Return the id of the token that ends a text."""
        return self._role("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """Return the id of the token that stands for what is none."""
        return self._role("unk_token")

    def _role(self, name: str) -> int | None:
        token = self.special_tokens_map.get(name)
        return None if token is None else self.backend_tokenizer.token_to_id(token)


def plain_tokenizer(folder: Path, whole: Callable[[], Any]) -> PlainTokenizer | None:
    """Read a checkpoint's tokenizer where it is certainly plain; None: let transformers look at it.

    Args:
        folder: The checkpoint.
        whole: Loads the same folder as a `transformers` tokenizer.
    """
    settings, file = _settings(folder), folder / "chat_template.jinja"
    if settings is None:
        return None
    from tokenizers import Tokenizer

    try:
        template = file.read_text(encoding="utf-8") if file.is_file() else None
        if template is not None and not ChatTemplate.serves(template):
            return None
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # it raises nothing narrower; transformers finds the words for what is wrong
        return None
    names = {name: settings[name] for name in _NAMES if settings.get(name) is not None}
    if not _is_finished(backend, names):
        return None
    return PlainTokenizer(backend, names, template, whole)


def _settings(folder: Path) -> dict[str, Any] | None:
    """Return tokenizer_config.json where nothing in it or beside it asks for more than is done here."""
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("tokenizer_class") not in PLAIN_CLASSES:
        return None
    if not found.keys() <= {*_IDLE, *_NAMES} or any((folder / name).exists() for name in _LEGACY):
        return None
    return found if all(isinstance(found.get(name), str | None) for name in _NAMES) else None


def _is_finished(backend: Tokenizer, names: Mapping[str, str]) -> bool:
    """Tell whether transformers would add nothing to a tokenizer, and take nothing away."""
    added = {str(token.content): token for token in backend.get_added_tokens_decoder().values()}
    known = all(
        (token := added.get(name)) is not None
        and token.special
        and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        for name in names.values()
    )
    whole = backend.truncation is None and backend.padding is None and backend.post_processor is not None
    return known and whole and backend.get_vocab_size() <= _PATCHED


def _is_json(value: Any) -> bool:
    """Tell whether a value is made of JSON's own types, and not of classes derived from them."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
