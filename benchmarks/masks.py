"""Print microseconds per token that a grammar costs, against the model's decode step without one.

    python benchmarks/masks.py [--model NAME] [--rounds 20]

The step is measured in the same run. Prints the parts (mask, check, state, forced tokens) and their share of
a step, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from llms import ChatLocal
from llms.threads import configure_threads

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "tags"],
}
TEXT = '{"name": "A keeper of the light on a northern coast", "age": 61, "tags": ["sea", "storm", "map"]}'


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0)
    runtime = chat.runtime()
    decoder, grammars = runtime.engine.decoder, runtime.grammars
    ids = runtime.encode(TEXT, special=False)
    parts: dict[str, list[float]] = {"mask": [], "fit_budget": [], "accept": [], "forced": []}
    spared = 0
    for _ in range(options.rounds):
        constraint = grammars.schema(SCHEMA)
        for place, token in enumerate(ids):
            for name, call in (
                ("mask", lambda c=constraint, p=place: c.mask(600 - p)),
                ("fit_budget", lambda c=constraint, t=token, p=place: c.fit_budget(t, 600 - p)),
                ("accept", lambda c=constraint, t=token: c.accept(t)),
                ("forced", constraint.forced),
            ):
                began = time.perf_counter()
                found = call()
                parts[name].append(time.perf_counter() - began)
            spared += bool(found)
    decoder.prefill(0, ids)
    steps = []
    for token in ids:
        began = time.perf_counter()
        decoder.step([0], [[token]])
        steps.append(time.perf_counter() - began)
    decoder.free(0)
    step = statistics.median(steps)
    means = {name: statistics.mean(values) for name, values in parts.items()}
    for name, value in means.items():
        print(f"{name:7} {value * 1e6:8.1f} us a token")
    share = sum(means.values()) / step
    print(f"step    {step * 1e6:8.1f} us; the grammar adds {share:.1%}")
    print(f"after {spared / (options.rounds * len(ids)):.0%} of the tokens the grammar forces the next ones")
    micros = {f"{name}_us": value * 1e6 for name, value in means.items()}
    print(json.dumps({"benchmark": "masks", "share_of_step": share, **micros}))


if __name__ == "__main__":
    configure_threads()
    main()
