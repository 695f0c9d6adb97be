r"""The tokenizer of a GGUF file, made from the file's metadata.

    >>> from llms.models.gguf_file import GgufFile
    >>> file = GgufFile.open(Path("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))  # doctest: +SKIP
    >>> read_gguf_tokenizer(file)("Hi")["input_ids"]                           # doctest: +SKIP
    [13048]

Two kinds cover the architectures that are read in place. `gpt2` is a byte-level BPE with merges, whose
pre-tokenizer `tokenizer.ggml.pre` names. `llama` is a SentencePiece BPE with scores: its merges follow from
the scores, as in transformers' converter, and unknown text becomes bytes. Patterns are those of the makers'
tokenizer.json; llama.cpp's src/llama-vocab.cpp lists which name means which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import UnsupportedModel
from llms.models.gguf_file import GgufFile
from llms.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

LONGEST_TEMPLATE = 2**20
"""Characters of a chat template; the longest published ones have 20,000."""

_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, 3, 4, 6

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN_2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    "qwen2": _QWEN_2,
    "deepseek-r1-qwen": _QWEN_2,
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe"), _LLAMA_3),
    "tekken": _TEKKEN,
}
_GPT_2 = ("gpt-2", "default")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Pre-tokenizers that separate all digits before they apply GPT-2's rule."""

_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "tekken")
"""Pre-tokenizers whose words are looked up whole before merges apply."""

_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "<|eom_id|>", "</s>")
"""Control tokens that end an answer, whatever the file says; llama.cpp has the same list."""


def read_gguf_tokenizer(file: GgufFile) -> ModelTokenizer:
    """Return the tokenizer of a GGUF file.

    Raises:
        DamagedCheckpoint: Its metadata contradict each other.
        UnsupportedModel: It has a tokenizer of another kind.
    """
    check_tokenizer(file)
    tokens = file.array("tokenizer.ggml.tokens", str) or file.refuse("tokens", "none")
    types = file.array("tokenizer.ggml.token_type", int) or [_NORMAL] * len(tokens)
    if len(types) != len(tokens):
        file.refuse(f"{len(tokens):,} types of tokens", f"{len(types):,}")
    backend = _byte_level(file, tokens) if _kind(file) == "gpt2" else _sentence_piece(file, tokens)
    names = _special_names(file, tokens)
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    _add_tokens(backend, tokens, types, names.values())
    _add_edges(file, backend, names)
    template = file.text("tokenizer.chat_template")
    if template is not None and len(template) > LONGEST_TEMPLATE:
        file.refuse(f"a chat template of at most {LONGEST_TEMPLATE:,} characters", f"{len(template):,}")
    return ModelTokenizer(
        backend,
        names,
        template,
        lambda: _pretrained(file.path),
        all_special_tokens=dict.fromkeys([*names.values(), *control]),
    )


def check_tokenizer(file: GgufFile) -> None:
    """Refuse a file whose tokenizer is of another kind; nothing is built.

    Raises:
        DamagedCheckpoint: Its names are no text.
        UnsupportedModel: It has a tokenizer of another kind.
    """
    kind, pre, reason = _kind(file), _pre(file), ""
    if kind not in ("gpt2", "llama"):
        reason = f"tokenizer.ggml.model {kind!r}"
    elif kind == "gpt2" and pre not in {*_PATTERNS, *_GPT_2, *_DIGITS_APART}:
        reason = f"tokenizer.ggml.pre {pre!r}"
    if reason:
        raise UnsupportedModel(
            f"expected a tokenizer that can be read from a GGUF file, found {reason} in {str(file.path)!r}"
        )


def end_ids(file: GgufFile) -> frozenset[int]:
    """Return the ids that end an answer."""
    tokens = file.array("tokenizer.ggml.tokens", str) or []
    types = file.array("tokenizer.ggml.token_type", int) or []
    found = {
        file.integer(key, most=max(0, len(tokens) - 1))
        for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        if key in file.metadata
    }
    return frozenset(found) | {
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=False))
        if kind == _CONTROL and token in ENDS
    }


