"""`agent completion`: a script that completes verbs and options in bash, zsh or fish."""

from __future__ import annotations

import argparse

from agent.cli import console
from agent.cli.verbs import VERBS

_BASH = """\
_agent() {{
  local verb="" word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$word" in {verbs}) verb="$word"; break;; esac
  done
  local words="{names}"
  case "$verb" in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
  if [ -n "$verb" ] && [ "${{#COMPREPLY[@]}}" -eq 0 ]; then
    COMPREPLY=($(compgen -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
  fi
}}
complete -o filenames -F _agent agent
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "shell", choices=["bash", "fish", "zsh"], help="put its output where your shell reads it"
    )


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    console.configure(args)
    console.out(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of one shell."""
    options = {verb: _options(verb) for verb in VERBS}
    if shell == "fish":
        rows = [f'complete -c agent -n __fish_use_subcommand -a {v} -d "{text}"' for v, text in VERBS.items()]
        for verb, names in options.items():
            rows += [
                f"complete -c agent -n '__fish_seen_subcommand_from {verb}' {_fish(name)}" for name in names
            ]
        return "\n".join(rows) + "\n"
    cases = "\n".join(f'    {verb}) words="{" ".join(names)}";;' for verb, names in options.items())
    text = _BASH.format(verbs="|".join(VERBS), names=" ".join(VERBS), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _options(verb: str) -> list[str]:
    """Options of a verb, and the choices of its first word where it has any."""
    from agent.cli.main import verb_parser

    names: list[str] = []
    for action in verb_parser(verb)._actions:
        if action.option_strings:
            names += action.option_strings
        elif action.choices is not None:
            names += [str(choice) for choice in action.choices]
    return names


def _fish(name: str) -> str:
    if name.startswith("--"):
        return f"-l {name[2:]}"
    return f"-s {name[1:]}" if name.startswith("-") else f"-a {name}"
