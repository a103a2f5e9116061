"""What must have been recorded, from the words of clients, HAProxy and servers; never from sidetap's.

An ingress transaction for each line of HAProxy's log, an egress one for each request that a server behind it got; for a
server that is watched itself, an ingress one for each line of its own log.
"""

from dataclasses import dataclass, field

from .servers import Logged, Served
from .world import Made, World


@dataclass(frozen=True)
class Body:
    """None: nobody knows."""

    size: int | None
    sha: str | None


UNKNOWN = Body(None, None)


@dataclass(frozen=True)
class Timer:
    """HAProxy's: the difference of two times since the accept, each cut to whole milliseconds, so it stands for anything
    from one less to one more. `exact`: else it is only an upper bound."""

    value: int
    exact: bool = True


@dataclass
class Expected:
    """One transaction that must be there once."""

    id: str
    side: str
    method: str | None
    path: str | None
    status: int | None  # None: no response
    source: str | None
    destination: str | None
    request: Body
    response: Body
    duration: Timer | None = None
    ttfb: Timer | None = None
    required: set[str] = field(default_factory=set)  # names that `incomplete` must have
    allowed: set[str] = field(default_factory=set)  # names that it may have besides


def expected(world: World) -> list[Expected]:
    """Everything that happened, whether an agent was there or not. `Failed` where the oracles contradict each other."""
    made = {one.id: one for one in world.made}
    if not world.haproxy:
        front = f"127.0.0.1:{world.server.port}"
        return [_at_server(one, made.get(one.id), front, world) for one in world.served()]
    return _of_proxy(world, made)


def _of_proxy(world: World, made: dict[str, Made]) -> list[Expected]:
    logged = {line.id: line for line in world.logged()}
    served: dict[str, list[Served]] = {}
    for one in world.served():
        served.setdefault(one.id, []).append(one)
    found = []
    back = f"127.0.0.1:{world.server.port}"
    for id_, line in logged.items():
        found.append(_ingress(line, made.get(id_), served.get(id_, []), world))
    for id_, each in served.items():
        for number, one in enumerate(each):
            last = number == len(each) - 1
            line = logged.get(id_)
            found.append(_egress(one, line if last else None, back, world))
        # HAProxy drops a line now and then when its threads log at the same time: the servers' words do then.
        if id_ not in logged:
            found.append(_unlogged(each[-1], made.get(id_), world))
    return found


def _ingress(line: Logged, made: Made | None, served: list[Served], world: World) -> Expected:
    status = line.status if line.status > 0 else None
    one = Expected(
        line.id, "ingress", line.method, line.path, status, line.client, line.front, UNKNOWN, UNKNOWN,
        Timer(line.active_ms) if line.active_ms >= 0 else None,
    )  # fmt: skip
    if made:
        one.request = Body(made.sent, made.sent_sha)
        one.response = Body(made.got, made.got_sha) if made.whole or status is None else UNKNOWN
    elif served and served[-1].response_whole:
        one.request, one.response = Body(served[-1].got, served[-1].got_sha), _sent(served[-1])
    _mark_by_ending(one, line, made)
    if world.setting.splice:
        one.allowed |= {"response_body_not_observable", "request_body_not_observable"}
    return one


def _mark_by_ending(one: Expected, line: Logged, made: Made | None) -> None:
    """What HAProxy's termination state says of the client's side (its guide, "Session state at disconnection")."""
    cause, phase = line.ending[0], line.ending[1]
    if one.status is None:
        # Nothing was answered.
        one.required.add("response_missing")
        one.allowed |= {"request_aborted", "response_aborted"}
        one.request = UNKNOWN
        one.duration = None
    elif phase == "D" and cause in "CcSs":
        # Cut within the response, by either side.
        one.required.add("response_aborted")
        one.allowed |= {"request_aborted"}
        one.response = UNKNOWN
    elif phase == "R" or (made and one.status in (400, 408)):
        # The request never came to its end; HAProxy answered by itself.
        one.allowed |= {"request_aborted", "request_malformed", "request_missing"}
        one.request, one.response = UNKNOWN, UNKNOWN if not made else one.response
    if cause in "Ss" and phase == "H" or one.status == 413:
        # The answer was there before the request's end.
        one.allowed |= {"request_aborted"}
        one.request = UNKNOWN


def _egress(one: Served, line: Logged | None, back: str, world: World) -> Expected:
    found = _of_server(one, "egress", back, world)
    if line and line.ending == "--" and line.own == one.peer:
        if line.response_ms >= 0:
            found.ttfb = Timer(line.response_ms, exact=one.request_whole and one.got == 0)
            found.duration = Timer(line.response_ms + max(line.data_ms, 0), exact=False)
    if line and line.own == one.peer and line.ending[0] in "CcSs":
        # HAProxy went before the server's end, or the other way round: either may have cut it.
        if one.response_whole and line.ending[1] in "DH":
            found.allowed |= {"response_aborted", "response_missing"}
            found.response = UNKNOWN
    if world.setting.splice:
        found.allowed |= {"response_body_not_observable", "request_body_not_observable"}
    return found


def _unlogged(one: Served, made: Made | None, world: World) -> Expected:
    found = _of_server(one, "ingress", f"127.0.0.1:{world.front}", world)
    found.source = made.local if made else None
    return found


def _at_server(one: Served, made: Made | None, front: str, world: World) -> Expected:
    found = _of_server(one, "ingress", front, world)
    if one.response_whole and not one.observable:
        found.required.add("response_body_not_observable")
        found.response = Body(one.sent, None)
    if made and made.whole and one.response_whole and made.got_sha != one.sent_sha:
        raise AssertionError(f"client and server do not agree on {one.id}: {made} and {one}")
    return found


def _of_server(one: Served, side: str, destination: str, world: World) -> Expected:
    found = Expected(one.id, side, one.method, one.path, one.status, one.peer, destination,
                     Body(one.got, one.got_sha), _sent(one))  # fmt: skip
    if not one.request_whole:
        found.request = UNKNOWN
        found.allowed.add("request_aborted")
    if one.status is None:
        found.required.add("response_missing")
        found.allowed |= {"request_aborted"}
    elif not one.response_whole:
        found.required.add("response_aborted")
        found.response = UNKNOWN
    if world.clients_killed:
        # wrk goes when its time is up: what it had asked last may have come too late.
        found.allowed |= {"response_aborted", "response_missing"}
    return found


def _sent(one: Served) -> Body:
    return Body(one.sent, one.sent_sha)
