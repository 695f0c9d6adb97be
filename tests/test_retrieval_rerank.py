"""CrossEncoderReranker with a real (tiny, random) BERT classifier in a local folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import CrossEncoderReranker, DocumentStore, Reranker, errors
from chains.retrieval.embedder import default_model_dir

TEXTS = [
    "Roses like clay.",
    "Herons stand in the river.",
    "The ferry leaves at six.",
    "The lamp is lit at dusk.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    made = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=1,
        initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(made)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (default_model_dir() / name).exists():
            shutil.copy(default_model_dir() / name, made / name)
    return made


def test_scores_are_the_models_own(folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    reranker = CrossEncoderReranker(folder, batch_size=3)
    assert isinstance(reranker, Reranker) and reranker.scores("anything", []) == []
    scores = reranker.scores("Where do herons stand?", TEXTS)
    assert scores == pytest.approx(reranker.scores("Where do herons stand?", TEXTS)) and len(set(scores)) == 4
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    pairs = AutoTokenizer.from_pretrained(folder)(
        ["Where do herons stand?"] * len(TEXTS), TEXTS, return_tensors="pt", padding=True
    )
    with torch.inference_mode():
        logits = model(**pairs).logits[:, 0]
    # With one label, the score is the sigmoid of the logit, which has the same order.
    assert sorted(range(4), key=scores.__getitem__) == sorted(range(4), key=logits.tolist().__getitem__)


def test_a_search_is_ordered_by_it(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {f"{n}.txt": text for n, text in enumerate(TEXTS)})
    reranker = CrossEncoderReranker(folder)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        store.ingest(docs)
        question = "the river at dusk"
        found = store.retriever(k=4, reranker=reranker).invoke(question)
        scores = dict(zip(TEXTS, reranker.scores(question, TEXTS), strict=True))
        texts = [document.page_content for document in found]
        assert texts == sorted(texts, key=lambda text: -scores[text]) and len(texts) > 1
        plain = [document.page_content for document in store.retriever(k=4).invoke(question)]
        assert sorted(plain) == sorted(texts) and plain != texts


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.EmbedderUnavailable, match=r"config\.json"):
        CrossEncoderReranker(tmp_path)
