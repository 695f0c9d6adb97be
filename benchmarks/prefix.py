"""Print the time to the first token of a long conversation's second turn, against an empty prefix cache.

    python benchmarks/prefix.py [--model NAME] [--tokens 2000] [--rounds 3]

The baseline is the same prompt on the same engine with an empty cache, in the same run. The target is a ratio
of at most 0.25. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from llms import ChatLocal
from llms.threads import configure_threads


def first_token_s(chat: ChatLocal, messages: list[BaseMessage]) -> float:
    """Return the seconds to the first chunk."""
    began = time.perf_counter()
    stream = chat.stream(messages, max_tokens=2)
    next(stream)
    took = time.perf_counter() - began
    for _ in stream:
        pass
    return took


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=2000, help="length of the conversation, at least")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    chat = ChatLocal(model=options.model, temperature=0)
    engine = chat.runtime().engine
    rows = []
    for turn in range(options.rounds):
        words = [f"word{(i * 7 + turn) % 97}" for i in range(options.tokens)]
        ids = chat.get_token_ids(" ".join(words))[: options.tokens - 20]
        opening: list[BaseMessage] = [HumanMessage(f"Read this. {chat.runtime().decode(ids)}")]
        engine.clear_cache()
        answer = chat.invoke(opening, max_tokens=4)
        second = [*opening, AIMessage(answer.text or "ok"), HumanMessage("What was the first word?")]
        warm = first_token_s(chat, second)
        engine.clear_cache()
        rows.append((warm, first_token_s(chat, second), chat.get_num_tokens_from_messages(second)))
    print("tokens  warm s  cold s  ratio")
    for warm, cold, tokens in rows:
        print(f"{tokens:6d}  {warm:6.3f}  {cold:6.3f}  {warm / cold:5.3f}")
    ratio = statistics.median(warm / cold for warm, cold, _ in rows)
    print(json.dumps({"benchmark": "prefix", "ratio": ratio, "target": 0.25, "tokens": rows[0][2]}))


if __name__ == "__main__":
    configure_threads()
    main()
