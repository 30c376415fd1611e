"""`hermes doctor`: what there is to run on, what is wrong with it, and what to do."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click
from msgspec import to_builtins

from hermes.cli import checkup, nearby
from hermes.cli.checkup import Finding
from hermes.cli.loop import run
from hermes.cli.options import config_option, say, say_json
from hermes.lines import escaped


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@config_option
def command(as_json: bool, path: str | None) -> None:
    """Look for what keeps Hermes from serving well, and say what to do about it. Nothing is changed.

    Looks at the configuration, the configured backends and those at their usual ports on this machine, memory, limits,
    the clock, and what else tends to be in the way. Exits with 1 where there is a problem, 0 where there is none.

    \b
    hermes doctor
    hermes doctor --json | jq '.findings[] | select(.state != "ok")'
    """
    config, findings = checkup.configuration(path, os.environ)
    findings += [*checkup.surroundings(config, os.environ), *run(nearby.look(config))]
    if as_json:
        say_json({"healthy": not _count(findings)["problem"], "findings": to_builtins(findings)})
    else:
        say("\n".join(map(escaped, _lines(findings))))
    sys.exit(1 if _count(findings)["problem"] else 0)


_MARKS = {"ok": "  ok     ", "note": "  note   ", "warning": "! warning", "problem": "x PROBLEM"}


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        yield f"{_MARKS[finding.state]}  {finding.what:{width}}  {finding.told}"
        if finding.todo:
            yield f"{'':11}{'':{width}}  -> {finding.todo}"
    count = _count(findings)
    told = [
        f"{number} {state}{'' if number == 1 else 's'}" for state in ("problem", "warning") if (number := count[state])
    ]
    yield ", ".join(told) or "all is well"


def _count(findings: Sequence[Finding]) -> Counter[str]:
    return Counter(finding.state for finding in findings)
