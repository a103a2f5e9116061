"""The table that is read, and the JSON that is kept."""

import dataclasses
import json
import os
import time
from pathlib import Path

from .cells import Cell
from .verdict import Verdict

COLUMNS = ["cell", "made", "recorded", *Verdict.WRONGS, "touched", "unrecorded", "events lost", "median ms", "worst ms", ""]


def row(name: str, verdict: Verdict | str) -> str:
    """A line of the Markdown table."""
    if isinstance(verdict, str):
        return f"| {name} | {' | ' * (len(COLUMNS) - 3)} | {verdict} |"
    numbers = [verdict.made, verdict.recorded, *(getattr(verdict, kind) for kind in Verdict.WRONGS),
               verdict.touched, verdict.unrecorded, verdict.lost_events]  # fmt: skip
    times = [_milliseconds(verdict.median_ms()), _milliseconds(verdict.worst_ms())]
    cells = [name, *map(str, numbers), *times, _word(verdict)]
    return f"| {' | '.join(cells)} |"


def reasons(verdict: Verdict | str) -> list[str]:
    """Lines that say why a cell did not pass; none where it did, or was skipped."""
    if isinstance(verdict, str) or verdict.passed():
        return []
    lines = [*verdict.problems, *verdict.told]
    if verdict.made == 0:
        lines.append("no request was made")
    if verdict.starved:
        lines.append(f"{verdict.lost_events} events found no room in a buffer: {verdict.touched} transactions are marked,"
                     f" {verdict.unrecorded} not recorded")  # fmt: skip
    return [f"    {line}" for line in lines]


def _word(verdict: Verdict) -> str:
    if verdict.is_accounted_for():
        return "LOST, accounted for"
    if not verdict.passed():
        return "LATE" if verdict.is_seldom_late() else "WRONG"
    return "ok" if verdict.tries == 1 else f"ok in run {verdict.tries}"


def _milliseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def heading() -> str:
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def keep(path: Path, results: list[tuple[Cell, Verdict | str]], seconds: float) -> None:
    """Writes the JSON: when and where it ran, and every cell with its dimensions and its verdict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": os.uname().release,
        "cores": os.cpu_count(),
        "seconds": round(seconds, 1),
        "cells": [_cell(cell, verdict) for cell, verdict in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def _cell(cell: Cell, verdict: Verdict | str) -> dict:
    setting = cell.setting
    found = {
        "name": cell.name, "client": cell.client, "join": cell.join, "load": cell.load, "losses": cell.losses,
        "server": setting.server, "proxy": setting.proxy, "path": setting.path, "sizes": setting.sizes,
        "splice": setting.splice, "sendfile": setting.sendfile, "tls": setting.tls,
    }  # fmt: skip
    if isinstance(verdict, str):
        return found | {"skipped": verdict}
    numbers = dataclasses.asdict(verdict)
    del numbers["errors_ms"]
    times = {"median_ms": verdict.median_ms(), "worst_ms": verdict.worst_ms(), "timed": len(verdict.errors_ms)}
    return found | {"passed": verdict.passed()} | numbers | times
