"""nginx, the Python and the Node application, and HAProxy: how each is started, and what each says it did."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .payload import body, digest
from .process import Child, free_port, listens

HERE = Path(__file__).parent / "servers"


@dataclass(frozen=True)
class Served:
    """A request as the server that answered it tells it. Sizes are of bodies; None: the server cannot tell."""

    id: str
    method: str
    path: str
    peer: str
    status: int | None  # None: it sent no response
    sent: int
    sent_sha: str | None
    got: int | None
    got_sha: str | None
    request_whole: bool
    response_whole: bool
    observable: bool  # the response's body went through the server's memory


def exe(name: str) -> str:
    """The path of an installed program as the kernel sees it. Raises FileNotFoundError."""
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return os.path.realpath(found)


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def certificate(folder: Path) -> Path:
    """A server's certificate that nobody has signed, its key behind it."""
    pem = folder / "server.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days",
               "30", "-subj", "/CN=truth.test", "-keyout", folder / "server.key", "-out", folder / "server.crt"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    pem.write_bytes((folder / "server.crt").read_bytes() + (folder / "server.key").read_bytes())
    return pem


class Nginx:
    """nginx with two workers: texts from memory, files of any size, and a path that is slow. `pem`: it speaks TLS."""

    exe = "nginx"

    def __init__(self, folder: Path, sendfile: bool, sizes: tuple[int, ...], pem: Path | None = None) -> None:
        self.port, self.folder, self.sendfile = free_port(), folder, sendfile
        self.log = folder / "access.log"
        files = folder / "www"
        files.mkdir()
        for size in sizes:
            (files / str(size)).write_bytes(body(f"file {size}", size))
        # The workers run as somebody else.
        folder.chmod(0o755)
        kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        tls = f"ssl_certificate {pem}; ssl_certificate_key {pem};" if pem else ""
        config = folder / "nginx.conf"
        config.write_text(f"""
            daemon off; user root; pid {folder}/nginx.pid; error_log stderr warn; worker_processes 2;
            events {{ worker_connections 12000; }}
            http {{
                map $http_x_request_id $id {{ "" $request_id; default $http_x_request_id; }}
                log_format truth escape=json '{{"id":"$id","method":"$request_method","path":"$request_uri",'
                    '"peer":"$remote_addr:$remote_port","status":$status,"sent":$body_bytes_sent,'
                    '"done":"$request_completion"}}';
                access_log {self.log} truth;
                keepalive_requests 1000000000; keepalive_timeout 300s; {temporary}
                sendfile {"on" if sendfile else "off"}; client_max_body_size 128m;
                add_header X-Request-Id $id always;
                add_header X-Echo "$request_method $request_uri" always;
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096{" ssl" if pem else ""}; {tls}
                    root {files};
                    location /text/ {{ return 200 "nginx answers $request_uri\\n"; }}
                    location /file/ {{ alias {files}/; }}
                    location /none/204 {{ return 204; }}
                    location /none/304 {{ return 304; }}
                    location /fail/404 {{ return 404 "as asked\\n"; }}
                    location /fail/500 {{ return 500 "as asked\\n"; }}
                }}
            }}
        """)
        self.child = Child("nginx", ["nginx", "-c", config, "-p", folder], folder)
        self.child.wait_until(lambda: listens(self.port) and len(children(self.child.pid)) == 2, "listening")
        self.pids = children(self.child.pid)

    def served(self) -> list[Served]:
        return [self._served(json.loads(line)) for line in self.log.read_text().splitlines()]

    def _served(self, line: dict) -> Served:
        data = self._body(line["path"], line["status"])
        whole = line["done"] == "OK" and line["status"] != 499
        sha = None if data is None or line["sent"] not in (0, len(data)) else digest(data[: line["sent"]])
        return Served(
            line["id"], line["method"], line["path"], line["peer"], None if line["status"] == 499 else line["status"],
            line["sent"], sha, 0, digest(b""), True, whole,
            not (self.sendfile and line["path"].startswith("/file/") and line["status"] == 200 and line["sent"]),
        )  # fmt: skip

    @staticmethod
    def _body(path: str, status: int) -> bytes | None:
        if path.startswith("/text/"):
            return f"nginx answers {path}\n".encode()
        if path.startswith("/file/") and status == 200:
            size = path.split("?")[0].rpartition("/")[2]
            return body(f"file {size}", int(size))
        return b"as asked\n" if path.startswith("/fail/") else b"" if status in (204, 304) else None


