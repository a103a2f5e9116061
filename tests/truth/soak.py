"""Connections by the hundred thousand, opened and closed; then everything must be back where it was."""

import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from .process import Failed
from .world import Setting, World

# What may be left: this share more of memory, and a page or so where there was little.
SHARE, SLACK = 0.05, 1 << 20
# Connections before the first look: tables, buffers and the allocator's pools have their size when memory grows by less
# than this share within a turn, or after so many turns. A leak slower than that shows in the long form only.
WARM_SECONDS, WARM_SHARE, WARM_TURNS = 15, 0.01, 8
# What belongs to connections that are gone is let go of within so many seconds: secrets of TLS are the last.
REST_SECONDS = 15
# Afterwards it may take so many: the machine may have other things to do.
PATIENCE_SECONDS = 90
# HAProxy keeps idle connections to the server, now more and now fewer.
IDLE = 50


def soak(binary: str, minutes: float, path: str, tls: bool) -> bool:
    """Prints what there was before and after. Whether it is the same. `tls`: on both sides of HAProxy."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    setting = Setting(proxy=True, server="nginx", path=path, level="none")
    if tls:
        # Something must want to know what is inside.
        setting = replace(setting, tls="both", level="summary")
    with tempfile.TemporaryDirectory(dir=memory, prefix="truth-") as folder, \
            World(setting, Path(folder), binary) as world:  # fmt: skip
        world.start_agent()
        assert world.agent is not None
        _warm_up(world)
        time.sleep(REST_SECONDS)
        before = _state(world)
        made, end = 0, time.monotonic() + minutes * 60
        while time.monotonic() < end:
            made += _load(world, max(1, min(30, round(end - time.monotonic()))))
        after, end = _state(world), time.monotonic() + PATIENCE_SECONDS
        while not all(_is_back(name, first, after[name]) for name, first in before.items()) and time.monotonic() < end:
            time.sleep(1)
            after = _state(world)
        counters, world.agent = world.agent.end(), None
    what = "TLS connections" if tls else "connections"
    lost = {key: count for key, count in counters.items() if key.startswith("lost.") and count}
    print(f"\n{path} path: {made:,} {what} of clients in {minutes:g} minutes; lost: {lost or 'nothing'}\n\n| | before | after | |\n|---|---|---|---|")
    passed = made > 0
    for name, first in before.items():
        is_back = _is_back(name, first, after[name])
        passed &= is_back
        print(f"| {name} | {first:,} | {after[name]:,} | {'ok' if is_back else 'WRONG'} |")
    return passed


def _warm_up(world: World) -> None:
    assert world.agent is not None
    last = 0
    for _ in range(WARM_TURNS):
        _load(world, WARM_SECONDS)
        now = world.agent.child.resident()
        if now <= last * (1 + WARM_SHARE):
            return
        last = now


def _is_back(name: str, before: int, after: int) -> bool:
    if name.startswith("map "):
        return after <= before + IDLE
    return after <= before * (1 + SHARE) + (SLACK if name == "resident bytes" else 0)


def _load(world: World, seconds: int) -> int:
    """How many connections clients made."""
    assert world.agent is not None
    command = ["wrk", "-t1", "-c50", f"-d{seconds}s", "-H", "Connection: close", f"{world.origin}/text/1"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    words = out.split()
    if "requests" not in words:
        raise Failed(f"wrk had errors:\n{out}")
    # Nothing of it is compared here: the words of all of them would only fill the memory.
    os.truncate(world.server.log, 0)
    os.truncate(world.agent.child.out, 0)
    world.haproxy and world.haproxy.syslog.lines.clear()
    return int(words[words.index("requests") - 1])


def _state(world: World) -> dict[str, int]:
    assert world.agent is not None
    agent = world.agent.child
    state = {"resident bytes": agent.resident(), "descriptors": agent.descriptors()}
    for info in Path(f"/proc/{agent.pid}/fdinfo").iterdir():
        try:
            found = re.search(r"^map_id:\s*(\d+)$", info.read_text(), re.MULTILINE)
        except FileNotFoundError:
            # It looks into a file of a process now and then.
            continue
        if found is None:
            continue
        shown = _bpftool("show", found.group(1))
        if shown.get("name") == "connections":
            # One that goes while they are listed has no value.
            entries = [one["formatted"]["value"] for one in _bpftool("dump", found.group(1)) if "formatted" in one]
            # Others on this machine have connections, too.
            state["map connections"] = sum(entry["pid"] in world.watched for entry in entries)
    if not any(name.startswith("map ") for name in state):
        raise Failed("sidetap holds no map that is known here")
    return state


def _bpftool(verb: str, number: str) -> Any:
    done = subprocess.run(["bpftool", "-j", "map", verb, "id", number], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
