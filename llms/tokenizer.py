r"""One tokenizer class for every model: `tokenizers.Tokenizer` and the Jinja chat template.

    >>> from pathlib import Path
    >>> tokenizer = ModelTokenizer.read(Path("SmolLM2-135M"))                        # doctest: +SKIP
    >>> tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])           # doctest: +SKIP
    '<|im_start|>user\nHi<|im_end|>\n'
    >>> tokenizer("Hi")["input_ids"]                                                 # doctest: +SKIP
    [23859]

A folder that certainly needs nothing else is read without transformers, whose import takes a second. If a
setting, a legacy file or a flag of a token might change the result, transformers reads the folder once and
hands over its `tokenizers.Tokenizer`. In both cases ids, texts and prompts are those of transformers, as a
test compares. Importing this module imports neither library.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from llms.errors import UnsupportedModel
from llms.models.checkpoint import TOKENIZERS
from llms.quiet import quiet

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Names in tokenizer_config.json under which tokenizer.json alone defines the tokenizer."""

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_HARMLESS_SETTINGS = {
    "backend",
    "clean_up_tokenization_spaces",  # decided at every call
    "is_local",
    "local_files_only",
    "model_input_names",
    "model_max_length",  # the model's window is used instead
    "padding_side",
    "tokenizer_class",
}
"""Settings that do not change ids, texts or prompts."""

_LEGACY_FILES = (
    "added_tokens.json",
    "additional_chat_templates",
    "chat_template.json",
    "special_tokens_map.json",
)
_PATCHED_SIZE = 100_000
"""Vocabulary size above which transformers may replace a tokenizer's pattern (its fix for Mistral's)."""

_UNSUPPORTED_IN_TEMPLATES = ("generation", "namespace", "dict")
_MISTRAL_TYPES = ("mistral", "mistral3", "ministral", "pixtral", "voxtral")


class ChatTemplate:
    """A chat template, compiled when it is first rendered, to the text that transformers would give.

    It has what transformers adds to Jinja's sandbox for every template: `raise_exception`, `strftime_now`, a
    `tojson` that does not escape HTML, `break` and `continue`.

        >>> template = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}", {})
        >>> template.render([{"role": "user", "content": "Hi"}])
        'user: Hi'

    Args:
        text: The template. It comes with a checkpoint and is not trusted.
        names: Names that it may use in addition to the conversation: the special tokens by role.
    """

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self.text = text
        self._names = dict(names)

    @staticmethod
    def serves(text: str) -> bool:
        """Return whether a template needs nothing that is missing here; a doubtful word counts as a need."""
        rest = text.replace("add_generation_prompt", "")
        return not any(word in rest for word in _UNSUPPORTED_IN_TEMPLATES)

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
            add_generation_prompt: Whether to end with the start of the model's answer.

        Raises:
            jinja2.TemplateError: The template is malformed, refuses the conversation, or uses something that
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
        sandbox.globals["raise_exception"] = _raise_exception
        sandbox.globals["strftime_now"] = _strftime_now
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


