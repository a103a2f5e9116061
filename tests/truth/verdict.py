"""What was recorded, compared with what must have been. One number for each way of being wrong."""

import statistics
from dataclasses import dataclass, field

from .agent import Recorded, Seen
from .oracle import Body, Expected, Timer

# A recorded duration may be off by so much of HAProxy's timer: the larger of milliseconds and share.
BAR_MS, BAR_SHARE = 1.0, 0.02
# Marks that say that bytes of a body were not kept. What was kept is not compared then; its size is.
NOT_KEPT = ("body_not_observable", "body_truncated", "body_over_memory")
LOST = ("body_lost", "malformed", "aborted", "missing")
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
    touched: int = 0  # marked because of a loss; only where losses are made
    errors_ms: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    WRONGS = ("absent", "duplicates", "strangers", "pairs", "connection", "status", "size", "body", "marks", "duration")

    def passed(self) -> bool:
        return self.made > 0 and not self.problems and not any(getattr(self, name) for name in self.WRONGS)

    def worst_ms(self) -> float | None:
        return max(self.errors_ms, default=None)

    def median_ms(self) -> float | None:
        return statistics.median(self.errors_ms) if self.errors_ms else None

    def wrong(self, kind: str, what: str) -> None:
        count = getattr(self, kind) + 1
        setattr(self, kind, count)
        if count <= TOLD:
            self.told.append(f"{kind}: {what}")


def judge(expected: list[Expected], recorded: Recorded, losses: bool = False) -> Verdict:
    """`losses`: events were lost on purpose. Then a transaction may be absent, as long as not more are than events were
    lost, or be marked; what is not marked must be right all the same."""
    verdict = Verdict(made=len(expected))
    left: dict[tuple[str, str], list[Seen]] = {}
    for seen in recorded.seen:
        left.setdefault((seen.id, seen.side), []).append(seen)
    for one in expected:
        each = left.get((one.id, one.side), [])
        # Retries have one id: the connection tells them apart.
        seen = next((seen for seen in each if seen.source == one.source), each[0] if each else None)
        if seen is None:
            verdict.wrong("absent", f"{one}")
            continue
        each.remove(seen)
        verdict.recorded += 1
        _compare(one, seen, verdict, losses)
    known = {(one.id, one.side) for one in expected}
    for key, each in left.items():
        for seen in each:
            if losses and _is_touched(seen):
                verdict.touched += 1
            elif key in known:
                verdict.wrong("duplicates", f"{seen}")
            else:
                verdict.wrong("strangers", f"{seen}")
    if losses:
        lost = recorded.counters.get("lost.buffer_events", 0) + recorded.counters.get("lost.connection_events", 0)
        if lost == 0:
            verdict.problems.append("nothing was lost, so nothing was shown")
        if verdict.absent <= lost:
            verdict.absent = 0
            verdict.told = [line for line in verdict.told if not line.startswith("absent")]
    return verdict


def _is_touched(seen: Seen) -> bool:
    marks = seen.marks()
    return "pairing_uncertain" in marks or any(mark.endswith(LOST) for mark in marks)


def _compare(one: Expected, seen: Seen, verdict: Verdict, losses: bool) -> None:
    if losses and _is_touched(seen):
        verdict.touched += 1
        return
    what = f"{one} and {seen}"
    marks = seen.marks()
    if not one.required <= marks <= one.required | one.allowed:
        verdict.wrong("marks", f"{sorted(marks)}: {what}")
    if seen.other_id not in (None, seen.id) or (seen.echo and seen.echo != f"{seen.method} {seen.path}"):
        verdict.wrong("pairs", what)
    if one.method not in (None, seen.method) or one.path not in (None, seen.path):
        verdict.wrong("pairs", what)
    if one.source not in (None, seen.source) or one.destination not in (None, seen.destination):
        verdict.wrong("connection", what)
    if one.status != seen.status and not marks & {"response_missing"}:
        verdict.wrong("status", what)
    for side, must, has in [("request", one.request, seen.request), ("response", one.response, seen.response)]:
        if side == "response" and "response_missing" in marks:
            continue
        if f"{side}_aborted" in marks:
            continue
        _compare_body(side, must, has.size, has.sha, marks, verdict, what)
    _compare_times(one, seen, verdict, what)


def _compare_body(side: str, must: Body, size: int, sha: str | None, marks: set[str], verdict: Verdict,
                  what: str) -> None:  # fmt: skip
    if must.size not in (None, size):
        verdict.wrong("size", f"{side} has {size}: {what}")
    elif must.sha is not None and not any(f"{side}_{mark}" in marks for mark in NOT_KEPT) and must.sha != sha:
        verdict.wrong("body", f"{side}: {what}")


def _compare_times(one: Expected, seen: Seen, verdict: Verdict, what: str) -> None:
    for timer, value in [(one.duration, seen.duration_ms), (one.ttfb, seen.ttfb_ms)]:
        if timer is None or value is None:
            continue
        error = _error(timer, value)
        verdict.errors_ms.append(error)
        if error > max(BAR_MS, BAR_SHARE * timer.value):
            verdict.wrong("duration", f"{value} against {timer}: {what}")


def _error(timer: Timer, value: float) -> float:
    """Milliseconds that it is away from what the timer can stand for."""
    above = value - (timer.value + 1)
    below = timer.value - 1 - value if timer.exact else 0.0
    return max(0.0, above, below)
