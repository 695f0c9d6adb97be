"""How many guesses of prompt lookup hold on real text: the embedded model on summaries and answers over PEPs.

Runs on the CPU, where the engine is told a GPU's prices: acceptance depends on the model's text, not on who
computes it. Steps without guesses while guesses do not pay count as well: they are the text's too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

Runs = list[list[tuple[int, int]]]
"""Per answer, per step: (guessed tokens, tokens decided); -1 guessed: it would have been launched ahead."""


def measure_acceptance(data: Path | None, seconds: float = 240.0) -> dict[str, Runs]:
    """Decode summaries of PEP sections and answers to questions over them, with guesses.

    Args:
        data: Folder with peps/ and peps_questions.jsonl.
        seconds: Stop after this time, half of it per kind of text.
    """
    if data is None or not (data / "peps").is_dir():
        raise SystemExit(f"expected --data to name a folder with peps/, found {data}")
    from llms.load import LoadSpec, load, make_decoder

    loaded = load(LoadSpec(model="smollm2-135m", device="cpu"))
    decoder = make_decoder(loaded, max_slots=1, kind="auto")
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
    """Decode greedily through the engine, which decides when to guess; its prices are those of a GPU."""
    from llms.engine import Engine
    from llms.engine_request import Request

    runs: Runs = []
    began, stop = time.perf_counter(), loaded.tokenizer.eos_token_id
    for prompt in prompts:
        if time.perf_counter() - began > seconds:
            break
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        engine = Engine(decoder)
        engine.run.guesser = recorder = _recorder(decoder, engine.table)
        request = Request(
            prompt=tuple(ids), max_tokens=128, decode=loaded.tokenizer.decode, end_ids=frozenset([stop])
        )
        engine.submit(request).result()
        runs.append([(-1, 1), *recorder.steps])
        engine.table.clear()
    return runs


def _recorder(decoder: Any, table: Any) -> Any:
    from llms.engine_guess import Guesser

    class Recorder(Guesser):
        """Keeps what each step had guessed and decided; a CPU's own times do not count."""

        def __init__(self) -> None:
            super().__init__(decoder, table)
            self._most = 7
            self.steps: list[tuple[int, int]] = []
            self._guessed = 0

        def run(self, handle: Any, guesses: Any) -> list[int]:
            self._guessed = len(guesses)
            return super().run(handle, guesses)

        def saw(self, handle: Any, tokens: Any, kind: Any) -> None:
            if course := self._courses.get(handle):
                course.note(tokens)
                self.steps.append((-1 if kind == "ahead" else self._guessed, len(tokens)))
            self._guessed = 0

    return Recorder()
