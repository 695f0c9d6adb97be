"""Fix a failing function: the code, its doctest and the error go to the model, and the sandbox is the judge.

    python examples/fix_a_function.py [FILE]

The file holds one Python function with a doctest. Where the model does not find the mistake, this says so:
nothing is called fixed that was not run.
"""

import sys
from pathlib import Path

from chains import code_chain
from chains.code import CodeResult
from llms import ChatLocal
from sandbox import Sandbox, printable

BROKEN = '''def mean(numbers: list[float]) -> float:
    """The arithmetic mean.

    >>> mean([1, 2, 3, 6])
    3.0
    """
    return sum(numbers) / (len(numbers) - 1)
'''


def main() -> None:
    """Show the failure, let the model repair it, and report what the doctest says then."""
    code = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else BROKEN
    before = Sandbox().run(
        "import doctest, broken\nprint(doctest.testmod(broken).failed)", files={"broken.py": code}
    )
    print(f"before: {printable(before.stdout).strip().splitlines()[-1]} of its examples failed\n")
    chain = code_chain(ChatLocal(temperature=0, max_tokens=120), Sandbox().run, repairs=3)
    result: CodeResult = chain.invoke({"request": f"Correct the mistake in this function.\n\n{code}"})
    print(result.code)
    print(f"after {len(result.runs)} versions: {result.status}. {printable(result.explanation)}")


if __name__ == "__main__":
    main()
