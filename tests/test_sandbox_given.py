"""Invalid arguments are refused before a process exists, and unusual callers are served."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox import Limits, Sandbox, SandboxLimitError

BOX = Sandbox(Limits(wall_s=10))


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "", "a\0b", "main.py", "./main.py"])
def test_file_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(SandboxLimitError, match="files: "):
        BOX.run("", files={name: "x"})


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"d": "x", "d/e": "y"}, "found both: 'd' and 'd/e'"),
        ({"a" * 256: "x"}, "at most 255 bytes"),
        ({"\u65e5" * 100: "x"}, "at most 255 bytes"),
        ({"half \ud800": "x"}, "half a surrogate pair"),
        ({Path("d"): "x"}, "a relative path"),
        ({"d": None}, r"files\['d'\]: expected text or bytes, found None"),
        ({"d": 3}, "expected text or bytes, found 3"),
        (["d"], "expected a mapping"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(files: Any, told: str) -> None:
    with pytest.raises(SandboxLimitError, match=told):
        BOX.run("", files=files)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"code": None}, "code: expected text or bytes, found None"),
        ({"code": 3}, "code: expected text or bytes, found 3"),
        ({"code": "", "stdin": None}, "stdin: expected text or bytes"),
        ({"code": "", "argv": "-v"}, "argv: expected a list of texts, found '-v'"),
        ({"code": "", "argv": [1]}, "found 1"),
        ({"code": "", "argv": ["a\0b"]}, "NUL"),
        ({"code": "", "argv": ["\ud800"]}, "half a surrogate pair"),
        ({"code": "", "argv": ["x" * 131_072]}, "pass them by stdin or files"),
        ({"code": "", "argv": ["x" * 100_000] * 11}, "pass them by stdin or files"),
    ],
)
async def test_what_is_no_text_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SandboxLimitError, match=told):
        BOX.run(**given)
    with pytest.raises(SandboxLimitError, match=told):
        await BOX.arun(**given)


def test_the_largest_argument_and_name_are_taken() -> None:
    code = "import os, sys\nprint(len(sys.argv[1]), sorted(map(len, os.listdir())))"
    result = BOX.run(code, argv=["x" * 131_071], files={"n" * 255: "x"})
    assert result.stdout == "131071 [7, 255]\n", result


def test_halves_of_surrogate_pairs_are_the_programs_error_not_the_callers() -> None:
    assert BOX.run("print('\ud83d')").status == "error"
    result = BOX.run("import sys; print(len(sys.stdin.buffer.read()))", stdin="\ud83d and \udcff")
    assert result.ok and int(result.stdout) > 6


def test_the_limits_are_limits() -> None:
    with pytest.raises(SandboxLimitError, match="expected Limits"):
        Sandbox({"wall_s": 5})  # type: ignore[arg-type]
    assert repr(Sandbox(Limits(wall_s=5))).startswith("Sandbox(Limits(wall_s=5, ")


@pytest.mark.parametrize(
    "limits",
    [{"wall_s": 0}, {"cpu_s": -1}, {"memory_bytes": 100}, {"processes": float("inf")}, {"output_bytes": "a"}],
)
def test_limits_that_cannot_be_meant_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(SandboxLimitError, match=next(iter(limits))):
        Limits(**limits)


def test_more_than_the_disk_limit_is_refused_before_the_start() -> None:
    with pytest.raises(SandboxLimitError, match="at most"):
        Sandbox(Limits(disk_bytes=70_000)).run("", files={"a": bytes(80_000)})


@pytest.mark.parametrize("tier", [1, 2])
@pytest.mark.parametrize(
    "caller",
    [
        "import os\nfor stream in (0, 1, 2): os.close(stream)",
        "import os\nos.close(0)",
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    ],
    ids=["no streams", "no stdin", "SIGCHLD ignored"],
)
def test_a_caller_that_runs_as_servers_do_is_served(caller: str, tier: int, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"""{caller}
from sandbox import Limits, Sandbox, tier
if {tier} == 2:
    tier._variants = lambda: ()
program = "import sys; print(sys.stdin.read()); open('a', 'w').write('b')"
done = Sandbox(Limits(wall_s=8)).run(program, stdin="in")
with open({str(told)!r}, "w") as file:
    file.write(repr((done.tier, done.status, done.stdout, done.files)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd(), timeout=30)
    assert told.read_text() == repr((tier, "ok", "in\n", {"a": b"b"}))
