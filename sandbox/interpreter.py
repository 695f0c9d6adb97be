"""The files of this machine that a sandboxed Python needs to read, and no others.

The interpreter may be a system Python, a pyenv or uv build in a home folder, conda, or a virtual environment
of any of them. The home folder and the project's checkout (an editable install points there) must stay
hidden. Therefore:
    - Of the base installation, `bin` and `lib` are shown (conda and pyenv keep their shared libraries there).
    - A virtual environment is not shown. One with the same packages is built at /opt/venv from a pyvenv.cfg,
      a link and its site-packages, so that its real path is not known inside.
    - Of a user site (`pip install --user`), only the package folder is shown, not the folders above it.
    - The system's libraries are shown whole (/usr, /lib and so on); of /etc, only the files that the loader
      and tzdata read.
"""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sandbox.errors import SandboxLimitError

VENV = "/opt/venv"
PROJECT = "/opt/project"
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/nix/store")
_ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives")


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python interpreter as it appears inside the sandbox.

    Attributes:
        executable: its path inside.
        binds: (path on this machine, path inside) of the files to show, read-only.
        links: (target, path inside) of the symbolic links to make.
        texts: (content, path inside) of the small files to make.
        packages: folders inside that go on PYTHONPATH.
    """

    executable: str
    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    texts: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]


@functools.cache
def mounted() -> Interpreter:
    """Return the interpreter for tier 1, which can show files at another path."""
    real = os.path.realpath(sys.executable)
    binds, links = _system()
    binds += [(path, path) for path in _base_folders(real)]
    if sys.prefix == sys.base_prefix:
        users = _user_site()
        return Interpreter(
            executable=real,
            binds=_outermost(binds + [(path, path) for path in users]),
            links=tuple(links),
            texts=(),
            packages=tuple(users),
        )
    inside = f"{VENV}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    own, *others = _own_packages()
    shared = site.ENABLE_USER_SITE is not None and _includes_system_site()
    config = f"home = {os.path.dirname(real)}\ninclude-system-site-packages = {str(shared).lower()}\n"
    return Interpreter(
        executable=f"{VENV}/bin/python",
        binds=(*_outermost(binds + [(path, path) for path in others]), (own, inside)),
        links=(*links, (real, f"{VENV}/bin/python")),
        texts=((config, f"{VENV}/pyvenv.cfg"),),
        packages=tuple(others),
    )


@functools.cache
def in_place() -> Interpreter:
    """Return the interpreter for tier 2. Every file keeps its path; `binds` lists what may be read."""
    real = os.path.realpath(sys.executable)
    paths = [path for path in (*_SYSTEM, *_ETC) if os.path.exists(path)]
    paths += _base_folders(real)
    if sys.prefix != sys.base_prefix:
        paths += [os.path.join(sys.prefix, "pyvenv.cfg"), os.path.join(sys.prefix, "bin"), *_own_packages()]
    users = _user_site() if sys.prefix == sys.base_prefix else []
    pairs = tuple((path, path) for path in dict.fromkeys(paths + users) if os.path.exists(path))
    return Interpreter(
        executable=os.path.abspath(sys.executable), binds=pairs, links=(), texts=(), packages=tuple(users)
    )


def package_folder(name: str) -> str:
    """Return the folder of an importable top-level package, to be shown to a parser child.

    Raises:
        SandboxLimitError: there is no such package, or it is a single module.
    """
    found = find_spec(name)
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise SandboxLimitError(f"packages: expected the name of an importable package, found {name!r}.")
    return os.path.realpath(places[0])


def _system() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    binds, links = [], []
    for path in _SYSTEM:
        if os.path.islink(path):
            links.append((os.readlink(path), path))
        elif os.path.isdir(path):
            binds.append((path, path))
    binds += [(path, path) for path in _ETC if os.path.exists(path)]
    return binds, links


def _base_folders(real: str) -> list[str]:
    """Return the base installation's folders of the executable, the libraries and the standard library."""
    wanted = [
        os.path.dirname(real),
        os.path.join(sys.base_prefix, "lib"),
        sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
        sysconfig.get_config_var("LIBDIR") or "",
    ]
    if Path(real).is_relative_to("/usr"):
        wanted = wanted[2:]
    return [path for path in dict.fromkeys(wanted) if path and os.path.isdir(path) and path != "/"]


def _own_packages() -> list[str]:
    """Return the virtual environment's package folders, the main one (site-packages) first."""
    known = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    inside = [os.path.realpath(path) for path in known if path and os.path.isdir(path)]
    return list(
        dict.fromkeys(path for path in inside if Path(path).is_relative_to(os.path.realpath(sys.prefix)))
    )


def _includes_system_site() -> bool:
    config = Path(sys.prefix, "pyvenv.cfg")
    text = config.read_text(encoding="utf-8", errors="replace") if config.exists() else ""
    return "include-system-site-packages=true" in text.replace(" ", "").lower()


def _user_site() -> list[str]:
    folder = site.getusersitepackages()
    return [folder] if site.ENABLE_USER_SITE and os.path.isdir(folder) else []


def _outermost(binds: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the binds without those that lie inside another one, which shows them already."""
    targets = [Path(target) for _, target in binds]
    kept = {}
    for source, target in binds:
        above = Path(target).parents
        if not any(other in above for other in targets):
            kept[target] = source
    return tuple((source, target) for target, source in kept.items())
