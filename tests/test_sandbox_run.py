"""A run returns its result, limit by limit; it leaves nothing behind and dies with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sandbox import (
    Limits,
    Sandbox,
    SandboxFailed,
    SandboxUnavailable,
    Tier,
    tier,
)

MIB = 1 << 20
BOX = Sandbox(Limits(wall_s=10))


@pytest.fixture(params=[1, 2])
def on_each_tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tier that works here, then the one that works on a machine without user namespaces."""
    if request.param == 2:
        monkeypatch.setattr(tier, "_variants", lambda: ())
    tier.current.cache_clear()
    assert Sandbox.tier().number == request.param
    yield request.param
    tier.current.cache_clear()


def test_a_program_gives_output_exit_code_and_files(on_each_tier: int) -> None:
    result = BOX.run(
        "import sys, helper\n"
        "print(sys.argv[1:], helper.NAME, open('data/in.bin', 'rb').read(), sys.stdin.read())\n"
        "open('out.txt', 'w').write('done')\n"
        "print('oops', file=sys.stderr)\n"
        "sys.exit(3)",
        files={"helper.py": "NAME = 'h'", "data/in.bin": b"\0\xff"},
        stdin="typed",
        argv=["a b", "c"],
    )
    assert (result.status, result.exit_code, result.killed_by, result.ok) == ("error", 3, None, False)
    assert result.stdout == "['a b', 'c'] h b'\\x00\\xff' typed\n"
    assert result.stderr == "oops\n"
    assert dict(result.files) == {"out.txt": b"done"}
    assert result.peak_bytes > MIB and 0 < result.duration_s < 10
    assert result.tier == on_each_tier


def test_packages_of_this_environment_can_be_imported(on_each_tier: int) -> None:
    result = BOX.run("import numpy, sys\nprint(numpy.ones(3).sum(), sys.version_info[:2])")
    assert result.stdout == f"3.0 {sys.version_info[:2]}\n", result


def test_a_command_named_python_is_the_interpreter_that_runs_the_program(on_each_tier: int) -> None:
    code = "import subprocess, sys\nprint(sys.prefix)\nsys.stdout.flush()\n"
    code += "subprocess.run(['python', '-c', 'import sys, numpy; print(sys.prefix)'])"
    first, second = BOX.run(code).stdout.splitlines()
    assert first == second


