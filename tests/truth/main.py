"""The command line of scripts/truth."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import report, run
from .cells import Cell, cells
from .process import Failed, allow_open_files
from .soak import soak
from .verdict import Verdict

# The bar of durations is that of a quiet machine, and so is a loss: a cell in which nothing else is wrong gets so many runs.
TRIES = 4
ROOT = Path(__file__).resolve().parents[2]


def set_up() -> str:
    """Packages and the build, by the shell helpers that the other scripts use. Returns the binary's path."""
    with tempfile.NamedTemporaryFile("r") as answer:
        commands = f"""
            set -euo pipefail
            . "{ROOT}/scripts/lib.sh"
            STEPS=3
            need_root
            step packages
            apt_install "${{BUILD_PACKAGES[@]}}" haproxy nginx-light wrk nghttp2-client curl nodejs bpftool openssl
            step "sidetap (cargo build --release)"
            [ -n "${{SIDETAP_BIN:-}}" ] || need_rust
            build_release
            printf %s "$SIDETAP_BIN" >{answer.name}
        """
        if subprocess.run(["bash", "-c", commands, "truth"]).returncode != 0:
            raise Failed("set-up failed")
        return os.path.abspath(answer.read())


def matrix(binary: str, chosen: list[Cell], keep: Path | None, is_shared: bool) -> bool:
    """Runs the cells. Whether all passed. `is_shared`: others have the CPUs too; so cells do that were only late, a few
    times each, in every run, or lost a little and account for it."""
    began = time.monotonic()
    print(f"\n[3/3] {len(chosen)} cells\n\n{report.heading()}", flush=True)
    results: list[tuple[Cell, Verdict | str]] = []
    for group in _groups(chosen, keep):
        for cell, verdict in zip(group, _group(group, binary, keep), strict=True):
            results.append((cell, verdict))
            print(report.row(cell.name, verdict), flush=True)
            for line in report.reasons(verdict):
                print(line, flush=True)
    report.keep(ROOT / "target/truth.json", results, time.monotonic() - began)
    verdicts = [verdict for _, verdict in results if isinstance(verdict, Verdict)]
    made, recorded = sum(one.made for one in verdicts), sum(one.recorded for one in verdicts)
    passed = sum(one.passed() for one in verdicts)
    late = sum(one.is_seldom_late() for one in verdicts)
    starved = sum(one.is_accounted_for() for one in verdicts)
    print(f"\n{passed} of {len(verdicts)} cells passed, {late} late, {starved} lost and accounted for,"
          f" {len(results) - len(verdicts)} skipped; {recorded:,} of {made:,} transactions recorded;"
          f" {time.monotonic() - began:.0f} s; target/truth.json")  # fmt: skip
    # Once more, since of a long log often only the end is at hand.
    for cell, verdict in results:
        if reasons := report.reasons(verdict):
            print("\n".join([report.row(cell.name, verdict), *reasons]), flush=True)
    return passed + (late + starved if is_shared else 0) == len(verdicts) > 0


def _groups(chosen: list[Cell], keep: Path | None) -> list[list[Cell]]:
    return [[cell] for cell in chosen] if keep else run.groups(chosen)


def _group(cells: list[Cell], binary: str, keep: Path | None) -> list[Verdict] | list[str]:
    if reason := run.missing(cells):
        return [f"skipped: {reason}"] * len(cells)
    folder = None
    if keep:
        folder = keep / cells[0].name.replace("/", ":")
        folder.mkdir(parents=True)
    verdicts = _run(cells, binary, folder)
    for number, cell in enumerate(cells):
        while verdicts[number].may_be_the_machine() and verdicts[number].tries < TRIES and not keep:
            tries = verdicts[number].tries
            verdicts[number] = _run([cell], binary, None)[0]
            verdicts[number].tries = tries + 1
    return verdicts


def _run(cells: list[Cell], binary: str, folder: Path | None) -> list[Verdict]:
    try:
        return run.run(cells, binary, folder)
    except Exception:
        # Cells that break down are some that did not pass; the others still have to be heard.
        return [Verdict(problems=[traceback.format_exc()]) for _ in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the cells that scripts/test runs, on machines"
                        " whose CPUs others have too: a cell that was only late, and seldom, or that lost a little and"
                        " accounts for it, is told and does not fail")  # fmt: skip
    parser.add_argument("--only", metavar="REGEX", default="", help="cells whose name matches")
    parser.add_argument("--list", action="store_true", help="name the cells and run none")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave each cell's files there")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="instead, connections without end, then a look at"
                        " what is left of them")  # fmt: skip
    parser.add_argument("--tls", action="store_true", help="of the soak: the connections are TLS")
    parser.add_argument("--capture-path", choices=["socket", "syscall"], default="socket", help="of the soak (socket)")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if re.search(options.only, cell.name) and (cell.short or not options.short)]
    if options.list:
        print("\n".join(cell.name for cell in chosen))
        return
    try:
        allow_open_files(12_000)
        if options.soak is not None:
            sys.exit(not soak(set_up(), options.soak, options.capture_path, options.tls))
        sys.exit(not matrix(set_up(), chosen, options.keep.resolve() if options.keep else None,
                            is_shared=options.short))  # fmt: skip
    except Failed as error:
        sys.exit(f"truth: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
