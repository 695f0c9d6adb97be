"""The tokenizers of Mistral-7B-Instruct v0.1 to v0.3, made of their list of pieces.

`data/mistral_pieces.txt.xz` has the pieces of `tokenizer.model.v1` of mistral-common 1.13.1 (Apache-2.0)
behind its 256 bytes, in order; those of `mistral_instruct_tokenizer_240323.model.v3` are the same. A piece's
score falls with its place, except that pieces of spaces alone have the lowest.
"""

from __future__ import annotations

import lzma
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from llms.tokenizer import ModelTokenizer

DATA = Path(__file__).parent / "data"
TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}"
CONTROLS = [
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    *(f"[control_{number}]" for number in range(12, 749)),
    *(f"[REFERENCE_DOC_{number}]" for number in range(19, -1, -1)),
]  # fmt: skip


@cache
def mistral_tokenizer(version: int, template: str = TEMPLATE) -> ModelTokenizer:
    """Return the tokenizer of version 1 or 3, in the form in which the Hub has it for that version."""
    controls = ["<unk>", "<s>", "</s>", *(CONTROLS if version == 3 else ())]
    pieces = lzma.decompress((DATA / "mistral_pieces.txt.xz").read_bytes()).decode().split("\n")
    names = [*controls, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {name: token for token, name in enumerate(names)}
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(pieces, vocabulary),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    if version == 1:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in controls])
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return ModelTokenizer(backend, roles, template, _no_transformers)


def _merges(pieces: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges of a SentencePiece vocabulary: every split of a piece, better pieces first."""
    found = []
    for place, piece in enumerate(pieces):
        score = -1e9 if set(piece) == {"▁"} else -place
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _no_transformers() -> None:
    raise AssertionError("nothing here needs transformers")
