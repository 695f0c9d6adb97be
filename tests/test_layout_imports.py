"""The rules of imports: direction, torch, the environment, effects of importing, and exported names."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("agent", "chains", "llms", "sandbox", "tools")
ALLOWED = {
    "llms": set(),
    "sandbox": set(),
    "chains.retrieval": {"chains.text", "sandbox"},
    "chains.text": set(),
    "chains": {"llms", "sandbox"},
    "tools": {"chains", "llms", "sandbox"},
    "agent": {"tools", "chains", "llms", "sandbox"},
}
# Names without torch that chains and tools may import from llms.
TORCH_FREE = {"llms.errors", "llms.protocols"}


def _modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def imports_of(path: Path, module: str, *, for_types: bool = False) -> Iterator[tuple[str, bool]]:
    """Return every module that a file imports, with relative names resolved, and whether at import time.

    `for_types` includes the imports under `if TYPE_CHECKING`.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    lazy = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    typing_only = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.unparse(outer.test)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only and not for_types:
            continue
        now = id(node) not in lazy
        if isinstance(node, ast.Import):
            yield from ((alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            yield base, now
            yield from ((f"{base}.{alias.name}", now) for alias in node.names)


def _room(module: str) -> str:
    wings = (name for name in ("chains.retrieval", "chains.text") if f"{module}.".startswith(f"{name}."))
    return next(wings, module.split(".")[0])


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    room = _room(module)
    for imported, _ in imports_of(MODULES[module], module):
        top = imported.split(".")[0]
        if top not in ROOMS or top == room:
            continue
        if room in ("chains.retrieval", "chains.text") and top == "chains":
            assert imported == "chains" or _room(imported) in {room, *ALLOWED[room]}, (
                f"{module} imports {imported}: {room} may import {ALLOWED[room]}"
            )
            continue
        assert top in ALLOWED[room], f"{module} imports {imported}: {room} may import {ALLOWED[room]}"
        if top == "llms" and room in ("chains", "tools"):
            assert any(imported.startswith(name) for name in TORCH_FREE), f"{module} imports {imported}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("llms")])
def test_only_load_imports_the_fast_decoder_and_lazily(module: str) -> None:
    if module.startswith("llms.decoders.cuda"):
        return
    for imported, now in imports_of(MODULES[module], module):
        if imported.startswith("llms.decoders.cuda"):
            # The package itself tells what the decoder serves and needs, without importing torch.
            face = imported == "llms.decoders.cuda"
            assert module == "llms.models.load" and (face or not now), f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_the_environment_is_read_in_the_settings_only(module: str) -> None:
    if module in {"agent.settings", "llms.local"}:
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith("AGENT_") or " " in node.value, (
                f"{module}:{node.lineno} names {node.value}"
            )


@pytest.mark.parametrize("module", MODULES)
def test_every_file_states_its_contract(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))), (
        f"{module} has no docstring"
    )


@pytest.mark.parametrize("package", [*ROOMS, "chains.retrieval"])
def test_exports_are_sorted_and_real(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert set(module.__all__) == set(dir(module))


@pytest.mark.parametrize(
    "statement", [f"import {room}" for room in (*ROOMS, "chains.retrieval", "llms.errors")]
)
def test_importing_a_room_loads_no_torch(statement: str) -> None:
    code = f"{statement}\nimport sys; print(*{{'torch', 'transformers'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_help_loads_neither_torch_nor_langchain() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['agent', '--help']\n"
        "try:\n    runpy.run_module('agent', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'langchain', 'langchain_core', 'chromadb'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "ask" in done.stdout


WATCHED = """
import importlib, logging, os, signal, sys, warnings
from contextlib import suppress

def state():
    root = logging.getLogger()
    loggers = {{name: logging.getLogger(name) for name in list(root.manager.loggerDict)}} | {{"": root}}
    return {{
        "environment": dict(os.environ),
        "loggers": {{n: (one.level, len(one.filters), len(one.handlers)) for n, one in loggers.items()}},
        "signals": {{number: signal.getsignal(number) for number in signal.valid_signals()}},
        "warnings": list(warnings.filters),
    }}

for name in {libraries!r}:
    with suppress(ImportError):  # a name in a module
        importlib.import_module(name)
before = state()
for name in {modules!r}:
    importlib.import_module(name)
after = state()
for part, found in before.items():
    new = after[part]
    if isinstance(found, dict):
        # A library may make a logger of its own; ours and those that existed stay as they were.
        ours = {{name for name in new if str(name).split(".")[0] in {rooms!r}}}
        new = {{key: new.get(key) for key in (*found, *ours)}}
        found = {{key: found.get(key, (0, 0, 0)) for key in new}}
    if found != new:
        print(part, [key for key in new if found.get(key) != new[key]] if isinstance(new, dict) else new)
"""


@pytest.mark.parametrize("room", [*ROOMS, "chains.retrieval", "llms.models"])
def test_importing_a_room_changes_nothing_in_the_process(room: str) -> None:
    """It sets no environment variable, log level, filter or handler, signal handler or warnings filter."""
    done = _watched([room])
    assert done == "", f"importing {room} changes {done}"


def test_importing_any_module_changes_nothing_in_the_process() -> None:
    """The same for every module, except `__main__`, which would run the program."""
    done = _watched([name for name in MODULES if not name.endswith("__main__")])
    assert done == "", f"importing the modules changes {done}"


def _watched(modules: list[str]) -> str:
    # What other libraries do when they are imported is not ours: they are imported first.
    libraries = sorted({imported for name in modules for imported in _libraries(name)})
    code = WATCHED.format(libraries=libraries, modules=modules, rooms=ROOMS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _libraries(module: str, seen: set[str] | None = None) -> Iterator[str]:
    """The modules of other libraries that a module of ours imports, directly or through others of ours."""
    seen = set() if seen is None else seen
    if module in seen or module not in MODULES:
        return
    seen.add(module)
    for imported, now in imports_of(MODULES[module], module):
        if now and imported.split(".")[0] in ROOMS:
            yield from _libraries(imported, seen)
        elif now:
            yield imported


COMMANDS = re.compile(r"\bagent (ask|models|doctor|config|docs|ingest)\b|(?<![\w-])--[a-z][a-z-]*")
RUN_OTHERS = {
    "llms.decoders.cpu.native",
    "llms.models.diagnosis",
    "llms.models.fetch",
    "llms.models.gpu",
    "llms.models.packages",
}
"""Files of llms that run or name pip, nvidia-smi or a compiler, with their options."""


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("llms")])
def test_messages_of_llms_name_arguments_and_no_options_of_a_command_line(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            found = COMMANDS.search(node.value)
            ours = found and not (module in RUN_OTHERS and found[0].startswith("--"))
            assert not ours, f"{module}:{node.lineno} names {found and found[0]}"


def test_an_app_s_own_tools_folder_is_named_in_one_line(tmp_path: Path) -> None:
    """C3: a package that hides one of ours is named when agent is imported."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; from agent import build_agent"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "ImportError: expected this toolkit's package 'tools'" in last
    assert str(tmp_path / "tools") in last and "rename that folder" in last
