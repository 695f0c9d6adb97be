"""The article's second demonstration, made honest: write a function, run it, and say what was seen.

    python examples/write_and_run.py
    python examples/write_and_run.py "a function f that doubles a number" "f(2) == 4"

The first word is the request, the others are examples that must be true. With none, the code is only known to
run.
"""

import sys

from chains import code_chain
from chains.code import CodeEvent
from llms import ChatLocal
from sandbox import Sandbox, printable

REQUEST = "write a python function to generate a list of random 1000 numbers between 1 and 10000"


def main() -> None:
    """Stream the steps, then print the code and what is known about it."""
    request, *examples = sys.argv[1:] or [REQUEST]
    chain = code_chain(ChatLocal(temperature=0, max_tokens=120), Sandbox().run, repairs=1)
    for event in chain.stream({"request": request, "examples": examples}):
        if isinstance(event, CodeEvent):
            print(f"{event.step}: {printable(event.text).splitlines()[0]}", file=sys.stderr)
            continue
        print(event.code)
        print(f"# {event.status}: {printable(event.explanation)}")


if __name__ == "__main__":
    main()
