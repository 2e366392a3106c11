"""Rows of results: what two implementations took in turn -> JSON, a table, a plot."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import LogLocator, NullLocator

from experiments.benchmark.worker import Machine
from flamingo.report.style import BLUE, GREY, VERMILION, new_figure, style
from flamingo.utils.io import atomic_file, write_text

Row = dict[str, Any]


def row(benchmark: str, case: str, peer: str, ours: Sequence[float], theirs: Sequence[float], unit: str) -> Row:
    """Medians of both, and the median and the range of the ratios of measurements that were taken in turn."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "benchmark": benchmark,
        "case": case,
        "peer": peer,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": unit,
        "ratio": statistics.median(ratios),
        "spread": [min(ratios), max(ratios)],
    }


def read(file: Path) -> list[Row]:
    """Of an earlier run, whose other benchmarks are kept."""
    return json.loads(file.read_text()) if file.exists() else []


def write(output: Path, rows: Sequence[Row], agreement: Any, machine: Machine) -> None:
    write_text(output / "results.json", json.dumps(list(rows), indent=1) + "\n")
    write_text(output / "results.md", _table(rows) + f"\n{agreement}\n\n{_machine(machine)}\n")
    _plot(rows, output / "results.png")


def _table(rows: Sequence[Row]) -> str:
    lines = ["| benchmark | case | peer | ours | theirs | ratio (least to most) |", "|---|---|---|---:|---:|---:|"]
    for r in rows:
        low, high = r["spread"]
        figures = (
            f"{r['ours']:.4g} {r['unit']} | {r['theirs']:.4g} {r['unit']} | {r['ratio']:.2f} ({low:.2f} to {high:.2f})"
        )
        lines.append(f"| {r['benchmark']} | {r['case']} | {r['peer']} | {figures} |")
    return "\n".join(lines) + "\n"


def _machine(machine: Machine) -> str:
    cpu = f"{machine.threads} threads on {os.cpu_count()} CPU cores, {platform.machine()}"
    device = cpu if machine.device == "cpu" else torch.cuda.get_device_name(machine.device)
    return f"{device}, {machine.precision}, torch {torch.__version__}, {date.today():%B %Y}"


def _plot(rows: Sequence[Row], file: Path) -> None:
    """The ratios, and beside them what a training step costs with more images and with longer texts."""
    with style():
        compared = [r for r in rows if not r["case"].startswith("by ")]
        figure = new_figure(13.0, max(4.0, 1.5 + 0.34 * len(compared)))
        ratios, images, tokens = figure.subplots(1, 3, width_ratios=[2, 1, 1])
        names = [f"{r['benchmark']}, {r['case']}, {r['peer']}" for r in compared]
        middle = [r["ratio"] for r in compared]
        errors = [[r["ratio"] - r["spread"][0] for r in compared], [r["spread"][1] - r["ratio"] for r in compared]]
        ratios.errorbar(middle, names, xerr=errors, fmt="o", color=BLUE)
        ratios.axvline(1, color=GREY)
        ratios.set(xscale="log", xlabel="theirs / ours")
        ratios.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ratios.xaxis.set_major_formatter("{x:g}")
        ratios.xaxis.set_minor_locator(NullLocator())
        ratios.invert_yaxis()
        for axes, kind in ((images, "images"), (tokens, "tokens")):
            own = [r for r in rows if r["benchmark"] == "train_step" and r["case"].startswith("by " + kind)]
            counts = [int(r["case"].split()[-1]) for r in own]
            for key, colour in (("ours", BLUE), ("theirs", VERMILION)):
                axes.plot(counts, [r[key] for r in own], marker="o", color=colour, label=key)
            axes.set(xlabel=f"{kind} a document", ylabel="s a training step", xlim=(0, None), ylim=(0, None))
            axes.set_visible(bool(own))
            if own:
                axes.legend()
        with atomic_file(file, "wb") as stream:
            figure.savefig(stream, format="png", dpi=120)
