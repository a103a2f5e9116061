"""What was recorded, compared with what must have been. One number for each way of being wrong."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from .agent import Recorded, Seen
from .losses import Losses
from .oracle import Expected, Timer

# A recorded duration may be off by so much of HAProxy's timer: the larger of milliseconds and share.
BAR_MS, BAR_SHARE = 1.0, 0.02
# Marks that say that bytes of a body were not kept. What was kept is not compared then; its size is.
NOT_KEPT = ("body_not_observable", "body_truncated", "body_over_memory")
# Two clocks that are read one after the other.
CLOCK_MS = 0.005
# Losses that nobody asked for may touch this share of a cell, or both sides of a request; beyond, the machine is too slow
# to show anything.
LOST_SHARE, LOST_LEAST = 0.1, 2
# How many of a kind are told in words.
TOLD = 3


@dataclass
class Verdict:
    """Counts, of which all but `made` and `recorded` should be 0."""

    made: int = 0
    recorded: int = 0
    absent: int = 0
    duplicates: int = 0
    strangers: int = 0
    pairs: int = 0
    connection: int = 0
    status: int = 0
    size: int = 0
    body: int = 0
    marks: int = 0
    duration: int = 0
    links: int = 0  # connections whose bytes were compared
    touched: int = 0  # marked because of a loss; these three only where there were losses
    unrecorded: int = 0
    lost_events: int = 0
    starved: bool = False  # the losses were not made on purpose: the agent did not get its share of the CPUs
    tries: int = 1
    errors_ms: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    WRONGS = ("absent", "duplicates", "strangers", "pairs", "connection", "status", "size", "body", "marks", "duration")

    def is_late_only(self) -> bool:
        """Nothing but durations is wrong: another process may have had the CPU."""
        return self.duration > 0 and not self.problems and not any(
            getattr(self, name) for name in self.WRONGS if name != "duration"
        )

    def is_seldom_late(self) -> bool:
        """Only durations are wrong, and few of them: most are within the bar, so it is not the clock that is wrong."""
        median = self.median_ms()
        return self.is_late_only() and median is not None and median <= BAR_MS and self.has_lost_little()

    def may_be_the_machine(self) -> bool:
        """What is wrong need not be wrong in another run."""
        return self.is_late_only() or self.is_accounted_for()

    def is_right(self) -> bool:
        return self.made > 0 and not self.problems and not any(getattr(self, name) for name in self.WRONGS)

    def passed(self) -> bool:
        return self.is_right() and not self.starved

    def is_accounted_for(self) -> bool:
        """Nothing is wrong but that little was lost: all of it is counted, and told by what it touched."""
        return self.is_right() and self.starved and self.has_lost_little()

    def has_lost_little(self) -> bool:
        """Or was made to lose more."""
        return not self.starved or self.touched + self.unrecorded <= max(self.made * LOST_SHARE, LOST_LEAST)

    def worst_ms(self) -> float | None:
        return max(self.errors_ms, default=None)

    def median_ms(self) -> float | None:
        return statistics.median(self.errors_ms) if self.errors_ms else None

    def wrong(self, kind: str, what: str) -> None:
        count = getattr(self, kind) + 1
        setattr(self, kind, count)
        if count <= TOLD:
            self.told.append(f"{kind}: {what}")


def judge(expected: list[Expected], recorded: Recorded, losses: Losses | None, timed: str) -> Verdict:
    """`losses`: there were some. Then a transaction may be absent, or be marked, where the agent's own account of them
    explains it; what is not marked must be right all the same. `timed`: which of HAProxy's timers are held against it: each,
    most or none; the others are only shown."""
    verdict = Verdict(made=len(expected))
    left: dict[tuple[str, str], list[Seen]] = {}
    for seen in recorded.seen:
        left.setdefault((seen.id, seen.side), []).append(seen)
    durations: dict[str, float] = {}
    inner: list[tuple[str, float]] = []
    far: dict[str, list[bool]] = {}
    for one in expected:
        each = left.get((one.id, one.side), [])
        # Retries have one id: the connection tells them apart.
        seen = next((seen for seen in each if seen.source == one.source), each[0] if each else None)
        if seen is None and losses and losses.explain(one):
            verdict.unrecorded += 1
            continue
        if seen is None:
            verdict.wrong("absent", one.name())
            continue
        each.remove(seen)
        verdict.recorded += 1
        if losses and losses.touch(seen):
            verdict.touched += 1
            continue
        _compare(one, seen, verdict)
        _compare_proxy_bytes(one, seen, verdict)
        for kind, is_far in _compare_times(one, seen, verdict, timed):
            far.setdefault(kind, []).append(is_far)
        if seen.duration_ms is not None and not seen.incomplete and one.id != "-":
            if one.side == "ingress":
                durations[one.id] = seen.duration_ms
            else:
                inner.append((one.id, seen.duration_ms))
    for id_, duration in inner:
        if id_ in durations and duration > durations[id_] + CLOCK_MS:
            verdict.wrong("duration", f"{id_}: egress {duration} within ingress {durations[id_]}")
    for kind, beyond in far.items() if timed == "most" else ():
        if sum(beyond) * 2 > len(beyond):
            verdict.wrong("duration", f"{sum(beyond)} of {len(beyond)} are not HAProxy's: {kind}")
    _judge_rest(left, {(one.id, one.side) for one in expected}, losses, verdict)
    if losses:
        verdict.lost_events = losses.events()
        verdict.problems += losses.problems(verdict.unrecorded)
    return verdict


def _judge_rest(left: dict[tuple[str, str], list[Seen]], known: set[tuple[str, str]], losses: Losses | None,
                verdict: Verdict) -> None:  # fmt: skip
    """What was recorded beyond what must be there."""
    for key, each in left.items():
        for seen in each:
            if losses and losses.touch(seen):
                verdict.touched += 1
            else:
                verdict.wrong("duplicates" if key in known else "strangers", f"{seen}")


def _compare(one: Expected, seen: Seen, verdict: Verdict) -> None:
    name = one.name()
    marks = seen.marks()

    def check(kind: str, must: object, has: object, what: str) -> None:
        if must is not None and must != has:
            verdict.wrong(kind, f"{name}: {what} {has}, must be {must}")

    if not one.required <= marks <= one.required | one.allowed:
        verdict.wrong("marks", f"{name}: {sorted(marks)}, must be {sorted(one.required)}, may be {sorted(one.allowed)}")
    check("pairs", seen.id if seen.other_id else None, seen.other_id, "id of the response")
    check("pairs", f"{seen.method} {seen.path}" if seen.echo and seen.method else None, seen.echo, "answers to")
    check("pairs", one.method, seen.method, "method")
    check("pairs", one.path, seen.path, "path")
    check("connection", one.source, seen.source, "source")
    check("connection", one.destination, seen.destination, "destination")
    check("connection", one.is_tls, seen.is_tls, "TLS")
    if "response_missing" not in marks and one.status != seen.status:
        verdict.wrong("status", f"{name}: {seen.status}, must be {one.status}")
    for side, must, has in [("request", one.request, seen.request), ("response", one.response, seen.response)]:
        if f"{side}_missing" in marks or f"{side}_aborted" in marks:
            continue
        check("size", must.size, has.size, f"{side}'s size")
        is_kept = not any(f"{side}_{mark}" in marks for mark in NOT_KEPT)
        if is_kept and must.size in (None, has.size):
            check("body", must.sha, has.sha, f"{side}'s SHA-256")


def _compare_proxy_bytes(one: Expected, seen: Seen, verdict: Verdict) -> None:
    """HAProxy counts the bytes of its own form of a message: of a head with n headers, 4 n - 15 less than on the wire; of a
    chunked one, one more; and no `Connection`."""
    if one.proxy_bytes is None or seen.incomplete:
        return
    for number, (side, has) in enumerate([("request", seen.bytes_received), ("response", seen.bytes_sent)]):
        must = one.proxy_bytes[number] + 4 * seen.headers[number] - 15 - seen.framing[number] + seen.hops[number]
        if has != must:
            verdict.wrong("size", f"{one.name()}: {side} has {has} bytes, by HAProxy's count {must}")


def _compare_times(one: Expected, seen: Seen, verdict: Verdict, timed: str) -> Iterator[tuple[str, bool]]:
    """Which of HAProxy's timers there are, and whether what was recorded is far from them."""
    if one.at_most_ms is not None and seen.duration_ms is not None and seen.duration_ms > one.at_most_ms + CLOCK_MS:
        verdict.wrong("duration", f"{one.name()}: {seen.duration_ms}, the client measured {one.at_most_ms:.3f}")
    for timer, value, what in [(one.duration, seen.duration_ms, "duration"), (one.ttfb, seen.ttfb_ms, "first byte")]:
        if timer is None or value is None:
            continue
        error = _error(timer, value)
        verdict.errors_ms.append(error)
        is_far = error > max(BAR_MS, BAR_SHARE * timer.value)
        if timed == "each" and is_far:
            verdict.wrong("duration", f"{one.name()}: {what} {value} against HAProxy's {timer.value}")
        yield f"{what}, {one.side}", is_far


def _error(timer: Timer, value: float) -> float:
    """Milliseconds that it is away from what the timer can stand for."""
    above = value - (timer.value + 1) if timer.most else 0.0
    below = timer.value - 1 - value if timer.least else 0.0
    return max(0.0, above, below)
