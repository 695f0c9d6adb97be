"""How many guesses of prompt lookup hold on real text: the embedded model on summaries and answers over PEPs.

Runs on the CPU with the reference decoder: acceptance depends on the model's text, not on who computes it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

Runs = list[list[tuple[int, int]]]
"""Per answer, per step: (guessed tokens, tokens decided)."""


def measure_acceptance(data: Path | None, seconds: float = 240.0) -> dict[str, Runs]:
    """Decode summaries of PEP sections and answers to questions over them, with guesses.

    Args:
        data: Folder with peps/ and peps_questions.jsonl.
        seconds: Stop after this time, half of it per kind of text.
    """
    if data is None or not (data / "peps").is_dir():
        raise SystemExit(f"expected --data to name a folder with peps/, found {data}")
    from llms.load import LoadSpec, load
    from llms.reference import ReferenceDecoder

    loaded = load(LoadSpec(model="smollm2-135m", device="cpu"))
    decoder = ReferenceDecoder(loaded.model, window=2048, max_slots=1)
    return {
        "summaries": _runs(loaded, decoder, _summaries(data), seconds / 2),
        "answers": _runs(loaded, decoder, _answers(data), seconds / 2),
    }


def _summaries(data: Path) -> list[str]:
    texts = [path.read_text()[1500:5000] for path in sorted((data / "peps").glob("*.rst"))]
    return [
        f"Summarize the following text in a few sentences, quoting its key phrases.\n\n{t}" for t in texts
    ]


def _answers(data: Path) -> list[str]:
    prompts = []
    for line in (data / "peps_questions.jsonl").read_text().splitlines():
        item = json.loads(line)
        if evidence := item.get("evidence"):
            evidence = evidence if isinstance(evidence, str) else " ".join(evidence)
            name = item.get("source") or item.get("pep") or ""
            text = _around(data, str(name), evidence)
            prompts.append(
                f"Answer from the passage only, quoting it.\n\n{text}\n\nQuestion: {item['question']}"
            )
    return prompts


def _around(data: Path, name: str, evidence: str) -> str:
    """Return the evidence with what stands around it, where its file is found."""
    for path in sorted((data / "peps").glob("*.rst")):
        if name and name not in path.name:
            continue
        text = " ".join(path.read_text().split())
        if (at := text.find(evidence)) >= 0:
            return text[max(0, at - 1200) : at + 1200]
    return evidence


def _runs(loaded: Any, decoder: Any, prompts: list[str], seconds: float) -> Runs:
    from llms.sampling import Sampling
    from llms.speculation import Pace, Speculation, lookup

    runs: Runs = []
    began, stop = time.perf_counter(), loaded.tokenizer.eos_token_id
    for prompt in prompts:
        if time.perf_counter() - began > seconds:
            break
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        decoder.free(0)
        decoder.prefill(0, ids[:-1])
        request = Speculation(decoder, 0, ids, Sampling(), Pace())
        run: list[tuple[int, int]] = []
        while len(request.tokens) < len(ids) + 128 and stop not in request.tokens[len(ids) :]:
            pace = Pace(request.pace.most, request.pace.cost, request.pace.kept, request.pace._idle)
            guessed = len(lookup(request.tokens, pace.wanted()))
            run.append((guessed, len(request.advance())))
        runs.append(run)
    return runs