@pytest.mark.parametrize(
    ("code", "limits", "status", "killed_by"),
    [
        ("import time; time.sleep(60)", {"wall_s": 0.6}, "timeout", "wall"),
        ("while True: pass", {"cpu_s": 0.5}, "timeout", "cpu"),
        ("import os\nfor _ in range(2): os.fork()\nwhile True: pass", {"cpu_s": 0.6}, "timeout", "cpu"),
        ("held = bytearray(200 << 20)", {"memory_bytes": 64 * MIB}, "memory", None),
        ("print('x' * 5000)", {"output_bytes": 1000}, "output", "output"),
        (
            "for i in range(500): open(str(i), 'w')\nimport time; time.sleep(5)",
            {"files": 50},
            "files",
            "files",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", {}, "killed", "signal SIGTERM"),
        ("import os; os.abort()", {}, "killed", "signal SIGABRT"),
    ],
)
def test_each_limit_ends_a_run_and_is_named(
    code: str, limits: dict[str, Any], status: str, killed_by: str | None
) -> None:
    result = Sandbox(Limits(**{"wall_s": 10, **limits})).run(code)
    assert (result.status, result.killed_by) == (status, killed_by), result
    assert result.duration_s < 6


def test_a_program_cannot_pass_its_failure_off_as_the_sandboxes() -> None:
    code = "import os, sys\nos.write(2, b'sandbox stage: OSError: broken')\nos.kill(os.getppid(), 9)"
    result = BOX.run(code)
    assert (result.status, result.exit_code) == ("killed", None)


def test_a_sandbox_that_breaks_before_the_program_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tier.current()
    monkeypatch.setattr("sandbox.bubblewrap.WORK", "/usr/not-writable")
    with pytest.raises(SandboxFailed, match="before the program began"):
        BOX.run("")


def test_partial_output_of_an_ended_run_is_kept() -> None:
    result = Sandbox(Limits(wall_s=0.8)).run("print('first')\nimport time; time.sleep(60)")
    assert (result.status, result.stdout) == ("timeout", "first\n")


def test_a_file_that_cannot_be_handed_back_is_said() -> None:
    result = BOX.run("import os\nopen('a', 'w').write('x')\nopen('b', 'w').write('y')\nos.chmod('b', 0)")
    assert list(result.files) == ["a"] and result.truncated and result.ok


def test_files_that_were_given_and_not_changed_do_not_come_back() -> None:
    result = BOX.run("open('b', 'a').write('more')", files={"a": "same", "b": "one "})
    assert dict(result.files) == {"b": b"one more"}


async def test_async_runs_side_by_side_and_cancelling_ends_the_program() -> None:
    before = _children()  # such as the process of a store's index that another test has left open
    started = time.monotonic()
    results = await asyncio.gather(*(BOX.arun("import time; time.sleep(1); print(1)") for _ in range(3)))
    assert [one.stdout for one in results] == ["1\n"] * 3 and time.monotonic() - started < 2.9
    task = asyncio.create_task(BOX.arun("import time; time.sleep(60)"))
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _children() <= before


def test_where_no_tier_holds_code_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "_try", lambda confinement: "not permitted")
    tier.current.cache_clear()
    try:
        held = Sandbox.tier()
        assert (held.number, bool(held)) == (0, False) and "not permitted" in str(held)
        with pytest.raises(SandboxUnavailable, match="user namespaces"):
            BOX.run("open('/tmp/never', 'w')")
        assert not Path("/tmp/never").exists()
    finally:
        monkeypatch.undo()
        tier.current.cache_clear()


def test_the_tier_says_what_holds_and_what_it_does_not_cover(on_each_tier: int) -> None:
    held = Sandbox.tier()
    assert isinstance(held, Tier) and held and str(held).startswith(f"tier {on_each_tier}, ")
    assert any("kernel" in gap for gap in held.gaps)
    assert any("stat" in gap for gap in held.gaps) == (on_each_tier == 2)


def _children() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _left(folder: Path) -> tuple[int, int, int, list[str]]:
    mounts = len(Path("/proc/self/mountinfo").read_text().splitlines())
    return len(_children()), _open_descriptors(), mounts, sorted(os.listdir(folder))


_HARMFUL = "import os, time\nif os.fork() == 0: time.sleep(60)\n"
PROGRAMS = [
    "print(1)",
    "raise ValueError",
    "import os; os.kill(os.getppid(), 9)",
    _HARMFUL + "os._exit(0)",
    _HARMFUL + "time.sleep(60)",
    "while True: print('x' * 10000)",
]


def _runs(count: int) -> None:
    box = Sandbox(Limits(wall_s=0.5, output_bytes=100_000))
    for number in range(count):
        box.run(PROGRAMS[number % len(PROGRAMS)])


