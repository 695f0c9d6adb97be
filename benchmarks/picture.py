"""Draw docs/ask.svg, the terminal in the README, from a real run.

    python benchmarks/picture.py [--out FILE]

Each command runs in a terminal of its own over the example documents, and rich draws its output.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 96
COMMANDS = (
    'agent ask "What does double quantization save?"',
    'agent ask --docs-only "Who won the cup in 1998?"',
    'agent classify --labels complaint,order,spam "Where is my parcel? I ordered it two weeks ago."',
)


def run(command: str, environment: dict[str, str]) -> str:
    """Run a command in a terminal; return its output with escape codes, but without stderr."""
    words = [sys.executable, "-m", *shlex.split(command)]
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        words, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
    ):
        os.close(terminal)
        printed = bytearray()
        while True:
            try:
                block = os.read(keyboard, 65536)
            except OSError:  # Linux reports the end of a pseudo-terminal as an input/output error
                break
            if not block:
                break
            printed += block
    os.close(keyboard)
    return printed.decode("utf-8", "replace")


def shown(printed: str) -> str:
    """Return what remains on the screen after carriage returns and erased lines."""
    lines = []
    for line in printed.replace("\r\n", "\n").split("\n"):
        lines.append(line.rsplit("\r", 1)[-1].rsplit("\x1b[K", 1)[-1])
    return "\n".join(lines).strip("\n")


def main() -> None:
    """Run the commands and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "ask.svg")
    out = parser.parse_args().out
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"AGENT_HOME": home, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
        environment.setdefault("AGENT_CACHE_DIR", str(Path.home() / ".cache" / "mistral-agent"))
        run("agent ingest examples/docs", environment)
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(shown(run(command, environment))))
            console.print()
    # rich's template loads a font from a web server; the reader's own monospaced font is enough.
    out.write_text(
        re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="agent"), flags=re.DOTALL), "utf-8"
    )


if __name__ == "__main__":
    main()