class Application:
    """The Python or the Node application."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.port, self.log = free_port(), folder / "application.log"
        self.exe = {"python": "/usr/bin/python3", "node": "node"}[kind]
        script = HERE / {"python": "application.py", "node": "application.js"}[kind]
        self.log.touch()
        self.child = Child("application", [exe(self.exe), script, str(self.port), self.log], folder)
        self.child.wait_until(lambda: listens(self.port), "listening")
        self.pids = {self.child.pid}

    def served(self) -> list[Served]:
        known = Served.__dataclass_fields__
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [Served(**{key: value for key, value in line.items() if key in known}) for line in lines]


@dataclass(frozen=True)
class Logged:
    """A request as HAProxy's log tells it: what `option httplog` has, with both ends of both connections."""

    id: str
    client: str
    front: str
    own: str
    server: str
    method: str
    path: str
    status: int
    uploaded: int
    read: int
    request_ms: int  # TR
    queue_ms: int  # Tw
    connect_ms: int  # Tc
    response_ms: int  # Tr
    active_ms: int  # Ta
    data_ms: int  # Td
    ending: str
    retries: int
    server_name: str


FIELDS = "%[var(txn.id)]|%ci:%cp|%fi:%fp|%bi:%bp|%si:%sp|%HM|%HU|%ST|%U|%B|%TR|%Tw|%Tc|%Tr|%Ta|%Td|%ts|%rc|%s"


class Syslog:
    """Reads HAProxy's log from a UDP port of its own."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), 512 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.lines: list[bytes] = []
        self.ended = False
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            line = self.socket.recv(65536)
            if line == b"end":
                return
            if b"truth|" in line:
                self.lines.append(line)

    def close(self) -> None:
        """All that was sent before is in `lines` afterwards."""
        if not self.ended:
            self.ended = True
            self.socket.sendto(b"end", self.socket.getsockname())
            self.thread.join()
            self.socket.close()


class Haproxy:
    """HAProxy in front of one server, or of what `servers` (lines of its backend) says."""

    exe = "haproxy"

    def __init__(self, folder: Path, servers: str, extra: dict[str, str], pem: Path | None = None) -> None:
        """`extra`: lines for the sections `defaults`, `frontend` and `backend`. `pem`: its clients speak TLS."""
        self.port, self.syslog = free_port(), Syslog()
        config = folder / "haproxy.cfg"
        config.write_text(f"""
global
    log 127.0.0.1:{self.syslog.port} len 8192 local0
    maxconn 11000
    no strict-limits
defaults
    mode http
    log global
    timeout connect 3s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 300s
    timeout tunnel 60s
    {extra.get("defaults", "")}
frontend front
    bind 127.0.0.1:{self.port} backlog 4096{f" ssl crt {pem} alpn h2,http/1.1" if pem else ""}
    unique-id-format %pid-%rt
    log-format "truth|{FIELDS}"
    http-request set-var(txn.id) req.hdr(x-request-id)
    http-request set-var(txn.id) unique-id unless {{ req.hdr(x-request-id) -m found }}
    http-request set-header X-Request-Id %[var(txn.id)]
    http-after-response set-header X-Request-Id %[var(txn.id)]
    {extra.get("frontend", "")}
    default_backend back
backend back
    {extra.get("backend", "")}
    {servers}
""")
        self.child = Child("haproxy", ["haproxy", "-db", "-f", config], folder)
        self.child.wait_until(lambda: listens(self.port), "listening")
        self.pids = {self.child.pid}

    def logged(self) -> list[Logged]:
        """Its lines so far, oldest first."""
        return [self._logged(line.decode("latin-1").rpartition("truth|")[2].rstrip("\n")) for line in self.syslog.lines]

    @staticmethod
    def _logged(text: str) -> Logged:
        part = text.split("|")
        numbers = [int(re.sub(r"^\+", "", number)) for number in part[7:16]]
        return Logged(*part[:7], *numbers, part[16], int(part[17].lstrip("+")), part[18])  # type: ignore[arg-type]

    def wait_logged(self, count: int, limit: float = 10.0) -> None:
        """Until it has logged so many requests, or no more come."""
        deadline = time.monotonic() + limit
        while len(self.syslog.lines) < count and time.monotonic() < deadline:
            time.sleep(0.01)
