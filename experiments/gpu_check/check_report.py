"""Writes the results of all parts as report.json and report.md."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.gpu_check.running import Result
from flamingo.utils.io import write_text


def write_report(results: Sequence[Result], output: Path) -> None:
    """Writes ``report.json`` and ``report.md``. Each file is complete at any time."""
    rows = [asdict(result) for result in results]
    write_text(output / "report.json", json.dumps(rows, indent=1) + "\n")
    write_text(output / "report.md", _page(results))


def _page(results: Sequence[Result]) -> str:
    lines = ["# GPU check", "", "| part | | s |", "|---|---|--:|"]
    for result in results:
        reason = result.reason.splitlines()[0] if result.reason else ""
        status = f"{result.status}: {reason}" if reason else result.status
        lines.append(f"| {result.part} | {status} | {result.seconds:.0f} |")
    for result in results:
        if result.text or result.status in ("failed", "out of time"):
            lines += ["", f"## {result.part}", ""]
        if result.text:
            lines.append(result.text.rstrip())
        if result.status in ("failed", "out of time"):
            lines += ["", "```", result.reason, "```"]
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table in Markdown, whose columns after the first are aligned on the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    for row in rows:
        lines.append("| " + " | ".join(str(value) for value in row) + " |")
    return "\n".join(lines) + "\n"


def goal(name: str, value: float, least: float) -> str:
    """Returns a paragraph that says whether a measured value reaches its goal."""
    verdict = "met" if value >= least else "not met"
    return f"\n{name}: {value:.3g}; the goal is {least:g}: {verdict}.\n"


def has_failed(results: Sequence[Result]) -> bool:
    """Returns whether a part failed or reached its time limit."""
    return any(result.status in ("failed", "out of time") for result in results)
