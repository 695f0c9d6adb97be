"""Tokenizers from GGUF metadata: the ids of the makers' tokenizers, special tokens, and contradictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from tiny_models import tiny_gguf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from llms.errors import DamagedCheckpoint, UnsupportedModel
from llms.models.gguf_file import GgufFile
from llms.models.gguf_tokenizer import end_ids, read_gguf_tokenizer

CORPUS = [
    "the cat sat on the mat, and the hat",
    "12345 67 8",
    "don't we'll I'M",
    "naïve café Straße",
    "a\n\n b",
]
TEXTS = (
    *CORPUS,
    "  two spaces,\ttabs\n\n\nand  lines ",
    "日本語 and 😀 emoji",
    "e\u0301 decomposed",
    "<|start|>user\nHi<|end|> <tool>x</tool>",
    "",
    " ",
    "1234567 is 7 digits",
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
LLAMA_3 = QWEN_2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CONTROL = ["<|end|>", "<|start|>"]


def trained(pattern: str, nfc: bool) -> Tokenizer:
    """Train a byte-level BPE with a maker's pattern."""
    found = Tokenizer(models.BPE())
    if nfc:
        found.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            special_tokens=CONTROL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    found.add_tokens(["<tool>"])
    return found


def write_tokenizer(path: Path, reference: Tokenizer, pre: str, **metadata: Any) -> GgufFile:
    """Write a tokenizer's vocabulary and merges as llama.cpp's converter does."""
    import json

    model = json.loads(reference.to_str())["model"]
    vocabulary = reference.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer = GGUFWriter(path, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in CONTROL else 4 if t == "<tool>" else 1 for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(vocabulary["<|end|>"])
    writer.add_bos_token_id(vocabulary["<|start|>"])
    for key, value in metadata.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile.open(path)


@pytest.mark.parametrize(("pre", "pattern", "nfc"), [("qwen2", QWEN_2, True), ("llama-bpe", LLAMA_3, False)])
def test_ids_are_those_of_the_maker_s_tokenizer(pre: str, pattern: str, nfc: bool, tmp_path: Path) -> None:
    reference = trained(pattern, nfc)
    reference.model.ignore_merges = pre == "llama-bpe"
    found = read_gguf_tokenizer(write_tokenizer(tmp_path / "t.gguf", reference, pre, add_bos_token=False))
    for text in TEXTS:
        ids = reference.encode(text).ids
        assert found(text)["input_ids"] == ids, text
        assert found.decode(ids) == reference.decode(ids, skip_special_tokens=False)
    assert found.special_tokens_map == {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    assert found.decode(found("a<|end|>")["input_ids"], skip_special_tokens=True) == "a"
    assert found.decode(found("<tool>")["input_ids"], skip_special_tokens=True) == "<tool>"


def test_a_begin_token_is_added_where_the_file_or_its_kind_says_so(tmp_path: Path) -> None:
    reference = trained(LLAMA_3, False)
    begin = reference.token_to_id("<|start|>")
    by_kind = read_gguf_tokenizer(write_tokenizer(tmp_path / "a.gguf", reference, "llama-bpe"))
    assert by_kind("cat")["input_ids"][0] == begin
    assert begin not in by_kind("cat", add_special_tokens=False)["input_ids"]
    by_file = read_gguf_tokenizer(
        write_tokenizer(tmp_path / "b.gguf", reference, "qwen2", add_bos_token=True, add_eos_token=True)
    )
    ids = by_file("cat")["input_ids"]
    assert ids[0] == begin and ids[-1] == reference.token_to_id("<|end|>")


PIECES = ["▁the", "▁c", "at", "▁cat", "▁", "t", "h", "e", "c", "a", "s", "he", "▁t", "th", "▁th", "x", "▁a"]


def sentence_piece(path: Path, **metadata: bool) -> Path:
    """Write a SentencePiece vocabulary with scores."""
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(PIECES))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(PIECES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for key, value in metadata.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_sentence_piece_merges_follow_from_scores_and_unknown_text_becomes_bytes(tmp_path: Path) -> None:
    found = read_gguf_tokenizer(GgufFile.open(sentence_piece(tmp_path / "s.gguf")))
    tokens = [found.convert_ids_to_tokens(i) for i in found("the cat é")["input_ids"]]
    assert tokens == ["<s>", "▁the", "▁cat", "▁", "<0xC3>", "<0xA9>"]
    for text in ("the cat", "a  x", "é ü 日本", " lead", "cat\n\nthe"):
        ids = found(text)["input_ids"]
        assert found.decode(ids, skip_special_tokens=True) == text
    bare = read_gguf_tokenizer(
        GgufFile.open(sentence_piece(tmp_path / "n.gguf", add_space_prefix=False, add_bos_token=False))
    )
    assert [bare.convert_ids_to_tokens(i) for i in bare("cat")["input_ids"]] == ["c", "at"]


def test_digits_and_templates_are_those_of_transformers(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    found = read_gguf_tokenizer(GgufFile.open(path))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="model.gguf")
    turns = [{"role": "user", "content": "Hi"}]
    ours = found.apply_chat_template(turns, add_generation_prompt=True)
    assert ours == theirs.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for text in ("hello a world", "<|im_start|>user\nHi<|im_end|>"):
        assert found(text)["input_ids"] == theirs(text)["input_ids"]
    assert end_ids(GgufFile.open(path)) == {0, 2}


def test_tokenizers_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    reference = trained(QWEN_2, True)
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.ggml\.pre 'of-tomorrow'"):
        read_gguf_tokenizer(write_tokenizer(tmp_path / "a.gguf", reference, "of-tomorrow"))
    data = sentence_piece(tmp_path / "s.gguf").read_bytes()
    (tmp_path / "t.gguf").write_bytes(data.replace(b"tokenizer.ggml.scores", b"tokenizer.ggml.sc_res"))
    with pytest.raises(DamagedCheckpoint, match="scores of tokens"):
        read_gguf_tokenizer(GgufFile.open(tmp_path / "t.gguf"))


def test_merges_of_unknown_tokens_are_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace("Ġ a".encode(), "Ġ b".encode()))
    with pytest.raises(DamagedCheckpoint, match="merges of two tokens"):
        read_gguf_tokenizer(GgufFile.open(path))