def _kind(file: GgufFile) -> str | None:
    return file.text("tokenizer.ggml.model")


def _pre(file: GgufFile) -> str:
    return file.text("tokenizer.ggml.pre") or "default"


def _byte_level(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    """Return a byte-level BPE."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges, vocabulary, pre = [], {token: index for index, token in enumerate(tokens)}, _pre(file)
    for merge in file.array("tokenizer.ggml.merges", str) or []:
        left, space, right = merge.partition(" ")
        if not space or left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            file.refuse("merges of two tokens to a third", repr(merge[:60]))
        merges.append((left, right))
    found = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in _WHOLE_WORDS))
    parts: list[Any] = []
    if pre in _PATTERNS:
        parts.append(pre_tokenizers.Split(Regex(_PATTERNS[pre]), "isolated"))
    elif pre in _DIGITS_APART:
        parts.append(pre_tokenizers.Digits(individual_digits=True))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _PATTERNS))
    if _PATTERNS.get(pre) is _QWEN_2:
        found.normalizer = normalizers.NFC()
    found.pre_tokenizer = pre_tokenizers.Sequence(parts)
    found.decoder = decoders.ByteLevel()
    return found


def _sentence_piece(file: GgufFile, tokens: Sequence[str]) -> Tokenizer:
    """Return a SentencePiece BPE with byte fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.array("tokenizer.ggml.scores", float) or file.refuse("scores of tokens", "none")
    if len(scores) != len(tokens):
        file.refuse(f"{len(tokens):,} scores of tokens", f"{len(scores):,}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = tokens[file.integer("tokenizer.ggml.unknown_token_id", 0, most=len(tokens) - 1)]
    found = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaced = file.metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    steps: list[Any] = [normalizers.Prepend("▁")] if spaced else []
    found.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    back: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    found.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if spaced else back)
    return found


def _merges(vocabulary: dict[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges that scores imply: those that make the best piece first."""
    found: list[tuple[float, int, int, str, str]] = []
    for piece, index in vocabulary.items():
        for cut in range(1, min(len(piece), 256)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-scores[index], vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _special_names(file: GgufFile, tokens: Sequence[str]) -> dict[str, str]:
    """Return the special tokens by role."""
    keys = {role: f"tokenizer.ggml.{name}_token_id" for role, name in _ROLES.items()}
    return {
        role: tokens[file.integer(key, most=len(tokens) - 1)]
        for role, key in keys.items()
        if key in file.metadata
    }


def _add_tokens(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int], roles: Any) -> None:
    """Tell a tokenizer which tokens are found in a text as they are; control tokens are special."""
    from tokenizers import AddedToken

    special = {token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL} | set(roles)
    added = [
        AddedToken(token, special=token in special, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if token and (token in special or kind == _USER_DEFINED)
    ]
    backend.add_tokens(added)


def _add_edges(file: GgufFile, backend: Tokenizer, names: dict[str, str]) -> None:
    """Tell a tokenizer which tokens stand before and after every text."""
    from tokenizers import processors

    begins = _kind(file) == "llama" or _pre(file) in _WHOLE_WORDS
    edges = []
    for key, role, default in (("bos", "bos_token", begins), ("eos", "eos_token", False)):
        wanted = file.metadata.get(f"tokenizer.ggml.add_{key}_token", default) is True
        edges.append(names.get(role) if wanted else None)
    before, after = edges
    text = [*([before] if before else []), "$A", *([after] if after else [])]
    ids = [(name, int(backend.token_to_id(name) or 0)) for name in dict.fromkeys(filter(None, edges))]
    backend.post_processor = processors.TemplateProcessing(
        single=text, pair=[*text, "$B"], special_tokens=ids
    )


def _pretrained(path: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer as transformers makes it from the file."""
    from transformers import AutoTokenizer

    from llms.quiet import quiet

    with quiet():
        where = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        return AutoTokenizer.from_pretrained(str(path.parent), **where)
