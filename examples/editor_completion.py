"""Complete Python the way an editor does.

What is before and behind the cursor goes in, what belongs between comes out. Every candidate makes the whole
file parse; they are ranked by the model's own log-probabilities.
"""

from __future__ import annotations

from chains import complete_chain
from llms import LocalLLM

BUFFER = '''def words(name):
    """Return the words of a name, in lower case."""
    return [word.lower() for word in name.split()]


def initials(name):
    """Return the first letters of the words of a name, in upper case."""
    return <CURSOR>


print(initials("Ada Lovelace"))
'''


def main() -> None:
    """Show the candidates at the cursor, best first."""
    prefix, suffix = BUFFER.split("<CURSOR>")
    llm = LocalLLM(model="smollm2-135m", temperature=0.0, max_tokens=24)
    chain = complete_chain(llm, kind="code", n=3, samples=6, max_tokens=24, single_line=True)
    for number, found in enumerate(chain.candidates({"prefix": prefix, "suffix": suffix}), start=1):
        print(f"{number}. {found.text:45} score {found.score:6.2f}  parses: {found.parses}")


if __name__ == "__main__":
    main()
