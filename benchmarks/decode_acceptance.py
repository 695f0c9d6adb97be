"""Acceptance of prompt lookup on summaries and answers over the PEPs, for `decode.py --acceptance`.

It runs on a CPU. Acceptance depends on the text alone, so the embedded model writes the texts in batches
without drafts, and the engine's choices are replayed over them with a GPU's step times. A text that repeats
itself is cut where it starts to, because from there on every drafted token is accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCH, NEW, CIRCLE = 8, 160, 16
"""Number of texts decoded at once, tokens per text, and the length of a repetition at which one is cut."""

Runs = list[list[tuple[int, int]]]
"""For each text, for each step: (drafted tokens, tokens produced). -1 drafted means a step launched ahead."""


def measure_acceptance(
    data: Path | None, seconds: float = 240.0, temperature: float = 0.7
) -> dict[str, Runs]:
    """Decode summaries of PEP sections and answers to questions about them; return the replayed steps.

    Args:
        data: Folder with peps/ and peps_questions.jsonl.
        seconds: Time limit; each kind of text gets half of it.
        temperature: Sampling temperature. The chat model's default is 0.7.
    """
    if data is None or not (data / "peps").is_dir():
        raise SystemExit(f"expected --data to name a folder with peps/, found {data}")
    from llms.engine.engine import Engine
    from llms.models.load import LoadSettings, load, make_decoder

    loaded = load(LoadSettings(model="smollm2-135m", device="cpu"))
    engine = Engine(make_decoder(loaded, max_slots=BATCH + 2, window=2048))
    return {
        "summaries": _runs(loaded, engine, _summaries(data), seconds / 2, temperature),
        "answers": _runs(loaded, engine, _answers(data), seconds / 2, temperature),
    }


def _summaries(data: Path) -> list[str]:
    """Return prompts for summaries of the middle of each PEP, as summarize_chain words them."""
    from chains.prompts import fence, load_prompt

    whole = load_prompt("chains.summarize", "whole")
    texts = [path.read_text()[1500:5000] for path in sorted((data / "peps").glob("*.rst"))]
    return [
        whole.substitute(text=text.strip(), style="Write five sentences.", fence=fence(text))
        for text in texts
        if len(text) > 2000
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
    """Return the evidence and 1,200 characters on either side of it, or the evidence if no file has it."""
    for path in sorted((data / "peps").glob("*.rst")):
        if name and name not in path.name:
            continue
        text = " ".join(path.read_text().split())
        if (at := text.find(evidence)) >= 0:
            return text[max(0, at - 1200) : at + 1200]
    return evidence


def _runs(loaded: Any, engine: Any, prompts: list[str], seconds: float, temperature: float) -> Runs:
    from llms.decoders.sampling import Sampling
    from llms.engine.request import GenerationRequest
    from llms.engine.stream import gather

    runs: Runs = []
    began, stop = time.perf_counter(), loaded.tokenizer.eos_token_id
    for first in range(0, len(prompts), BATCH):
        if time.perf_counter() - began > seconds:
            break
        streams = []
        for number, prompt in enumerate(prompts[first : first + BATCH], first):
            text = loaded.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
            how = Sampling(temperature=temperature, seed=number)
            asked = GenerationRequest(
                prompt=tuple(ids), max_tokens=NEW, decode=loaded.tokenizer.decode, sampling=how,
                end_ids=frozenset([stop]),
            )  # fmt: skip
            streams.append(engine.submit(asked))
        gather(streams)
        runs += [replayed(h.request.prompt, h.generated[: circles(h.generated)]) for h in streams]
    return runs


def circles(tokens: Sequence[int]) -> int:
    """Return the end of the first CIRCLE tokens that occur twice, or the length of the text."""
    seen: set[tuple[int, ...]] = set()
    for end in range(CIRCLE, len(tokens) + 1):
        words = tuple(tokens[end - CIRCLE : end])
        if words in seen:
            return end
        seen.add(words)
    return len(tokens)


def replayed(prompt: Sequence[int], text: Sequence[int], most: int = 7) -> list[tuple[int, int]]:
    """Return the steps in which the engine would have decoded a text (see `Runs`)."""
    from llms.engine.speculation import DraftTracker, verify

    tracker, at, steps = DraftTracker(prompt, most), 1, [(-1, 1)]
    tracker.note(text[:1])
    while at < len(text):
        draft = tracker.text.propose(min(most, len(text) - at - 1)) if tracker.acceptance.pays() else []
        new = verify(text[at : at + len(draft) + 1], draft)
        steps.append((len(draft) if tracker.acceptance.pays() else -1, len(new)))
        tracker.note(new)
        at += len(new)
    return steps
