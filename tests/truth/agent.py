"""sidetap: started as a user would, and what it recorded, reduced to what can be compared."""

import base64
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .payload import digest
from .process import Child


@dataclass(frozen=True)
class Part:
    """A body as recorded: bytes on the wire, and the SHA-256 of what was kept; None where nothing was."""

    size: int
    sha: str | None


@dataclass(frozen=True)
class Seen:
    """A transaction as sidetap wrote it."""

    id: str  # of the request's header, else of the response's
    connection: str  # sidetap's number of it
    other_id: str | None  # of the response's header, where both have one
    side: str  # ingress or egress
    pid: int
    method: str | None
    path: str | None
    echo: str | None  # what the server says that it answers to: method and path
    status: int | None
    source: str
    destination: str
    request: Part
    response: Part
    duration_ms: float | None
    ttfb_ms: float | None
    incomplete: tuple[str, ...]
    bytes_sent: int
    bytes_received: int
    headers: tuple[int, int]  # how many, of request and response
    hops: tuple[int, int]  # bytes of their `Connection` headers, names and values
    framing: tuple[bool, bool]  # whether they are chunked
    is_tls: bool

    def marks(self) -> set[str]:
        """The names in `incomplete`, without their numbers."""
        return {mark.partition(":")[0] for mark in self.incomplete}


@dataclass(frozen=True)
class Link:
    """A connection as sidetap wrote it last."""

    id: str
    source: str
    destination: str
    pid: int
    sent: int
    received: int
    lost: int  # bytes of both
    is_closed: bool


@dataclass
class Recorded:
    """All that an agent wrote."""

    seen: list[Seen] = field(default_factory=list)
    links: dict[str, Link] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Recorded") -> None:
        self.seen += other.seen
        self.links |= other.links
        for key, value in other.counters.items():
            self.counters[key] = self.counters.get(key, 0) + value


class Agent:
    """Watches some executables with `level: full`."""

    def __init__(self, binary: str, folder: Path, executables: list[str], capture_path: str, arguments: list[str],
                 level: str = "full", max_body: int = 4 << 20) -> None:  # fmt: skip
        only = "".join(f"      - {{exe: {path}, strategy: exact}}\n" for path in executables)
        config = folder / "sidetap.yaml"
        config.write_text(f"""
version: 2
services:
  event_stores: [{{type: stdout}}]
  object_stores: [{{type: stdout}}]
stacks:
  truth:
    plugins:
      - {{type: http_capture, config: {{level: {level}, format: json, max_body_bytes: {max_body}}}}}
tap:
  direction: all
  ignore_loopback: false
  http: {{stack: truth}}
  filters:
    only:
{only}""")
        command = [binary, "--config", config, "--capture-path", capture_path, "--docker-socket", "",
                   "--containerd-socket", "", "--cri-socket", "", *arguments]  # fmt: skip
        self.child = Child("sidetap", command, folder)
        self.child.wait_until(lambda: "capturing" in self.child.err.read_text(), "capturing", 60)
        self.peak = 0

    def end(self) -> dict[str, int]:
        """Ends it. What it counted."""
        status = self.child.end(signal.SIGINT, 60)
        text = self.child.err.read_text(errors="replace")
        if status != 0 or "panicked" in text:
            raise RuntimeError(f"sidetap ended with exit status {status}:\n{text[-2000:]}")
        if "did not take its last records" in text:
            raise RuntimeError(f"sidetap gave up what its store had not written:\n{text[-2000:]}")
        counted = re.findall(r"counters (.*)", text)
        if not counted:
            raise RuntimeError(f"sidetap's last words hold no counters:\n{text[-2000:]}")
        return {key: int(value) for key, value in re.findall(r"([\w.]+)=(\d+)", counted[-1])}

    def stop(self, pids: set[int]) -> Recorded:
        """Ends it, and reads what it wrote of these processes."""
        recorded = Recorded(counters=self.end())
        for record in _records(self.child.out):
            if record["type"] == "http_transaction":
                if int(record["metadata"]["process_id"]) in pids:
                    recorded.seen.append(_seen(record))
            elif record["type"] == "connection":
                link = _link(record)
                if link.pid in pids:
                    recorded.links[link.id] = link
        return recorded


def _records(path: Path) -> Iterator[dict]:
    with path.open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def _end(record: dict, name: str) -> str:
    end = record.get(name, {})
    return f"{end['ip']}:{end['port']}" if "ip" in end else end.get("path", "")


def _seen(record: dict) -> Seen:
    request, response = record.get("request") or {}, record.get("response") or {}
    ids = [_header(side, "x-request-id") for side in (request, response)]
    path = request.get("path")
    if path is not None and "query" in request:
        path = f"{path}?{request['query']}"
    return Seen(
        id=ids[0] or ids[1] or "-",
        connection=record["metadata"]["connection_id"],
        other_id=ids[1] if ids[0] else None,
        side="ingress" if record["direction"] == "ingress" else "egress",
        pid=int(record["metadata"]["process_id"]),
        method=request.get("method"),
        path=path,
        echo=_header(response, "x-echo"),
        status=response.get("status"),
        source=_end(record, "source"),
        destination=_end(record, "destination"),
        request=_part(request),
        response=_part(response),
        duration_ms=record.get("duration_ms"),
        ttfb_ms=record.get("ttfb_ms"),
        incomplete=tuple(record.get("incomplete", ())),
        bytes_sent=record["metadata"].get("bytes_sent", 0),
        bytes_received=record["metadata"].get("bytes_received", 0),
        headers=(len(request.get("headers", ())), len(response.get("headers", ()))),
        hops=(_hop(request), _hop(response)),
        framing=(_header(request, "transfer-encoding") is not None, _header(response, "transfer-encoding") is not None),
        is_tls="tls" in record,
    )


def _header(message: dict, name: str) -> str | None:
    for key, value in message.get("headers", {}).items():
        if key.lower() == name:
            return value
    return None


def _hop(message: dict) -> int:
    value = _header(message, "connection")
    return 0 if value is None else len("connection") + len(value)


def _part(message: dict) -> Part:
    size = message.get("body_bytes", 0)
    if "body" not in message:
        return Part(size, digest(b"") if size == 0 else None)
    text = message["body"]
    data = base64.b64decode(text) if message["body_encoding"] == "base64" else text.encode()
    return Part(size, digest(data))


def _link(record: dict) -> Link:
    owner = [record.get(end, {}).get("process", {}).get("pid") for end in ("source", "destination")]
    return Link(
        record["connection_id"], _end(record, "source"), _end(record, "destination"),
        next((pid for pid in owner if pid), 0), record["bytes_sent"], record["bytes_received"],
        record.get("bytes_lost", 0), record["finalized"],
    )  # fmt: skip
