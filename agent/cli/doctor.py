"""`agent doctor`: one line for each thing this program needs, and what to do where it is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from agent.cli import console
from agent.cli.options import add_store_options, settings_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_store_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check everything; the exit code is 0 where nothing is broken, else 1."""
    console.configure(args)
    console.note("agent: looking at this machine …")
    from agent.doctor import check_all

    findings = []
    for finding in check_all(settings_from(args)):
        findings.append(finding)
        if not args.json:
            fix = f"; {finding.fix}" if finding.fix else ""
            console.line(f"{finding.state:<7} {finding.name:<9} {finding.detail}{fix}")
    if args.json:
        console.line(json.dumps({"findings": [asdict(finding) for finding in findings]}, ensure_ascii=False))
    return int(any(finding.state == "broken" for finding in findings))
