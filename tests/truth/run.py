"""Runs a cell: starts its world, lets its clients ask while an agent is there, and asks for the verdict."""

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from . import losses
from .cells import Cell
from .losses import Losses
from .oracle import expected
from .process import LIMIT, Failed, sleeps
from .servers import exe
from .verdict import Verdict, judge
from .wire import Connection
from .world import World


def missing(cells: list[Cell]) -> str | None:
    """Why the cells of a group cannot run here; None where they can."""
    setting = cells[0].setting
    tracepoint = b"btf_trace_sock_send_length"
    if setting.path == "socket" and tracepoint not in Path("/sys/kernel/btf/vmlinux").read_bytes():
        return "this kernel has no sock_send_length tracepoint (it came with Linux 6.3)"
    programs = [setting.server] if setting.server != "python" else ["/usr/bin/python3"]
    programs += ["haproxy"] if setting.proxy else []
    programs += [cell.client for cell in cells if cell.client != "raw"]
    for program in programs:
        try:
            exe(program)
        except FileNotFoundError:
            return f"{program} is not installed"
    return None


def groups(cells: list[Cell]) -> list[list[Cell]]:
    """Cells that can share servers and an agent, together."""
    found: dict[object, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.name if cell.is_alone() else repr(cell.setting), []).append(cell)
    return list(found.values())