def _raise_exception(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


class ModelTokenizer:
    """The tokenizer of a model, with the methods that a runtime needs under the names of transformers.

    `ModelTokenizer.read(folder)` reads a checkpoint's, and `ModelTokenizer.wrap(tokenizer)` takes one of
    transformers.

    Args:
        backend: The tokenizer itself.
        special_tokens: Special tokens by role (`eos_token` and so on).
        chat_template: The chat template, or several by name; None if there is none.
        load: Loads the same tokenizer by transformers, for the few things that only that library does.
        all_special_tokens: Every special token; by default those with a role.
    """

    def __init__(
        self,
        backend: Tokenizer,
        special_tokens: Mapping[str, Any],
        chat_template: str | Mapping[str, str] | None,
        load: Callable[[], PreTrainedTokenizerBase],
        *,
        all_special_tokens: Iterable[str] | None = None,
    ) -> None:
        self.backend_tokenizer = backend
        self.special_tokens_map = dict(special_tokens)
        self.chat_template = chat_template
        roles = (special_tokens[role] for role in _ROLES if role in special_tokens)
        self.all_special_tokens = list(dict.fromkeys(all_special_tokens or roles))
        self._load, self._pretrained = load, cast("PreTrainedTokenizerBase | None", None)
        self._lock = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> ModelTokenizer:
        """Return the tokenizer of a checkpoint folder, read without transformers if nothing is doubtful.

        Raises:
            UnsupportedModel: There is none, or one that cannot be read.
        """
        return cls.read_plain(folder) or cls.wrap(read_pretrained_tokenizer(folder))

    @classmethod
    def read_plain(cls, folder: Path) -> ModelTokenizer | None:
        """Return the tokenizer of a folder, read without transformers; None if anything is doubtful."""
        settings, file = _plain_settings(folder), folder / "chat_template.jinja"
        if settings is None:
            return None
        from tokenizers import Tokenizer

        try:
            template = file.read_text(encoding="utf-8") if file.is_file() else None
            if template is not None and not ChatTemplate.serves(template):
                return None
            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception:  # tokenizers raises nothing narrower; transformers then says what is wrong
            return None
        special_tokens = {role: settings[role] for role in _ROLES if settings.get(role) is not None}
        if not _is_final(backend, special_tokens):
            return None
        return cls(backend, special_tokens, template, lambda: read_pretrained_tokenizer(folder))

    @classmethod
    def wrap(cls, tokenizer: ModelTokenizer | PreTrainedTokenizerBase) -> ModelTokenizer:
        """Return a tokenizer of transformers as a `ModelTokenizer`."""
        if isinstance(tokenizer, ModelTokenizer):
            return tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return SlowTokenizer(tokenizer)
        if backend.truncation is not None or backend.padding is not None:
            from tokenizers import Tokenizer

            backend = Tokenizer.from_str(backend.to_str())  # the caller's stays as it is
            backend.no_truncation()
            backend.no_padding()
        return cls(
            backend,
            tokenizer.special_tokens_map,
            getattr(tokenizer, "chat_template", None),
            lambda: tokenizer,
            all_special_tokens=tokenizer.all_special_tokens,
        )

    def pretrained(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer as transformers has it, loaded on first use.

        Raises:
            UnsupportedModel: transformers cannot read it.
        """
        with self._lock:
            if self._pretrained is None:
                self._pretrained = self._load()
            return self._pretrained

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> dict[str, list[int]]:
        """Return the ids of a text under `input_ids`; `verbose` has a meaning only in transformers."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of ids. Spaces are never cleaned up, because that destroys text."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tokenize: Literal[False] = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the text of a conversation. `tokenize` exists because transformers' default is True.

        Raises:
            jinja2.TemplateError: The template refuses the conversation.
        """
        template = self._template()
        if template is None or not _is_json([*turns, *(tools or ())]):
            # transformers has its own ways with objects, which a template must not get hold of.
            how: dict[str, Any] = {
                "chat_template": self.chat_template if isinstance(self.chat_template, str) else None,
                "tokenize": False,
                "add_generation_prompt": add_generation_prompt,
            }
            return str(self.pretrained().apply_chat_template(list(turns), tools=tools, **how))
        return template.render(turns, tools=tools, add_generation_prompt=add_generation_prompt)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the token's id, or the unknown-token id (None if there is none) if it is not a token."""
        found = self.backend_tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return a token as the vocabulary writes it; None for an id beyond the vocabulary."""
        return self.backend_tokenizer.id_to_token(token)

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id, including added ones."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the added tokens by id."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def all_special_ids(self) -> list[int | None]:
        """Return the ids of the special tokens."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    @property
    def bos_token_id(self) -> int | None:
        """Return the id of the token that begins a text."""
        return self._id_of_role("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Return the id of the token that ends a text."""
        return self._id_of_role("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """Return the id of the token that stands for unknown text."""
        return self._id_of_role("unk_token")

    def _id_of_role(self, role: str) -> int | None:
        token = self.special_tokens_map.get(role)
        return None if token is None else self.backend_tokenizer.token_to_id(str(token))

    def _template(self) -> ChatTemplate | None:
        """Return the compiled template; None if only transformers can render it."""
        text = self.chat_template
        if not isinstance(text, str) or not ChatTemplate.serves(text):
            return None
        kept = self.__dict__.get("_compiled_template")
        if kept is None or kept.text != text:
            kept = self.__dict__["_compiled_template"] = ChatTemplate(text, self.special_tokens_map)
        return cast(ChatTemplate, kept)


class SlowTokenizer(ModelTokenizer):
    """A tokenizer of transformers that is written in Python; grammars cannot use it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        special_tokens, template = tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)
        all_special_tokens = tokenizer.all_special_tokens
        super().__init__(
            cast("Tokenizer", tokenizer),
            special_tokens,
            template,
            lambda: tokenizer,
            all_special_tokens=all_special_tokens,
        )
        self._python: Any = tokenizer

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, verbose: bool = True
    ) -> dict[str, list[int]]:
        """Return the ids of a text under `input_ids`."""
        ids = self._python(text, add_special_tokens=add_special_tokens, verbose=verbose)["input_ids"]
        return {"input_ids": list(ids)}

    def decode(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Return the text of ids."""
        how = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        return str(self._python.decode(list(ids), skip_special_tokens=skip_special_tokens, **how))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the token's id, or the unknown-token id if it is not a token."""
        return cast("int | None", self._python.convert_tokens_to_ids(token))

    def convert_ids_to_tokens(self, token: int) -> str | None:
        """Return a token as the vocabulary writes it."""
        return cast("str | None", self._python.convert_ids_to_tokens(token))

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id."""
        return dict(self._python.get_vocab())

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return the added tokens by id."""
        return dict(self._python.added_tokens_decoder)

    def _id_of_role(self, role: str) -> int | None:
        return cast("int | None", getattr(self._python, f"{role}_id"))


def read_pretrained_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a checkpoint's tokenizer, read by transformers.

    Raises:
        UnsupportedModel: There is none, or one that transformers cannot read.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UnsupportedModel(
            f"expected a tokenizer ({', '.join(TOKENIZERS)}) in {str(folder)!r}, found none; copy it from "
            "the base model's repository"
        )
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    settings |= _mistral_regex(folder)
    with quiet():
        try:
            if _json_object(folder / "tokenizer_config.json").get("tokenizer_class") in _PLAIN_CLASSES:
                from transformers import PreTrainedTokenizerFast  # AutoTokenizer imports 0.5 s of others

                return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
            from transformers import AutoTokenizer

            return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(str(folder), **settings))
        except Exception as error:
            raise UnsupportedModel(
                f"expected a tokenizer in {str(folder)!r}, found one that does not load: {error}; copy "
                "tokenizer.json and tokenizer_config.json from the base model's repository"
            ) from error


def _mistral_regex(folder: Path) -> dict[str, bool]:
    # transformers suspects the tokenizer of every Mistral checkpoint written before its version 5. The fix
    # that it offers is right for the tekken tokenizers and wrong for the SentencePiece ones (Mistral-7B v0.1
    # to v0.3).
    config = _json_object(folder / "config.json")
    version = str(config.get("transformers_version") or "0")
    if config.get("model_type") not in _MISTRAL_TYPES or int(version.split(".")[0] or 0) >= 5:
        return {}
    tokenizer = _json_object(folder / "tokenizer.json")
    sentencepiece = not tokenizer or bool(tokenizer.get("model", {}).get("byte_fallback"))
    return {"fix_mistral_regex": not sentencepiece}


def _plain_settings(folder: Path) -> dict[str, Any] | None:
    """Return tokenizer_config.json if nothing in it or next to it needs more than is implemented here."""
    found = _json_object(folder / "tokenizer_config.json")
    if found.get("tokenizer_class") not in _PLAIN_CLASSES:
        return None
    if not found.keys() <= {*_HARMLESS_SETTINGS, *_ROLES}:
        return None
    if any((folder / name).exists() for name in _LEGACY_FILES):
        return None
    return found if all(isinstance(found.get(role), str | None) for role in _ROLES) else None


def _is_final(backend: Tokenizer, special_tokens: Mapping[str, str]) -> bool:
    """Return whether transformers would neither add anything to a tokenizer nor change it."""
    added = {str(token.content): token for token in backend.get_added_tokens_decoder().values()}
    known = all(
        (token := added.get(name)) is not None
        and token.special
        and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        for name in special_tokens.values()
    )
    plain = backend.truncation is None and backend.padding is None and backend.post_processor is not None
    return known and plain and backend.get_vocab_size() <= _PATCHED_SIZE


def _is_json(value: Any) -> bool:
    """Return whether a value consists of JSON's own types, and not of classes derived from them."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
