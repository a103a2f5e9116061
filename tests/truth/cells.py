"""The register: which shape meets which server, client, capture path, join and load.

To add a shape: write it in `shapes.py`, then a row in SHAPES. Each row becomes a cell for each capture path. The rest of
the matrix (other servers, sizes, joins, loads, losses) are rows that name what they differ in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import shapes
from .shapes import Shape
from .world import Setting

PATHS = ("socket", "syscall")
MIB = 1 << 20


@dataclass(frozen=True)
class Cell:
    """One combination. `name` is SERVERS/SHAPE/CLIENT, with what else there is, and the capture path at its end."""

    name: str
    shape: Shape
    setting: Setting
    client: str = "raw"
    join: str = "first"  # first: the agent is; midway; restarted
    load: str = "light"  # light, bulk, many, full, neighbours, stopped
    losses: bool = False  # made on purpose
    is_busy: bool = False  # HAProxy is, so that a turn of its loop takes milliseconds
    allowed: frozenset[str] = frozenset()  # what any transaction may have in `incomplete`
    short: bool = True  # belongs to the short form

    def timed(self) -> str:
        """Which of HAProxy's timers are right, since it reads its clock once in each turn of its loop: "each"; "most" where
        many ask at once; "none" where one turn takes as long as hundreds of requests, or as its neighbours let it. Such a
        neighbour is an agent that catches up with its losses, ahead of HAProxy: most of what is seen is of that time."""
        if self.load in ("many", "neighbours") or self.losses:
            return "none"
        return "most" if self.is_busy or self.load not in ("light", "bulk") else "each"

    def is_alone(self) -> bool:
        """Whether it needs servers and an agent of its own."""
        return self.join != "first" or self.load != "light" or any(f"/{name}/" in self.name for name in ALONE)


PYTHON = Setting(proxy=True, server="python", path="")
NGINX = Setting(proxy=True, server="nginx", path="")
TIMES_OUT = {"defaults": "timeout server 150ms\n    timeout client 150ms\n    timeout http-request 150ms"}
OWN_ANSWERS = {
    "frontend": "http-request deny deny_status 403 if { path /deny }\n"
    "    http-request redirect location /elsewhere if { path /redirect }\n"
    '    http-request return status 200 content-type text/plain string "own" if { path /own }'
}
DEAD_FIRST = "balance roundrobin\n    server dead 127.0.0.1:{closed}\n    server one 127.0.0.1:{port}"
RETRY = {"backend": "retry-on all-retryable-errors\n    retries 2"}
REDISPATCH = {"defaults": "option redispatch 1\n    retries 3\n    timeout connect 200ms"}

# Shape, its function, and the settings it is run in.
SHAPES: list[tuple[str, Shape, list[Setting]]] = [
    ("keep-alive", shapes.keep_alive, [NGINX, PYTHON]),
    ("close", shapes.close, [NGINX, PYTHON]),
    ("pipelined-8", shapes.pipelined(8), [NGINX, PYTHON]),
    ("pipelined-100", shapes.pipelined(100), [NGINX, PYTHON]),
    ("chunked-up", shapes.chunked_up, [PYTHON]),
    ("chunked-down", shapes.chunked_down, [PYTHON]),
    ("until-close", shapes.until_close, [PYTHON]),
    ("head", shapes.head, [NGINX, PYTHON]),
    ("bodiless", shapes.bodiless, [NGINX, PYTHON]),
    ("statuses", shapes.statuses, [NGINX, PYTHON]),
    ("100-continue", shapes.continued, [PYTHON]),
    ("upgrade", shapes.upgrade, [PYTHON]),
    ("slow-bodies", shapes.slow_bodies, [PYTHON]),
    ("single-bytes", shapes.single_bytes, [PYTHON]),
    ("aborted", shapes.aborted, [replace(PYTHON, extra={"defaults": "option abortonclose"})]),
    ("server-timeout", shapes.server_times_out, [replace(PYTHON, extra=TIMES_OUT)]),
    ("client-timeout", shapes.client_times_out, [replace(PYTHON, extra=TIMES_OUT)]),
    ("backend-down", shapes.down, [replace(PYTHON, servers="server one 127.0.0.1:{closed}")]),
    ("own-answers", shapes.denied, [replace(PYTHON, extra=OWN_ANSWERS)]),
    ("retried", shapes.retried, [replace(PYTHON, extra=RETRY)]),
    ("redispatched", shapes.redispatched, [replace(PYTHON, servers=DEAD_FIRST, extra=REDISPATCH)]),
    ("cut", shapes.cut, [PYTHON]),
    ("killed", shapes.killed, [PYTHON]),
    ("early-answer", shapes.early, [PYTHON]),
    ("crowd", shapes.crowd, [PYTHON]),
]
# These end their server, or have requests without an id.
ALONE = ("killed", "client-timeout")
# Several clients ask at once.
BUSY = ("crowd",)


def cells() -> list[Cell]:
    """All of them, in the order in which they run."""
    found = []
    for path in PATHS:
        found += [replace(cell, setting=replace(cell.setting, path=path), name=f"{cell.name}/{path}") for cell in _all()]
    return found


def _all() -> Iterator[Cell]:
    for name, shape, settings in SHAPES:
        for setting in settings:
            yield Cell(f"{_servers(setting)}/{name}/raw", shape, setting, is_busy=name in BUSY)
    for chain in (NGINX, PYTHON):
        yield Cell(f"{_servers(chain)}/single/curl", shapes.curled, chain, client="curl")
    yield from _alone()
    yield from _sized()
    yield from _joined()
    yield from _loaded()
    yield from _in_tls()


def _servers(setting: Setting) -> str:
    name = f"haproxy+{setting.server}" if setting.proxy else setting.server
    return f"{name}+tls-{setting.tls}" if setting.tls else name


def _alone() -> Iterator[Cell]:
    """Servers without HAProxy: watched themselves."""
    wanted = {
        "nginx": ["keep-alive", "close", "pipelined-8", "pipelined-100", "head", "bodiless", "statuses"],
        "python": ["keep-alive", "close", "pipelined-100", "chunked-up", "chunked-down", "until-close", "head",
                   "100-continue", "upgrade", "slow-bodies", "single-bytes", "aborted", "cut", "crowd"],
        "node": ["keep-alive", "close", "pipelined-8", "chunked-up", "chunked-down", "head", "bodiless", "statuses",
                 "100-continue", "crowd"],
    }  # fmt: skip
    functions = {name: shape for name, shape, _ in SHAPES}
    for server, names in wanted.items():
        setting = Setting(proxy=False, server=server, path="")
        for name in names:
            yield Cell(f"{server}/{name}/raw", functions[name], setting)
        yield Cell(f"{server}/single/curl", shapes.curled, setting, client="curl")


def _in_tls() -> Iterator[Cell]:
    """TLS between clients and HAProxy, between HAProxy and nginx, and both."""
    wanted = {
        "front": (PYTHON, ["keep-alive", "close", "chunked-up", "chunked-down", "until-close", "head", "crowd"]),
        "back": (NGINX, ["keep-alive", "close", "head"]),
        "both": (NGINX, ["keep-alive", "close", "pipelined-8", "head"]),
    }
    functions = {name: shape for name, shape, _ in SHAPES}
    for place, (base, names) in wanted.items():
        setting = replace(base, tls=place)
        for name in names:
            yield Cell(f"{_servers(setting)}/{name}/raw", functions[name], setting, is_busy=name in BUSY)
        # It decrypts an upload in one turn.
        yield Cell(f"{_servers(setting)}/single/curl", shapes.curled, setting, client="curl", is_busy=True)
    both = replace(NGINX, tls="both")
    yield Cell(f"{_servers(both)}/load/h2load", shapes.h2load(1), both, client="h2load", load="full")


def _sized() -> Iterator[Cell]:
    small = (0, 1, 100, 16_383, 32_767, 32_768, 65_536, 1_000_000, 16 * MIB)
    plans = [("sizes", small, ("--memory-limit", "512"), True),
             ("64-MiB", (64 * MIB,), ("--memory-limit", "2048"), False)]  # fmt: skip
    for name, sizes, arguments, short in plans:
        base = Setting(proxy=True, server="nginx", path="", sizes=sizes, arguments=arguments, max_body=100 * MIB)
        python = replace(base, server="python")
        rows = [
            ("raw", shapes.sizes, base),
            ("raw+splice", shapes.sizes, replace(base, splice=True)),
            ("raw", shapes.sizes, python),
            ("raw", shapes.uploads, python),
            ("raw+splice", shapes.uploads, replace(python, splice=True)),
            ("raw", shapes.sizes, replace(base, proxy=False)),
            ("raw+sendfile", shapes.sizes, replace(base, proxy=False, sendfile=True)),
            ("raw", shapes.uploads, replace(python, proxy=False)),
        ]
        for client, shape, setting in rows:
            up = "-up" if shape is shapes.uploads else ""
            yield Cell(f"{_servers(setting)}/{name}{up}/{client}", shape, setting, load="bulk", short=short)


def _joined() -> Iterator[Cell]:
    nginx, python = (Setting(proxy=False, server=server, path="") for server in ("nginx", "python"))
    plans = [("keep-alive", shapes.keep_alive, [NGINX, PYTHON, nginx, python]),
             ("pipelined-8", shapes.pipelined(8), [NGINX, nginx]),
             ("chunked-up", shapes.chunked_up, [PYTHON, python]),
             ("crowd", shapes.crowd, [PYTHON])]  # fmt: skip
    for join in ("midway", "restarted"):
        for name, shape, settings in plans:
            for setting in settings:
                pipelined = "pipelined" in name
                # A response to a request from before the agent may come first; which is whose, nobody can tell.
                allowed = frozenset({"pairing_uncertain"} if pipelined else ())
                yield Cell(f"{_servers(setting)}/{name}/raw+{join}", shape, setting, join=join, is_busy=name in BUSY,
                           allowed=allowed)  # fmt: skip


def _loaded() -> Iterator[Cell]:
    alone = Setting(proxy=False, server="nginx", path="")
    yield Cell("haproxy+nginx/load/wrk", shapes.wrk, NGINX, client="wrk", load="full")
    yield Cell("nginx/load/wrk", shapes.wrk, alone, client="wrk", load="full")
    for name, deep in [("load", 1), ("load-pipelined-8", 8)]:
        cell = Cell(f"haproxy+nginx/{name}/h2load", shapes.h2load(deep), NGINX, client="h2load", load="full")
        yield cell
        yield replace(cell, name=f"nginx/{name}/h2load", setting=alone)
    yield Cell("haproxy+nginx/1000-connections/raw", shapes.many_connections(1000), NGINX, load="many")
    yield Cell("haproxy+nginx/10000-connections/raw", shapes.many_connections(10_000), NGINX, load="many", short=False)
    yield Cell("haproxy+nginx/load/wrk+neighbours", shapes.wrk, NGINX, client="wrk", load="neighbours")
    large = replace(NGINX, arguments=("--buffer-size", "131072"))
    yield Cell("haproxy+nginx/load/wrk+stopped", shapes.wrk, large, client="wrk", load="stopped")
    tiny = replace(NGINX, arguments=("--buffer-size", "16"))
    cell = Cell("haproxy+nginx/load/wrk+stopped+tiny", shapes.wrk, tiny, client="wrk", load="stopped", losses=True)
    yield cell
    yield replace(cell, name="nginx/load/wrk+stopped+tiny", setting=replace(tiny, proxy=False))
    yield replace(cell, name="haproxy+nginx/load-pipelined-8/h2load+stopped+tiny", shape=shapes.h2load(8),
                  client="h2load")  # fmt: skip
    sized = replace(tiny, server="python", arguments=("--buffer-size", "64"))
    yield Cell("haproxy+python/crowd/raw+stopped+tiny", shapes.crowd, sized, load="stopped", losses=True)
