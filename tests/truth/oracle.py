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
    from one less to one more. What is recorded may be shorter where the timer is not a `least`, longer where it is not a
    `most`."""

    value: int
    least: bool = True
    most: bool = True


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
    proxy_bytes: tuple[int, int] | None = None  # HAProxy's %U and %B
    at_most_ms: float | None = None  # as the client measured it
    is_tls: bool = False
    required: set[str] = field(default_factory=set)  # names that `incomplete` must have
    allowed: set[str] = field(default_factory=set)  # names that it may have besides

    def name(self) -> str:
        return f"{self.id} {self.side} {self.method} {self.path}"


def expected(world: World) -> list[Expected]:
    """Everything that happened, whether an agent was there or not. `Failed` where the oracles contradict each other."""
    made = {one.id: one for one in world.made}
    if not world.haproxy:
        front = f"127.0.0.1:{world.server.port}"
        return [_at_server(one, made.get(one.id), front, world) for one in world.served()]
    return _of_proxy(world, made)


def _of_proxy(world: World, made: dict[str, Made]) -> list[Expected]:
    lines = world.logged()
    logged = {line.id: line for line in lines}
    served: dict[str, list[Served]] = {}
    for one in world.served():
        served.setdefault(one.id, []).append(one)
    found = []
    back = f"127.0.0.1:{world.server.port}"
    for line in lines:
        found.append(_ingress(line, made.get(line.id), served.get(line.id, []), world))
        if line.id not in served and line.server == back and line.ending[0] in "Ss":
            found.append(_unserved(line))
    for id_, each in served.items():
        for number, one in enumerate(each):
            is_last = number == len(each) - 1
            found.append(_egress(one, logged.get(id_) if is_last else None, back, world))
        # HAProxy drops a line now and then when its threads log at the same time: the servers' words do then.
        if id_ not in logged:
            found.append(_unlogged(each[-1], made.get(id_), world))
    for one in found:
        one.is_tls = world.setting.is_tls("front" if one.side == "ingress" else "back")
    return found


def _ingress(line: Logged, made: Made | None, served: list[Served], world: World) -> Expected:
    status = line.status if line.status > 0 else None
    one = Expected(
        line.id, "ingress", _known(line.method), _known(line.path), status, line.client, line.front, UNKNOWN, UNKNOWN
    )
    if made:
        one.request = Body(made.sent, made.sent_sha)
        one.response = Body(made.got, made.got_sha) if made.whole or status is None else UNKNOWN
        one.at_most_ms = made.elapsed_ms
    elif served and served[-1].response_whole:
        one.request, one.response = Body(served[-1].got, served[-1].got_sha), _sent(served[-1])
    if line.ending == "--" and line.active_ms >= 0:
        # Where the end of the connection is that of the response, HAProxy waits for it; and its timer of the first
        # request in TLS starts with the end of the handshake; and an upgraded one lasts as long as the tunnel.
        is_least = not line.path.startswith("/close/") and not world.setting.is_tls("front") and line.status != 101
        # Of a request that came behind others at once, HAProxy's times start when it is done with those: what lies between
        # is the duration's alone, and the client's to judge.
        is_behind = made.is_behind if made else world.is_pipelined
        one.duration = Timer(line.active_ms, least=is_least, most=not is_behind)
    # Interim responses and what follows an upgrade are in its counts and not in ours.
    if line.ending == "--" and line.status > 101 and not (made and made.is_continued):
        one.proxy_bytes = (line.uploaded, line.read)
    _mark_by_ending(one, line, made)
    if world.setting.splice:
        one.allowed |= {"response_body_not_observable", "request_body_not_observable"}
    return one


def _known(field: str) -> str | None:
    """HAProxy's words for what it could not read."""
    return None if field.startswith("<") or field == "-" else field


def _mark_by_ending(one: Expected, line: Logged, made: Made | None) -> None:
    """What HAProxy's termination state says of the client's side (its guide, "Session state at disconnection")."""
    cause, phase = line.ending[0], line.ending[1]
    is_whole = made is not None and made.whole
    if line.id == "-":
        # It never came to its head's end; HAProxy answered by itself.
        one.method = one.path = None
        one.allowed |= {"request_aborted", "request_malformed", "request_missing"}
        one.request = one.response = UNKNOWN
    elif one.status is None:
        # Nothing was answered.
        one.required.add("response_missing")
        one.allowed |= {"request_aborted", "response_aborted"}
        one.request = UNKNOWN
    elif phase == "D" and cause in "CcSs" and not is_whole:
        # Cut within the response, by either side.
        one.required.add("response_aborted")
        one.allowed |= {"request_aborted"}
        one.response = UNKNOWN
    elif line.ending != "--":
        # The answer was there before the request's end.
        one.allowed |= {"request_aborted"}
        one.request = UNKNOWN


def _unserved(line: Logged) -> Expected:
    """Of a server that was killed before it could say anything, HAProxy's words."""
    one = Expected(line.id, "egress", line.method, line.path, line.status, line.own, line.server, UNKNOWN, UNKNOWN)
    if line.ending[1] == "H":
        one.status = None
        one.required.add("response_missing")
    else:
        one.required.add("response_aborted")
    return one


def _egress(one: Served, line: Logged | None, back: str, world: World) -> Expected:
    found = _of_server(one, "egress", back, world)
    is_its = line is not None and line.own == one.peer
    if line and is_its and line.ending == "--" and line.retries == 0 and line.response_ms >= 0:
        # Its timer starts before the request's body, and ends once the client has everything.
        found.ttfb = Timer(line.response_ms, least=one.request_whole and one.got == 0)
        found.duration = Timer(line.response_ms + max(line.data_ms, 0), least=False)
    if line and is_its and line.ending[0] in "CcSs" and line.ending[1] in "DH" and one.response_whole:
        # HAProxy went before the server's end.
        found.allowed |= {"response_aborted", "response_missing"}
        found.response = UNKNOWN
    if line and is_its and line.ending != "--":
        found.allowed |= {"request_aborted"}
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
