"""The program `agent`: from the command line to one verb's function, and from any error to an exit code.

A verb's module is imported only when that verb is named, and nothing heavy is imported here, so that
`agent --help` answers at once.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import click

from agent import errors
from agent.cli.messages import usage_message

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS: dict[str, tuple[str, str]] = {
    "ask": ("ask", "ask one question; the documents answer where they can"),
    "chat": ("ask", "talk, with a thread that is kept"),
    "ingest": ("docs", "read files and folders into the document store"),
    "docs": ("docs", "list, show, verify, export and remove documents of the store"),
    "summarize": ("tasks", "summarize a text, a file or a folder"),
    "classify": ("tasks", "choose among labels for a text or a table"),
    "complete": ("tasks", "continue a text or code"),
    "code": ("tasks", "write code, run it in the sandbox, say what was seen"),
    "models": ("models", "list, show, pull and remove models"),
    "threads": ("history", "list, show, export and remove conversations"),
    "logs": ("history", "the log of questions and answers"),
    "notes": ("history", "what you asked to be remembered, in every later conversation"),
    "templates": ("history", "prompt templates for `ask -t`"),
    "config": ("admin", "show and set the settings"),
    "mcp": ("admin", "serve our tools to MCP clients"),
    "completion": ("admin", "print shell completion for bash, zsh or fish"),
    "doctor": ("admin", "check this machine and say what to do where something is missing"),
}
"""Each verb's module in `agent.cli`, which has a command of the verb's name, and what the verb does."""

COMPLETE_VARIABLE = "_AGENT_COMPLETE"
"""Set by the shell functions that `agent completion` prints, to ask for completions."""

_HELP = """\
usage: agent VERB [words and options in any order]

A private assistant on this machine: a local model, your documents, and tools.

verbs:
{verbs}

examples:
  agent ask "what is double quantization?" --docs handbook/
  cat log.txt | agent ask "what went wrong?"
  agent ingest ~/notes && agent docs list

`agent VERB --help` lists its options.

exit codes:
{codes}
"""


class _Ended(BaseException):
    """Raised by SIGTERM and SIGHUP; not an Exception, so that no handler keeps the program alive."""


class VerbGroup(click.Group):
    """`agent` itself, whose verbs are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's command; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module, summary = VERBS[cmd_name]
        command: click.Command = getattr(import_module(f"agent.cli.{module}"), cmd_name)
        command.help = summary
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the verb off the command line; raises click.UsageError if something else comes first."""
        first = args[0] if args else ""
        if first.startswith("-") and first not in self._own_options(ctx):
            raise click.UsageError(
                f"expected a verb first, found the option {first!r}; options go after the verb: "
                f"`agent VERB {first} …`, and `agent --help` lists the verbs",
                ctx,
            )
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb's command; raises click.UsageError with the nearest verb."""
        if args[0] in VERBS:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(args[0], VERBS, n=1)
        hint = f"did you mean `agent {close[0]}`?" if close else f'to ask it: agent ask "{args[0]}"'
        raise click.UsageError(f"expected a verb ({', '.join(VERBS)}), found {args[0]!r}; {hint}", ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, examples and exit codes."""
        formatter.write(help_text())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb without importing any of them."""
        from click.shell_completion import CompletionItem

        verbs = (name for name in VERBS if name.startswith(incomplete))
        return [CompletionItem(name, help=VERBS[name][1]) for name in verbs]

    def _own_options(self, ctx: click.Context) -> set[str]:
        return {name for param in self.get_params(ctx) for name in param.opts}


program = click.version_option(
    package_name="mistral-agent-toolkit", prog_name="agent", message="%(version)s"
)(VerbGroup("agent", context_settings={"help_option_names": ["-h", "--help"]}))


def help_text() -> str:
    """Return what `agent --help` prints."""
    verbs = "\n".join(f"  {name:<11} {summary}" for name, (_, summary) in VERBS.items())
    return _HELP.format(verbs=verbs, codes=errors.listing())


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv`, without the program's name, and return its exit code."""
    debug = "--debug" in argv
    _replace_closed_streams()
    caught = _catch_signals()
    try:
        code = _run(list(argv))
        if not sys.stdout.closed:  # An MCP session over standard output closes it.
            sys.stdout.flush()
        return code
    except click.exceptions.Exit as stop:  # after `--help` and `--version`
        return stop.exit_code
    except click.UsageError as error:
        sys.stderr.write(usage_message(error) + "\n")
        return errors.USAGE
    except BrokenPipeError:
        _forget_stdout()
        return errors.DONE
    except _Ended:
        return caught[-1]
    except KeyboardInterrupt:  # watchfiles also turns the exception of a signal handler into this one
        sys.stderr.write("\n")
        return caught[-1] if caught else errors.INTERRUPTED
    except Exception as error:  # the last line of defence: every error becomes one message and an exit code
        return _report(error, debug)


def _run(argv: list[str]) -> int:
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, "agent", COMPLETE_VARIABLE, instruction)
    if not argv:
        sys.stdout.write(help_text())
        return errors.USAGE
    if argv[0] == "help":
        argv = [*argv[1:2], "--help"]
    with program.make_context("agent", argv) as ctx:
        return int(program.invoke(ctx))


def _report(error: Exception, debug: bool) -> int:
    from agent.cli.console import show_error

    if debug:
        import traceback

        traceback.print_exception(error)
    show_error(error, known=errors.is_known(error))
    return errors.exit_code(error)


def _catch_signals() -> list[int]:
    """Let SIGTERM and SIGHUP end the program through `finally` blocks; their exit codes go into the list."""
    caught: list[int] = []

    def end(number: int, _: object) -> None:
        caught.append(128 + number)
        raise _Ended

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return caught


def _replace_closed_streams() -> None:
    """Discard what is written to a stream that is closed: started with `>&-`, Python has None there."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")


def _forget_stdout() -> None:
    """Discard what is still to be written to a closed pipe, so that the last flush raises nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
