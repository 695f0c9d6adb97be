"""Start the command line. `python -m agent VERB` and the console script `agent VERB` both call `main`.

`python -m` puts the current folder first on the import path, where a user's own `tools.py` would shadow
ours. That entry is removed here, before anything of ours is imported, unless the current folder is the root
of this project.
"""

from __future__ import annotations

import os
import sys
import threading


def _drop_current_folder() -> None:
    """Remove the current folder from `sys.path`, unless this package itself was found there."""
    here = os.path.realpath(os.getcwd())
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if here != root:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != here]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code (`agent --help` lists them)."""
    from agent.cli.main import main as run
    from agent.cli.startup import patient_collector
    from llms.threads import configure_threads

    configure_threads()
    with patient_collector():
        code = run(sys.argv[1:] if argv is None else argv)
    if any(thread.name.startswith("tool ") for thread in threading.enumerate()):
        # A tool that never returned is still running native code, which aborts a normal shutdown.
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    _drop_current_folder()
    sys.exit(main())