@pytest.mark.parametrize("count", [18, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_runs_leave_no_process_mount_folder_or_descriptor(
    on_each_tier: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    BOX.run("")
    before, memory = _left(tmp_path), psutil.Process().memory_info().rss
    _runs(count)
    assert _left(tmp_path) == before
    assert psutil.Process().memory_info().rss - memory < 50 * MIB


def test_a_flood_of_output_does_not_fill_the_parent() -> None:
    BOX.run("")
    memory = psutil.Process().memory_info().rss
    for _ in range(3):
        result = BOX.run("import os\nwhile True: os.write(1, b'x' * 65536)")
        assert result.truncated and len(result.stdout) <= BOX.limits.output_bytes
    assert psutil.Process().memory_info().rss - memory < 50 * MIB


@pytest.mark.parametrize("number", [1, 2])
def test_a_parent_killed_by_sigkill_takes_the_child_with_it(number: int, tmp_path: Path) -> None:
    token = f"token-{os.getpid()}-{time.monotonic_ns()}"
    code = textwrap.dedent(f"""
        from sandbox import Sandbox, Limits, tier
        if {number} == 2: tier._variants = lambda: ()
        assert Sandbox.tier().number == {number}
        print("up", flush=True)
        inner = "import os, sys, time\\nos.fork()\\nos.fork()\\n"
        inner += "os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{token}'])"
        Sandbox(Limits(wall_s=60)).run(inner)
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
    assert _until(lambda: len(_with(token)) >= 4), "the program did not start"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert _until(lambda: not _with(token)), f"left: {_with(token)}"
    assert _until(lambda: not list(tmp_path.glob("sandbox-*"))), "the work folder is left"


def _with(token: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if token.encode() in words:
            found.append(int(path.parent.name))
    return found


def _until(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    from sandbox import ParserPool

    with ParserPool("sandbox.worker:unpack") as pool:
        thread = threading.Thread(target=lambda: _swallow(pool))
        thread.start()
        thread.join()
        first = pool._child
        time.sleep(0.1)
        _swallow(pool)
        assert first is not None and pool._child is first and first.process.poll() is None


def _swallow(pool: Any) -> None:
    with pytest.raises(Exception, match="TypeError"):
        pool.call({})


def test_importing_the_sandbox_imports_neither_torch_nor_langchain() -> None:
    code = "import sys, sandbox, sandbox.sandbox, sandbox.pool\n"
    code += "sys.exit(any(name.startswith(('torch', 'langchain', 'numpy')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "call",
    [
        "fcntl.fcntl(a, fcntl.F_SETOWN, 1)",
        "fcntl.fcntl(a, fcntl.F_SETSIG, 9)",
        "fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)",
        "fcntl.ioctl(a, 0x5452, b'\\1\\0\\0\\0')",
    ],
)
def test_tier_two_lets_no_descriptor_signal_a_process(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """X7: with these the kernel sends a signal of the program's choice to any process of the same user."""
    monkeypatch.setattr(tier, "_variants", lambda: ())
    tier.current.cache_clear()
    try:
        assert Sandbox.tier().number == 2
        code = f"import fcntl, os, socket\na, b = socket.socketpair()\na = a.detach()\n{call}"
        refused = Sandbox().run(code)
        usual = Sandbox().run(
            "import fcntl, os\na, b = os.pipe()\nfcntl.fcntl(a, fcntl.F_SETFL, os.O_NONBLOCK)\n"
            "fcntl.fcntl(a, fcntl.F_SETFD, fcntl.FD_CLOEXEC)\nprint(os.get_blocking(a))"
        )
    finally:
        tier.current.cache_clear()
    assert refused.status == "error" and "Function not implemented" in refused.stderr
    assert usual.stdout == "False\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a PID namespace here")
def test_nothing_outlives_a_run_on_tier_two_in_a_container() -> None:
    """X6: the process that starts the sandbox is process 1 of a container, so its children have low ids."""
    program = (
        "import os, time\nif os.fork() == 0:\n    if os.fork() == 0:\n        time.sleep(60)\n    os._exit(0)"
    )
    code = textwrap.dedent(f"""
        import glob, time
        from sandbox import Sandbox, tier
        tier._variants = lambda: ()
        print(Sandbox.tier().number, Sandbox().run({program!r}).status)
        time.sleep(0.3)
        print(sorted(int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*")))
    """)
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["2 ok", "[1]"]


def test_the_program_has_a_user_name() -> None:
    assert Sandbox().run("import getpass; print(getpass.getuser())").stdout == "sandbox\n"
