"""Start the command line: `python -m agent VERB` and the console script `agent VERB` are this one function.

`python -m` puts the current folder first on the import path, where a user's own `tools.py` would shadow
ours. That entry is dropped here, before anything of ours is imported, unless the current folder is this
project's own root.
"""

from __future__ import annotations

import os
import sys
import threading


def _drop_current_folder() -> None:
    """Take the current folder off `sys.path` unless this very package was found in it."""
    here = os.path.realpath(os.getcwd())
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if here != root:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (see `agent.errors`)."""
    from agent.cli.collector import patient_collector
    from agent.cli.main import main as run
    from llms.threads import configure_threads

    configure_threads()
    with patient_collector():
        code = run(sys.argv[1:] if argv is None else argv)
    if any(thread.name.startswith("tool ") for thread in threading.enumerate()):
        # A tool that never came back is still running in native code, which aborts a normal shutdown.
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    _drop_current_folder()
    sys.exit(main())
