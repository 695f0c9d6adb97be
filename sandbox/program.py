"""The program to start inside a sandbox, made of a caller's code, files and arguments.

Invalid names, types and sizes are refused here, before a process exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sandbox.errors import SandboxLimitError
from sandbox.limits import Limits
from sandbox.result import is_inside

MAIN = "main.py"
_NAME_BYTES = 255
"""The longest file name on Linux."""
_ARGUMENT_BYTES = 128 * 1024 - 1
"""The longest argument that execve accepts (MAX_ARG_STRLEN without the final NUL)."""
_ARGUMENTS_BYTES = 1024 * 1024
"""All arguments together. execve accepts a quarter of the stack limit, usually 2 MiB, pointers included."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program to start inside a sandbox.

    Attributes:
        arguments: the interpreter's arguments, without its executable.
        files: path below the work folder -> content.
        environment: variables added to the sandbox's own few.
        packages: top-level packages to show in addition to site-packages.
        collect: return the files that were written.
        lasting: the program serves many calls, so its CPU time is watched call by call and not limited as a
            whole.
    """

    arguments: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    packages: Sequence[str] = ()
    collect: bool = True
    lasting: bool = False


def build_program(
    code: str | bytes, files: Mapping[str, bytes | str], argv: Sequence[str], limits: Limits
) -> Program:
    """Return a program that runs `code` as `main.py` in a folder with `files`, with the arguments `argv`.

    Raises:
        SandboxLimitError: an argument has the wrong type, a file name is invalid or leaves the folder, or the
            limits are exceeded.
    """
    if not isinstance(files, Mapping):
        raise SandboxLimitError(
            f"files: expected a mapping of path to content, found {_shown(files)}; pass {{'data.csv': text}}."
        )
    inside = {_name(name): to_bytes(content, f"files[{name!r}]") for name, content in files.items()}
    if MAIN in inside:
        raise SandboxLimitError(
            f"files: expected other names than {MAIN!r}, which is the program itself; rename that file."
        )
    inside[MAIN] = to_bytes(code, "code")
    _refuse_nested(inside)
    size = sum(map(len, inside.values()))
    if size > limits.disk_bytes or len(inside) > limits.files:
        raise SandboxLimitError(
            f"files: expected at most {limits.files} files and {limits.disk_bytes} bytes, "
            f"found {len(inside)} of {size} bytes; raise Limits.disk_bytes or Limits.files."
        )
    return Program(arguments=[MAIN, *_arguments(argv)], files=inside)


def to_bytes(value: object, what: str) -> bytes:
    """Return text or bytes as bytes. Half a surrogate pair is kept, for the program to refuse.

    Raises:
        SandboxLimitError: it is neither. (`bytes(3)` would be three NULs.)
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise SandboxLimitError(f"{what}: expected text or bytes, found {_shown(value)}; pass a str.")


def _name(name: object) -> str:
    if not isinstance(name, str) or not is_inside(name):
        raise SandboxLimitError(
            f"files: expected a relative path below the work folder, found {_shown(name)}; drop '..' and '/'."
        )
    path = PurePosixPath(name)
    for part in path.parts:
        if len(_system_bytes(part, "files")) > _NAME_BYTES:
            raise SandboxLimitError(
                f"files: expected names of at most {_NAME_BYTES} bytes, found {_shown(part)}; shorten it."
            )
    return str(path)


def _system_bytes(text: str, what: str) -> bytes:
    """Return a name or an argument in the encoding of file names."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SandboxLimitError(
            f"{what}: expected whole characters, found half a surrogate pair in {_shown(text)}; remove it."
        ) from None


def _refuse_nested(files: Mapping[str, bytes]) -> None:
    for name in files:
        for above in PurePosixPath(name).parents:
            if str(above) in files:
                raise SandboxLimitError(
                    f"files: expected a file or a folder of one name, found both: {_shown(str(above))} and "
                    f"{_shown(name)}; rename one."
                )


def _arguments(argv: Sequence[str]) -> Sequence[str]:
    if isinstance(argv, str | bytes) or not isinstance(argv, Sequence):
        raise SandboxLimitError(
            f"argv: expected a list of texts, found {_shown(argv)}; pass ['--fast', '3']."
        )
    total = 0
    for one in argv:
        if not isinstance(one, str) or "\0" in one:
            raise SandboxLimitError(
                f"argv: expected text without NUL characters, found {_shown(one)}; pass a str."
            )
        size = len(_system_bytes(one, "argv"))
        total += size
        if size > _ARGUMENT_BYTES or total > _ARGUMENTS_BYTES:
            raise SandboxLimitError(
                f"argv: expected at most {_ARGUMENT_BYTES} bytes an argument and {_ARGUMENTS_BYTES} in all, "
                f"found {max(size, total)}; pass them by stdin or files."
            )
    return argv


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
