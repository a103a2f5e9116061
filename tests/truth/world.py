"""One cell's world: its servers, its agent, and the requests that its clients made."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import tools
from .agent import Agent, Recorded
from .payload import body, digest
from .process import Child, Failed, free_port
from .servers import Application, Haproxy, Logged, Nginx, Served, certificate, exe
from .wire import Connection, Ended, Reply


@dataclass
class Made:
    """A request as the client that made it tells it."""

    id: str
    method: str
    path: str
    local: str
    sent: int = 0
    sent_sha: str = ""
    status: int | None = None  # None: no response came
    got: int = 0
    got_sha: str = ""
    whole: bool = False  # the response was
    is_continued: bool = False  # by an interim response
    is_behind: bool = False  # sent before those on the same connection before it were answered
    began: float = 0.0  # when the client sent it, monotonic seconds
    elapsed_ms: float | None = None  # until the client had read the response's end


@dataclass(frozen=True)
class Setting:
    """What a world is made of."""

    proxy: bool
    server: str  # nginx, python or node
    path: str  # socket or syscall
    sizes: tuple[int, ...] = ()
    sendfile: bool = False
    servers: str = "server one 127.0.0.1:{port}"  # lines of HAProxy's backend; {port}, {closed}
    splice: bool = False  # HAProxy may splice
    extra: dict[str, str] = field(default_factory=dict)  # further lines of HAProxy's sections
    arguments: tuple[str, ...] = ()  # for sidetap
    level: str = "full"
    max_body: int = 4 << 20
    tls: str = ""  # "front": between clients and HAProxy; "back": between HAProxy and nginx; "both"

    def is_tls(self, place: str) -> bool:
        return self.tls in (place, "both")


class World:
    """Servers that run while the block it is opened for does; agents come and go."""

    def __init__(self, setting: Setting, folder: Path, binary: str) -> None:
        self.setting, self.folder, self.binary = setting, folder, binary
        self.made: list[Made] = []
        self.answered = 0  # as counted by clients that do not tell of each request
        self.times: tools.Times | None = None  # as measured by those
        self.is_pipelined = False  # by those
        self.recorded = Recorded()
        self.agent: Agent | None = None
        self.pool: dict[int, Connection] = {}
        self.round = "a"
        self._count = 0
        self.links: list[Connection] = []  # whose bytes were all read, and which were closed while the agent was there
        self.clients_killed = False  # requests may be cut where the client's time was up
        self.haproxy: Haproxy | None = None
        self.tls: ssl.SSLContext | None = None
        if setting.is_tls("front"):
            # Nobody has signed the certificate.
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        pem = certificate(folder) if setting.tls else None
        self.server: Nginx | Application
        if setting.server == "nginx":
            self.server = Nginx(folder, setting.sendfile, setting.sizes, pem if setting.is_tls("back") else None)
        else:
            self.server = Application(folder, setting.server)
        if setting.proxy:
            closed = _closed_port()
            servers = setting.servers.format(port=self.server.port, closed=closed)
            servers += " ssl verify none" if setting.is_tls("back") else ""
            extra = dict(setting.extra)
            if setting.splice:
                extra["defaults"] = "option splice-auto\n    " + extra.get("defaults", "")
            self.haproxy = Haproxy(folder, servers, extra, pem if self.tls else None)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.pool.values():
            connection.close()
        children: list[Child] = [self.server.child]
        if self.haproxy:
            children.insert(0, self.haproxy.child)
            self.haproxy.syslog.close()
        if self.agent:
            children.insert(0, self.agent.child)
        for child in children:
            child.end(limit=5)

    @property
    def front(self) -> int:
        """The port that clients ask."""
        return self.haproxy.port if self.haproxy else self.server.port

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.front}"

    @property
    def watched(self) -> set[int]:
        return self.haproxy.pids if self.haproxy else self.server.pids

    def start_agent(self) -> None:
        watched = exe(self.haproxy.exe if self.haproxy else self.server.exe)
        setting = self.setting
        self.agent = Agent(self.binary, self.folder, [watched], setting.path, list(setting.arguments),
                           setting.level, setting.max_body)  # fmt: skip

    def stop_agent(self) -> None:
        assert self.agent is not None
        agent, self.agent = self.agent, None
        self.recorded.add(agent.stop(self.watched))

    def logged(self) -> list[Logged]:
        return self.haproxy.logged() if self.haproxy else []

    def served(self) -> list[Served]:
        return self.server.served()

    # What shapes are made of.

    def id(self) -> str:
        self._count += 1
        return f"{self.round}-{self._count}"

    def connection(self, key: int = 0, **options: float | int) -> Connection:
        """The connection of that key, opened where there is none, so that shapes can be run again on the same ones."""
        if key not in self.pool or self.pool[key].closed:
            if key in self.pool:
                self._spent(self.pool[key])
            self.pool[key] = Connection(self.front, tls=self.tls, **options)  # type: ignore[arg-type]
        return self.pool[key]

    @contextlib.contextmanager
    def fresh(self, **options: float | int) -> Iterator[Connection]:
        """A connection of its own, closed afterwards."""
        connection = Connection(self.front, tls=self.tls, **options)  # type: ignore[arg-type]
        try:
            yield connection
        finally:
            self._spent(connection)

    def close_pool(self) -> None:
        """Closes the connections that shapes would find again."""
        while self.pool:
            self._spent(self.pool.popitem()[1])

    def _spent(self, connection: Connection) -> None:
        if not connection.closed:
            connection.close()
        # In TLS a client does not know how many bytes went over the wire.
        if connection.clean and self.agent and not self.tls:
            self.links.append(connection)

    def request(self, method: str, path: str, connection: Connection, data: bytes = b"", chunk: int = 0,
                headers: tuple[str, ...] = ()) -> tuple[Made, bytes, bytes]:  # fmt: skip
        """A request that is noted as made: the note, its head, and its body as framed. `chunk`: size of the chunks."""
        made = Made(self.id(), method, path, connection.local, len(data), digest(data), began=time.monotonic())
        self.made.append(made)
        lines = [f"{method} {path} HTTP/1.1", "Host: truth.test", f"X-Request-Id: {made.id}", *headers]
        framed = data
        if chunk:
            lines.append("Transfer-Encoding: chunked")
            parts = [data[at : at + chunk] for at in range(0, len(data), chunk)]
            framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        elif data or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(data)}")
        return made, ("\r\n".join(lines) + "\r\n\r\n").encode(), framed

    def answer(self, connection: Connection, made: Made, **reading: float | int) -> Reply | None:
        """Reads the response to it; None where it is cut."""
        try:
            reply = connection.reply(made.method, **reading)  # type: ignore[arg-type]
        except Ended as ended:
            made.status, made.got, made.got_sha = ended.status, len(ended.so_far), digest(ended.so_far)
            connection.clean = False
            connection.close()
            return None
        made.is_continued |= bool(reply.interim)
        made.elapsed_ms = (time.monotonic() - made.began) * 1000
        made.status, made.got, made.got_sha, made.whole = reply.status, len(reply.body), digest(reply.body), True
        if reply.headers.get("connection", "").lower() == "close":
            connection.close()
        return reply

    def ask(self, method: str, path: str, data: bytes = b"", connection: Connection | None = None, chunk: int = 0,
            piece: int = 0, pause: float = 0.0, headers: tuple[str, ...] = (), **reading: float | int) -> Made:  # fmt: skip
        """One request and its response, on the usual connection unless told otherwise."""
        connection = connection or self.connection()
        made, head, framed = self.request(method, path, connection, data, chunk, headers)
        connection.send(head + framed, piece, pause)
        self.answer(connection, made, **reading)
        return made

    def curl(self, method: str, path: str, data: bytes = b"", *arguments: str) -> None:
        made = Made(self.id(), method, path, "", len(data), digest(data))
        made.is_continued = any("100-continue" in argument for argument in arguments)
        options = ["-X", method] if method != "HEAD" else ["--head"]
        if data:
            upload = self.folder / "upload"
            upload.write_bytes(data)
            options += ["--data-binary", f"@{upload}"]
        url = f"{self.origin}{path}"
        done = tools.curl(self.folder, url, "-k", "--http1.1", "-H", f"X-Request-Id: {made.id}", *options, *arguments)
        made.status, made.local, made.whole = done.status, done.local, True
        content = b"" if method == "HEAD" else done.body
        made.got, made.got_sha = len(content), digest(content)
        self.made.append(made)

    def wrk(self, path: str, connections: int, seconds: int) -> None:
        self.clients_killed = True
        self.answered += tools.wrk(self.folder, self.front, self.round, path, connections, seconds)

    def h2load(self, path: str, connections: int, requests: int, deep: int = 1) -> None:
        self.is_pipelined = deep > 1
        self.times = tools.h2load(self.folder, self.origin, path, connections, requests, deep)
        self.answered += requests

    def upload(self, size: int) -> bytes:
        return body(f"upload {self.round} {self._count}", size)


def _closed_port() -> int:
    """A port where connects are refused."""
    port = free_port()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        raise Failed(f"port {port} is open")
    return port
