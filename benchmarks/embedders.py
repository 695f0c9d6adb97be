"""Print time and quality of the packaged encoder in other precisions and runtimes, against torch float32.

    python benchmarks/embedders.py [--data PATH] [--texts 256] [--documents 1400]

For each runtime: processor time over the same texts in the same batches, the least and the mean cosine to the
vectors of float32 and, with --data, dense nDCG@10 over the first documents of Cranfield with all queries
(nothing is tuned here). ONNX is measured if `onnx` and `onnxruntime` are installed (float32, and int8 by
dynamic quantization of the weights), OpenVINO if `openvino` is. Nothing else needs them. Prints a table, then
one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from chains.retrieval import default_embeddings
from chains.retrieval.embedder import default_model_dir
from chains.retrieval.minilm import Precision

Vectors = NDArray[np.float32]
Backend = Callable[[list[str]], Vectors]
Forward = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
_BATCH = 32
ROUNDS = 3


def pooled(forward: Forward) -> Backend:
    """Return a backend made of a function from ids and mask, int64 [batch, length], to hidden states."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(default_model_dir() / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        found = np.zeros((len(texts), 384), np.float32)
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            rows = tokenizer.encode_batch([texts[i].replace("\n", " ").strip() for i in batch])
            ids, mask = np.array([row.ids for row in rows]), np.array([row.attention_mask for row in rows])
            weight = mask[..., None].astype(np.float32)
            mean = (forward(ids, mask) * weight).sum(1) / weight.sum(1)
            found[batch] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return found

    return embed


def exported(folder: Path) -> Path:
    """Return the path of an ONNX file of the encoder, made by torch's exporter."""
    from transformers import BertModel

    model = BertModel.from_pretrained(str(default_model_dir()), attn_implementation="eager").eval()
    path = folder / "encoder.onnx"

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> Any:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    axes = {name: {0: "batch", 1: "length"} for name in ("ids", "mask", "hidden")}
    example = (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long))
    names: dict[str, Any] = {"input_names": ["ids", "mask"], "output_names": ["hidden"]}
    torch.onnx.export(Hidden(), example, path, dynamic_axes=axes, dynamo=False, opset_version=17, **names)
    return path


def onnx_forward(path: Path) -> Forward:
    """Return the encoder on onnxruntime, with as many threads as torch has."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        hidden: NDArray[np.float32] = session.run(None, {"ids": ids, "mask": mask})[0]
        return hidden

    return forward


def openvino_forward(path: Path) -> Forward:
    """Return the encoder on OpenVINO, with the precision that it chooses for the processor."""
    openvino: Any = import_module("openvino")
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", threads)

    def forward(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        hidden: NDArray[np.float32] = compiled([ids, mask])[0]
        return hidden

    return forward


def shipped(embeddings: Embeddings, texts: list[str]) -> Vectors:
    """Return the vectors of the packaged encoder."""
    return np.array(embeddings.embed_documents(texts), np.float32)


def backends(folder: Path) -> Iterator[tuple[str, Backend]]:
    """Yield the backends that are installed, plain float32 first."""
    for precision in get_args(Precision):
        yield f"torch {precision}", partial(shipped, default_embeddings(precision))
    if not importlib.util.find_spec("onnx"):
        return
    tools: Any = import_module("onnxruntime.quantization")
    path = exported(folder)
    small = folder / "encoder.int8.onnx"
    tools.quantize_dynamic(path, small, weight_type=tools.QuantType.QInt8)
    yield "onnxruntime float32", pooled(onnx_forward(path))
    yield "onnxruntime int8", pooled(onnx_forward(small))
    if importlib.util.find_spec("openvino"):
        yield "openvino", pooled(openvino_forward(path))
        yield "openvino int8", pooled(openvino_forward(small))


def quality(embed: Backend, data: Path, count: int) -> float:
    """Return dense nDCG@10 on Cranfield's first `count` abstracts, with one vector per abstract."""
    lines = (data / "cranfield" / "docs.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    docs = [json.loads(line) for line in lines]
    queries = json.loads((data / "cranfield" / "queries.json").read_text(encoding="utf-8"))
    matrix = embed([f"{doc['title']}\n{doc['text']}" for doc in docs])
    names = [str(doc["id"]) for doc in docs]
    gains = []
    for query in queries:
        relevant = {str(one) for one in query["relevant"]} & set(names)
        if not relevant:
            continue
        ranked = np.argsort(-(matrix @ embed([query["text"]])[0]), kind="stable")[:10]
        gain = sum(1 / math.log2(place + 2) for place, i in enumerate(ranked) if names[i] in relevant)
        gains.append(gain / sum(1 / math.log2(place + 2) for place in range(min(10, len(relevant)))))
    return sum(gains) / len(gains)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with cranfield/")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--documents", type=int, default=1400)
    chosen = parser.parse_args()
    chance = random.Random(3)
    words = "water river harbour sun gate low winter heron lamp of the a is and speaks 1984 x-ray".split()
    texts = [" ".join(chance.choices(words, k=chance.randrange(10, 180))) for _ in range(chosen.texts)]
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        systems = dict(backends(Path(temporary)))
        vectors = {name: embed(texts) for name, embed in systems.items()}
        times: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(ROUNDS):  # alternating, so that other programs slow all of them alike
            for name, embed in systems.items():
                start = time.process_time()
                embed(texts)
                times[name].append(time.process_time() - start)
        base = vectors["torch float32"]
        for name, embed in systems.items():
            cosines = (vectors[name] * base).sum(axis=1)
            found[name] = {
                "faster": round(min(times["torch float32"]) / min(times[name]), 2),
                "least_cosine": round(float(cosines.min()), 5),
                "mean_cosine": round(float(cosines.mean()), 5),
            }
            if chosen.data:
                found[name]["cranfield_ndcg"] = round(quality(embed, chosen.data, chosen.documents), 4)
            print(f"{name:20} {found[name]}", flush=True)
    print(json.dumps({"benchmark": "embedders", **found}))


if __name__ == "__main__":
    main()