def run(cells: list[Cell], binary: str, keep: Path | None = None) -> list[Verdict]:
    """Cells of one group, from nothing to their verdicts. `keep`: a folder for their files, where they are to stay."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="truth-")))
        world = stack.enter_context(World(cells[0].setting, folder, binary))
        if cells[0].is_alone():
            return [_run_alone(cells[0], world)]
        return _run_together(cells, world)


def _run_alone(cell: Cell, world: World) -> Verdict:
    expecting = _rounds(cell, world)
    _settle(world)
    wanted = [one for one in expected(world) if _round(one.id) in expecting or cell.client == "h2load"]
    for one in wanted:
        one.allowed |= cell.allowed
    # Where processes that want all of every CPU were let loose, the agent may come too late.
    starved = not cell.losses and cell.load != "light" and losses.happened(world.recorded)
    lost = Losses(world.recorded) if cell.losses or starved else None
    verdict = judge(wanted, world.recorded, lost, cell.timed())
    verdict.starved = starved
    if cell.losses and verdict.lost_events == 0:
        verdict.problems.append("nothing was lost, so nothing was shown")
    _check_oracles(cell, world, verdict)
    if not lost:
        _check_times(world, verdict)
    _check_links(world.links, world, verdict)
    _check_counters(world, lost, verdict)
    return verdict


def _run_together(cells: list[Cell], world: World) -> list[Verdict]:
    """One round for each cell, all recorded by one agent."""
    broken: list[str] = []
    links = []
    world.start_agent()
    for number, cell in enumerate(cells):
        world.round = f"r{number}"
        already = len(world.links)
        try:
            cell.shape(world)
            broken.append("")
        except Exception:
            broken.append(traceback.format_exc())
        world.close_pool()
        links.append(world.links[already:])
    _settle(world)
    world.stop_agent()
    every = expected(world)
    verdicts = []
    for number, cell in enumerate(cells):
        # What belongs to no round is told of in the first.
        rounds = {f"r{number}"} if number else {"r0", *map(_round, (seen.id for seen in world.recorded.seen))}
        rounds -= {f"r{other}" for other in range(len(cells)) if other != number}
        wanted = [one for one in every if _round(one.id) in rounds or not number and one.id == "-"]
        seen = [seen for seen in world.recorded.seen if _round(seen.id) in rounds]
        verdict = judge(wanted, replace(world.recorded, seen=seen), None, cell.timed())
        if broken[number]:
            verdict.problems.append(broken[number])
        _check_links(links[number], world, verdict)
        verdicts.append(verdict)
    _check_oracles(cells[0], world, verdicts[0])
    _check_counters(world, None, verdicts[0])
    return verdicts


def _round(id_: str) -> str:
    return id_.partition("-")[0]


def _rounds(cell: Cell, world: World) -> set[str]:
    """The rounds of requests. Answers which of them an agent was there for."""
    if cell.join == "first":
        world.start_agent()
        with _trouble(cell, world):
            cell.shape(world)
        world.close_pool()
        _settle(world)
        world.stop_agent()
        # Those without an id were never read to the end of their heads.
        return {"a", ""}
    cell.shape(world)
    watched = ["b"] if cell.join == "midway" else ["b", "d"]
    for name in ("b", "c", "d"):
        world.round = name
        if name in watched:
            world.start_agent()
        cell.shape(world)
        if name in watched:
            _settle(world)
            world.stop_agent()
        if name == watched[-1]:
            break
    return set(watched)


def _settle(world: World) -> None:
    """Until the servers and HAProxy have written all that they will: they write nothing, and all of their threads sleep."""
    if world.haproxy:
        # It drops a line now and then when its threads log at the same time.
        world.haproxy.wait_logged(max(len(world.made), world.answered), 3.0)
    last, since, deadline = -1, time.monotonic(), time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        size = world.server.log.stat().st_size + (len(world.haproxy.syslog.lines) if world.haproxy else 0)
        if size != last or not all(map(sleeps, world.server.pids | world.watched)):
            last, since = size, time.monotonic()
        if time.monotonic() - since > 0.15:
            return
        time.sleep(0.02)
    raise Failed("the servers do not come to rest")


@contextlib.contextmanager
def _trouble(cell: Cell, world: World) -> Iterator[None]:
    """What makes it hard for the agent while the clients ask."""
    agent = world.agent.child if world.agent else None
    assert agent is not None
    if cell.load == "stopped":
        agent.send(signal.SIGSTOP)
        timer = threading.Timer(1.0, agent.send, [signal.SIGCONT])
        timer.start()
        try:
            yield
        finally:
            timer.join()
    elif cell.load == "neighbours":
        # Processes of higher priority that want all of every CPU, for as long as the clients ask.
        busy = ["nice", "-n", "-10", "timeout", "20", "sh", "-c", "while :; do :; done"]
        neighbours = [subprocess.Popen(busy) for _ in range(os.cpu_count() or 1)]
        try:
            yield
        finally:
            for neighbour in neighbours:
                neighbour.terminate()
                neighbour.wait()
    else:
        yield


def _check_oracles(cell: Cell, world: World, verdict: Verdict) -> None:
    """The clients' counts and the servers' must agree, else nothing was shown."""
    served = len(world.served())
    if world.answered > served:
        verdict.problems.append(f"{cell.client} counts {world.answered} answers, {world.setting.server} {served}")
    if world.haproxy:
        logged = len({line.id for line in world.logged()})
        if logged < len({one.id for one in world.made if one.status is not None}) or logged < world.answered * 99 // 100:
            verdict.problems.append(f"HAProxy has logged {logged} requests only")


def _check_times(world: World, verdict: Verdict) -> None:
    """No request took longer here than for the client, in the longest case and in the mean."""
    durations = [seen.duration_ms for seen in world.recorded.seen if seen.side == "ingress" and seen.duration_ms]
    if not world.times or not durations:
        return
    for what, has, most in [("longest", max(durations), world.times.longest),
                            ("mean", statistics.mean(durations), world.times.mean)]:  # fmt: skip
        if has > most:
            verdict.wrong("duration", f"the {what} is {has:.3f} ms, the client measured {most:.3f}")


def _check_links(connections: list[Connection], world: World, verdict: Verdict) -> None:
    """Connections that were closed while the agent was there have moved as many bytes as the clients say."""
    # HAProxy's own connections to the server may have the same source.
    ends = {(link.source, link.destination): link for link in world.recorded.links.values() if link.is_closed}
    for connection in connections:
        link = ends.get((connection.local, connection.peer))
        if link is None:
            continue
        verdict.links += 1
        if (link.received, link.sent) != (connection.sent, connection.received):
            verdict.wrong("size", f"connection {connection.local}: received {link.received} and sent {link.sent}, must be"
                                  f" {connection.sent} and {connection.received}")  # fmt: skip


def _check_counters(world: World, lost: Losses | None, verdict: Verdict) -> None:
    """Nothing is counted as lost but what `lost` accounts for."""
    # The machine's other processes are told of, too. Some end before their names are read; and where one of a watched
    # program goes on while the agent ends, bytes of it count as lost. Of the cell's own its connections tell.
    known = {"lost.identities", "lost.bytes", *((*losses.COUNTERS, *losses.OTHERS) if lost else ())}
    found = {key: n for key, n in world.recorded.counters.items() if key.startswith("lost") and key not in known and n}
    if found:
        verdict.problems.append(f"counted as lost: {found}")
    touched = [link for link in world.recorded.links.values() if link.lost]
    if touched and not lost:
        verdict.problems.append(f"{len(touched)} connections lost bytes, such as {touched[0]}")
