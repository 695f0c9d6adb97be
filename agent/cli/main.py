"""From the words of the command line to one verb's function, and from any error to its exit code.

Knows the options that every verb shares, signals, closed pipes and how an error is shown. Refuses to know
what a verb does. Imports nothing heavy: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from agent import errors as exit_codes
from agent.cli.verbs import EXAMPLES, PURPOSE, VERBS, module_of


class _Ended(BaseException):
    """A signal asked the program to end; not an Exception, so that no handler keeps it alive."""


class VerbParser(argparse.ArgumentParser):
    """A parser whose errors are one line with the next step, not the list of all options."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong with the words and end with the code for wrong use."""
        hint = f"`{self.prog} --help` lists the options"
        found = message.partition("unrecognized arguments: ")[2]
        if found:
            message = f"expected words and options of this verb, found {found!r}"
            name = found.split()[0].partition("=")[0]
            if close := difflib.get_close_matches(name, self._option_string_actions, n=1):
                hint = f"did you mean {close[0]}?"
        sys.stderr.write(f"{self.prog}: {message.removeprefix('argument ')}; {hint}\n")
        raise SystemExit(exit_codes.USAGE)


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); returns the exit code."""
    debug = "--debug" in argv
    _replace_closed_streams()
    caught = _catch_signals()
    try:
        verb, words = _split(list(argv))
        module = import_module(module_of(verb))
        parser = verb_parser(verb)
        code = int(module.run(_parse(parser, words)))
        if not sys.stdout.closed:  # an MCP session over standard output closes it
            sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: help, version, usage
        return stop.code if isinstance(stop.code, int) else exit_codes.USAGE
    except BrokenPipeError:
        _forget_stdout()
        return exit_codes.DONE
    except _Ended:
        return caught[-1]
    except KeyboardInterrupt:  # watchfiles makes one of whatever a signal handler raised
        sys.stderr.write("\n")
        return caught[-1] if caught else exit_codes.INTERRUPTED
    except Exception as error:  # the last line of defence: every error becomes an exit code and one message
        return _report(error, debug)


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb, with the options that all share."""
    parser = VerbParser(
        prog=f"agent {verb}", description=VERBS[verb], formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    import_module(module_of(verb)).configure(parser)
    common = parser.add_argument_group("common options")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(
        "--home", metavar="DIR", help="keep everything of ours under this folder (AGENT_HOME)"
    )
    common.add_argument("--quiet", action="store_true", help="no progress and no notices on stderr")
    return parser


def top_parser() -> argparse.ArgumentParser:
    """The parser of `agent` itself, for its help alone."""
    verbs = "\n".join(f"  {name:<11} {text}" for name, text in VERBS.items())
    return argparse.ArgumentParser(
        prog="agent",
        usage="agent VERB [words and options in any order]",
        description=f"{PURPOSE}\n\nverbs:\n{verbs}",
        epilog=f"{EXAMPLES}\n`agent VERB --help` lists its options.\n\nexit codes:\n{exit_codes.listing()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )


def _split(argv: list[str]) -> tuple[str, list[str]]:
    """The verb and everything else; options before the verb belong to it as those after it do."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    for position, word in enumerate(argv):
        if word in VERBS:
            return word, argv[:position] + argv[position + 1 :]
    if not argv or any(word in ("-h", "--help") for word in argv):
        sys.stdout.write(top_parser().format_help())
        raise SystemExit(exit_codes.DONE if argv else exit_codes.USAGE)
    if "--version" in argv:
        from importlib.metadata import version

        sys.stdout.write(version("mistral-agent-toolkit") + "\n")
        raise SystemExit(exit_codes.DONE)
    _usage(argv)


def _usage(argv: list[str]) -> NoReturn:
    found = next((word for word in argv if not word.startswith("-")), argv[0])
    close = difflib.get_close_matches(found, VERBS, n=1)
    hint = f"did you mean `agent {close[0]}`?" if close else f'to ask it: agent ask "{found}"'
    sys.stderr.write(f"agent: expected a verb ({', '.join(VERBS)}), found {found!r}; {hint}\n")
    raise SystemExit(exit_codes.USAGE)


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse with options before, between or after the words; everything after `--` is words."""
    if "--" not in words:
        return parser.parse_intermixed_args(words)
    cut = words.index("--")
    args = parser.parse_intermixed_args(words[:cut])
    name = next(
        (action.dest for action in parser._actions if action.nargs == "*" and not action.option_strings), None
    )
    if name is None:
        parser.error("expected no words after --")
    setattr(args, name, [*getattr(args, name), *words[cut + 1 :]])
    return args


def _report(error: Exception, debug: bool) -> int:
    from agent.cli.console import show_error

    if debug:
        import traceback

        traceback.print_exception(error)
    show_error(error, known=exit_codes.is_known(error))
    return exit_codes.exit_code(error)


def _catch_signals() -> list[int]:
    """SIGTERM and SIGHUP end the program through `finally` blocks; their exit codes are added to the list."""
    caught: list[int] = []

    def end(number: int, _: object) -> None:
        caught.append(128 + number)
        raise _Ended

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return caught


def _replace_closed_streams() -> None:
    """Started with `>&-`, Python has no stream there at all: what is written then goes nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _forget_stdout() -> None:
    """The reader has gone: let nothing more be written, so that the interpreter's last flush is quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
