"""The distribution as a user gets it: wheel and sdist are built, the wheel is installed, `agent ask` runs.

The wheel goes into a new environment that holds nothing of this checkout; the dependencies, which the lock
pins and which take minutes to install, are lent to it from the environment that runs the tests.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from cpu_sets import needs_compiler

from llms.decoders.cpu.native import SETS, supported_sets

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "chains", "llms", "sandbox", "tools")


def _run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=ROOT)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def _shipped() -> set[str]:
    """Every file of the five packages that git knows: code, prompts, kernels, data."""
    return set(_run("git", "ls-files", *PACKAGES, cwd=ROOT).split("\n")) - {""}


def test_wheel_and_sdist_hold_every_file(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert _shipped() <= names, f"missing in the wheel: {sorted(_shipped() - names)}"
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert _shipped() | {"pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= inside


@needs_compiler
def test_the_wheel_has_native_code_for_any_python(built: tuple[Path, Path]) -> None:
    """It is built from the sdist; the sdist itself has no compiled code."""
    wheel, sdist = built
    assert "-py3-none-linux_x86_64" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        objects = {Path(name).name for name in archive.namelist() if name.endswith(".so")}
    assert objects == {one.object for one in SETS if one.machine == platform.machine()}
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".so")]


def _installed(wheel: Path, home: Path) -> Path:
    """Install a wheel into a new environment that borrows the dependencies; return its site-packages."""
    _run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel),
        cwd=home.parent,
    )
    where = _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home.parent)
    site = Path(where.strip())
    # A .pth line adds the folder but not what that folder's own .pth files add: this checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return site


def _without_compiler(folder: Path) -> dict[str, str]:
    """Return an environment whose PATH holds no compiler."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CPP")}
    return environment | {"PATH": str(folder)}


def test_an_installed_wheel_answers_from_another_folder(
    built: tuple[Path, Path], tmp_path: Path, embedded_cache: Path
) -> None:
    home = tmp_path / "env"
    python, site = home / "bin" / "python", _installed(built[0], home)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "office.md").write_text(
        "# Office\n\nThe coffee machine stands on the third floor, beside the lift.\n"
    )
    environment = os.environ | {"AGENT_HOME": str(tmp_path / "home"), "AGENT_CACHE_DIR": str(embedded_cache)}
    where = _run(python, "-c", "import agent; print(agent.__file__)", cwd=tmp_path, env=environment).strip()
    assert Path(where).is_relative_to(site)
    question = "On which floor does the coffee machine stand?"
    answer = _run(home / "bin" / "agent", "ask", question, "--docs", "notes", cwd=tmp_path, env=environment)
    assert "third floor" in answer
    assert "office.md" in answer


ANSWER = """
import sys
from llms import ChatLocal
from llms.models.load import LoadSettings, load, make_decoder
said = []
loaded = load(LoadSettings(model="smollm2-135m", device="cpu", cache_dir=sys.argv[1], notify=said.append))
print(make_decoder(loaded, max_slots=1).describe())
print(said)
chat = ChatLocal(model="smollm2-135m", device="cpu", temperature=0, max_tokens=8, cache_dir=sys.argv[1])
print(chat.invoke("What is the capital of France?").text)
"""


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(not supported_sets(), reason="a CPU that the kernels do not support")
def test_a_wheel_answers_through_its_native_code_where_there_is_no_compiler(
    built: tuple[Path, Path], tmp_path: Path, embedded_cache: Path
) -> None:
    home = tmp_path / "env"
    _installed(built[0], home)
    environment = _without_compiler(tmp_path / "path")
    said = _run(home / "bin" / "python", "-c", ANSWER, embedded_cache, cwd=tmp_path, env=environment)
    decoder, notices, answer = said.split("\n", 2)
    assert decoder == f"lean (native code for {supported_sets()[0].name}, 4-bit weights) on cpu"
    assert notices == "[]" and "Paris" in answer


@pytest.mark.slow
def test_an_installation_without_a_compiler_succeeds_and_the_reference_decoder_answers(
    tmp_path: Path, embedded_cache: Path
) -> None:
    """The wheel is built from a copy, as a folder that was built before holds compiled code."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in _run(
        "git", "ls-files", *PACKAGES, "setup.py", "pyproject.toml", "MANIFEST.in", cwd=ROOT
    ).split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    environment = _without_compiler(tmp_path / "path")
    command = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    _run(*command, "-w", tmp_path, copy, cwd=tmp_path, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    _installed(wheel, tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    said = _run(python, "-c", ANSWER, embedded_cache, cwd=tmp_path, env=environment)
    decoder, notices, answer = said.split("\n", 2)
    assert decoder.startswith("reference (") and "Paris" in answer
    if supported_sets():
        assert "the package was installed without its native code" in decoder
        assert notices.count("install a C++ compiler (g++ or clang++), then install the package again") == 1
