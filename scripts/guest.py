#!/usr/bin/env python3
"""What scripts/test-kernels runs in its virtual machine: sidetap on the kernel there, against requests that are counted.

HAProxy stands in front of a backend; curl, nghttp and a client that pipelines ask it. On every capture path the kernel
has, with summaries and with whole bodies, each request must be recorded four times and no more: by its client, by
HAProxy on both of its sides, and by the backend, each with the right process, and the same as HAProxy's own log has it.
With HTTP/2, many at once on a connection, HAProxy asks itself before it asks the backend: six times. So it does within
TLS, with the certificate and key in FOLDER/server.pem: by curl and by HAProxy on both of its sides, in the clear.

usage: guest.py SIDETAP FOLDER
Results go to FOLDER, too: `result.json`, the logs of a run that failed, and `done`, which says `passed` or `failed`.
"""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

FRONT, BACK = 8080, 8081
# HTTP/2: where clients ask HAProxy, and where it asks itself.
FRONT2, WITHIN = 8082, 8083
# The same with TLS.
FRONT3, WITHIN3 = 8084, 8085
# What requests are counted as, and what each is called.
KINDS = {"http1": "HTTP/1", "http2": "HTTP/2", "tls": "TLS"}
# Emulated, everything takes fifty times as long.
PATIENCE = 60


def say(text):
    """To the console, from where scripts/test-kernels hands on lines that begin so."""
    for line in str(text).splitlines():
        print("guest:", line, flush=True)


def text_of(seed, size):
    """A body that no other has a part of: `size` bytes of text."""
    pieces = (hashlib.sha256(f"{seed}/{i}".encode()).hexdigest() for i in range(size // 64 + 1))
    return "".join(pieces).encode()[:size]


def binary_of(seed, size):
    """The same, and no UTF-8."""
    return b"\xff\x00" + bytes.fromhex(text_of(seed, 2 * size).decode())[: size - 2]


class Backend(http.server.BaseHTTPRequestHandler):
    """`/text/SIZE/ID` and `/binary/SIZE/ID` answer with that body, `/echo/ID` with the request's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65536

    def do_GET(self):
        kind, size, name = self.path.split("/")[1:]
        if kind == "missing":
            return self.answer(404, b"no such thing\n")
        return self.answer(200, (text_of if kind == "text" else binary_of)(name, int(size)))

    do_HEAD = do_GET

    def do_POST(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.answer(200, self.rfile.read(int(self.headers["Content-Length"])))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return self.answer(200, body)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Request:
    def __init__(self, name, path, method="GET", body=b"", chunked=False, status=200, answer=b""):
        self.name, self.path, self.method, self.body = name, f"{path}/{name}", method, body
        self.chunked, self.status, self.answer = chunked, status, answer
        self.protocol = "http1"  # of the client
        self.tls = None  # its version on the client's connection
        self.client = None  # (process, PID)
        # Of HTTP/1: bytes of the answer, its head included, as the client counts them; of HTTP/2: the client's stream.
        self.received = self.stream = 0

    def recorded(self, scene):
        """Who is to record it: what `sides` says of each record, sorted."""
        haproxy, backend = ("haproxy", scene.haproxy.pid), ("python3", scene.backend.pid)
        asked = [("egress", *self.client, self.protocol), ("ingress", *haproxy, self.protocol)]
        # To itself it says the same within TLS as to the backend, and in HTTP/2 what it was asked.
        within = "http1" if self.tls else self.protocol
        if self.kind() != "http1":
            asked += [("ingress", *haproxy, within), ("egress", *haproxy, within)]
        return sorted(asked + [("egress", *haproxy, "http1"), ("ingress", *backend, "http1")])

    def kind(self):
        """Where it counts."""
        return "tls" if self.tls else self.protocol


def requests(run):
    """What is asked in one run, in groups, each on one connection: by curl, pipelined, and at once with HTTP/2."""
    number = iter(range(1000))

    def name():
        return f"{run}-{next(number)}"

    def get(kind, size):
        id = name()
        return Request(id, f"/{kind}/{size}", answer=(text_of if kind == "text" else binary_of)(id, size))

    def post(make, size, chunked=False):
        id = name()
        body = make(id, size)
        return Request(id, "/echo", "POST", body, chunked, answer=body)

    def head():
        return Request(name(), "/text/777", "HEAD")

    def missing():
        return Request(name(), "/missing/0", status=404, answer=b"no such thing\n")

    kept_alive = [get("text", 200 + i) for i in range(16)]
    alone = [[get("text", 0)], [get("binary", 5000)], [post(text_of, 10)], [post(binary_of, 4000)], [head()], [missing()]]
    large = [[get("text", 40_000)], [get("binary", 300_000)], [post(text_of, 70_000)], [post(binary_of, 300_000)]]
    chunked = [[post(text_of, 3000, chunked=True)], [post(binary_of, 50_000, chunked=True)]]
    pipelined = [[get("text", 100 * i) for i in range(1, 9)], [get("binary", 3000 + i) for i in range(8)]]
    got = [get("text", 100 * i) for i in range(8)] + [missing(), get("binary", 90_000), get("text", 40_000)]
    body = binary_of(run, 90_000)
    posted = [Request(name(), "/echo", "POST", body, answer=body) for _ in range(3)]
    sealed = []
    for version, protocol in (("1.3", "http1"), ("1.2", "http1"), ("1.3", "http2")):
        group = [get("text", 200), post(binary_of, 3000), get("binary", 40_000), missing()]
        for place, request in enumerate(group):
            request.tls, request.protocol, request.stream = version, protocol, 2 * place + 1
        sealed.append(group)
    return [kept_alive, *alone, *large, *chunked], pipelined, [got, posted], sealed


def curl(group, folder):
    """Asks for the whole group with one curl, on one connection."""
    command, base, options = ["curl"], f"http://127.0.0.1:{FRONT}", []
    if version := group[0].tls:
        base, options = f"https://127.0.0.1:{FRONT3}", ["--insecure", "--tls-max", version]
        options.append("--http2" if group[0].protocol == "http2" else "--http1.1")
    for request in group:
        if request is not group[0]:
            command.append("--next")
        command += ["-sS", *options, "--max-time", str(PATIENCE), "-w", "%{size_header} %{size_download}\n"]
        command += ["-o", str(folder / request.name), base + request.path]
        if request.method == "HEAD":
            command.append("-I")
        if request.method == "POST":
            file = folder / f"{request.name}.body"
            file.write_bytes(request.body)
            command += ["--data-binary", f"@{file}", "-H", "Content-Type: application/octet-stream"]
        if request.chunked:
            command += ["-H", "Transfer-Encoding: chunked"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sizes, errors = process.communicate()
    assert process.returncode == 0, f"curl failed: {errors}"
    for request, size in zip(group, sizes.splitlines(), strict=True):
        request.client = ("curl", process.pid)
        request.received = sum(map(int, size.split()))
        got = (folder / request.name).read_bytes()
        assert request.method == "HEAD" or got == request.answer, f"curl got another answer to {request.path}"


def pipeline(group):
    """Sends the whole group before it reads the first answer."""
    with socket.create_connection(("127.0.0.1", FRONT), PATIENCE) as connection:
        connection.sendall(b"".join(f"GET {r.path} HTTP/1.1\r\nHost: pipelined\r\n\r\n".encode() for r in group))
        answers = connection.makefile("rb")
        for request in group:
            request.client = ("python3", os.getpid())
            head = b"".join(iter(answers.readline, b"\r\n"))
            request.received = len(head) + 2 + len(request.answer)
            assert answers.read(len(request.answer)) == request.answer, f"another answer to {request.path}"


def multiplex(group, folder):
    """Asks for the whole group at once, with HTTP/2, on one connection; all with the same body."""
    command = ["nghttp", "--null-out", "--stat", f"--timeout={PATIENCE}"]
    if group[0].body:
        file = folder / f"{group[0].name}.body"
        file.write_bytes(group[0].body)
        command.append(f"--data={file}")
    command += [f"http://127.0.0.1:{FRONT2}{request.path}" for request in group]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output, errors = process.communicate()
    assert process.returncode == 0, f"nghttp failed: {errors}"
    lines = re.findall(r"^ +(\d+) .* (\d{3}) +\S+ (/\S+)$", output, re.M)
    answers = {path: (int(stream), int(status)) for stream, status, path in lines}
    for request in group:
        request.protocol, request.client = "http2", ("nghttp", process.pid)
        request.stream, status = answers[request.path]
        assert status == request.status, f"nghttp got {status} for {request.path}"


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.1)


class Scene:
    """HAProxy and the backend, which outlive the agents: later ones find connections that are open.

    Not those of TLS: what there is of those from before an agent is another matter."""

    def __init__(self, folder, certificate):
        self.folder = folder
        self.log = folder / "haproxy.log"
        config = folder / "haproxy.cfg"
        config.write_text(
            f"""global
    log stdout format raw local0
    nbthread 1
defaults
    mode http
    log global
    option httplog
    timeout connect {PATIENCE}s
    timeout client {PATIENCE}s
    timeout server {PATIENCE}s
frontend front
    bind 127.0.0.1:{FRONT}
    default_backend back
backend back
    server one 127.0.0.1:{BACK}
frontend front2
    bind 127.0.0.1:{FRONT2} proto h2
    default_backend back2
backend back2
    http-reuse always
    server two 127.0.0.1:{WITHIN} proto h2 pool-max-conn 0
frontend within
    bind 127.0.0.1:{WITHIN} proto h2
    no log
    default_backend back
frontend front3
    bind 127.0.0.1:{FRONT3} ssl crt {certificate} alpn h2,http/1.1
    default_backend back3
backend back3
    http-reuse never
    server three 127.0.0.1:{WITHIN3} ssl verify none sni str(example.test) pool-max-conn 0
frontend within3
    bind 127.0.0.1:{WITHIN3} ssl crt {certificate}
    no log
    default_backend back
"""
        )
        backend = [sys.executable, __file__, "backend"]
        self.backend = subprocess.Popen(backend, stdout=subprocess.DEVNULL, stderr=(folder / "backend.log").open("w"))
        until("the backend", lambda: is_open(BACK))
        haproxy = [shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin"), "-db", "-f", str(config)]
        self.haproxy = subprocess.Popen(haproxy, stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        until("HAProxy", lambda: is_open(FRONT))

    def logged(self):
        """By path, from `option httplog`: a request's status, and how long it took in ms."""
        line = re.compile(
            r" (?:front back/one|front2 back2/two|front3~ back3/three) [-\d]+/[-\d]+/[-\d]+/[-\d]+/(\d+) (\d+) "
            r".*\"[A-Z]+ (?:https?://[^/]+)?(\S+) HTTP"
        )
        found = {}
        for match in line.finditer(self.log.read_text()):
            found.setdefault(match[3], []).append((int(match[2]), int(match[1])))
        return found


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def record(scene, sidetap, path, level):
    """One run of the agent. Answers how many requests were made and recorded; raises where anything is wrong."""
    run = f"{path}-{level}"
    folder = scene.folder / run
    folder.mkdir()
    config = folder / "sidetap.yaml"
    config.write_text(
        f"""version: 2
services:
  event_stores: [{{type: disabled}}]
  object_stores: [{{type: stdout}}]
stacks:
  all: {{plugins: [{{type: http_capture, config: {{level: {level}, format: json}}}}]}}
tap: {{direction: all, http: {{stack: all}}}}
"""
    )
    out, log = folder / "sidetap.out", folder / "sidetap.log"
    command = [sidetap, "--config", str(config), "--capture-path", path, "--buffer-size", "4096"]
    agent = subprocess.Popen(command, stdout=out.open("wb"), stderr=log.open("wb"))
    try:
        until("the agent", lambda: b"capturing" in log.read_bytes() or agent.poll() is not None)
        assert agent.poll() is None, f"the agent ended: {log.read_text()[-2000:]}"
        by_curl, pipelined, multiplexed, sealed = requests(run)
        for group in by_curl + sealed:
            curl(group, folder)
        for group in pipelined:
            pipeline(group)
        for group in multiplexed:
            multiplex(group, folder)
        made = [request for group in by_curl + pipelined + multiplexed + sealed for request in group]
        expected = sum(len(request.recorded(scene)) for request in made)
        until(f"{expected} records", lambda: out.read_bytes().count(b"\n") >= expected)
    finally:
        agent.send_signal(signal.SIGTERM)
        status = agent.wait(PATIENCE)
    assert status == 0, f"the agent ended with {status}: {log.read_text()[-2000:]}"
    return judge(scene, made, out.read_text(), log.read_text())


def judge(scene, made, out, log):
    records = {}
    for line in out.splitlines():
        record = json.loads(line)
        assert "path" in record.get("request", {}), f"a record without its request: {line}"
        records.setdefault(record["request"]["path"], []).append(record)
    assert set(records) <= {r.path for r in made}, f"never asked for: {set(records) - {r.path for r in made}}"

    logged, late = scene.logged(), 0.0
    for request in made:
        whose = sorted(sides(record) for record in records.get(request.path, []))
        assert whose == request.recorded(scene), f"{request.path}, asked by {request.client}, is recorded for {whose}"
        assert len(logged.get(request.path, [])) == 1, f"HAProxy's log has {logged.get(request.path)} of {request.path}"
        status, took = logged[request.path][0]
        check_tls(request, records[request.path])
        for record in records[request.path]:
            compare(request, record, status)
            if sides(record)[:2] == ("ingress", "haproxy"):
                late = max(late, abs(record["duration_ms"] - took))

    last = log.splitlines()[-1]
    counters = dict(re.findall(r"([a-z_.]+)=(\d+)", last))
    losses = ("lost", "kernel.unreadable", "kernel.missed")
    lost = {name: n for name, n in counters.items() if name.startswith(losses) and n != "0"}
    total = sum(map(len, records.values()))
    assert counters.get("seen") == str(total) and not lost, f"the agent's last line: {last}"
    check_streams(made, records)
    found = {"off_ms": round(late, 3)}
    for kind in KINDS:
        asked = [request for request in made if request.kind() == kind]
        recorded = sum(len(records[request.path]) for request in asked)
        found[kind] = {"made": len(asked), "recorded": recorded}
    return found


def check_tls(request, records):
    """Within TLS between the client and HAProxy, and between HAProxy and itself; the backend is asked without."""
    found = sorted(record["tls"]["version"] for record in records if "tls" in record)
    expected = sorted([request.tls] * 2 + ["1.3"] * 2) if request.tls else []
    assert found == expected, f"{request.path} is recorded within TLS {found}, not {expected}"


def check_streams(made, records):
    """Each request of HTTP/2 is recorded with a stream of its own, by its client with the one that it says it took."""
    seen, connections = set(), {}
    for request in made:
        for record in records[request.path]:
            if record["request"]["protocol"] != "http2":
                continue
            connection, stream = record["metadata"]["connection_id"], record["request"]["stream_id"]
            assert (connection, stream) not in seen, f"{request.path} has the stream of another request"
            seen.add((connection, stream))
            if sides(record)[:3] == ("egress", *request.client):
                connections.setdefault(request.client, set()).add(connection)
                assert stream == request.stream, f"{request.path}: stream {stream}, by its client {request.stream}"
    assert all(len(ids) == 1 for ids in connections.values()), f"not one connection for each client: {connections}"


def sides(record):
    """Direction, process, PID and protocol of a record."""
    metadata = record["metadata"]
    name = re.sub(r"^python3.*", "python3", metadata["process_exe"].rsplit("/", 1)[-1])
    return record["direction"].split("-")[0], name, int(metadata["process_id"]), record["request"]["protocol"]


def compare(request, record, status):
    """A record with what was asked and answered; bodies where the record has them."""
    where = f"{request.path}, {sides(record)}"
    assert "incomplete" not in record, f"{where}: {record['incomplete']}"
    got = (record["request"]["method"], record["response"]["status"])
    assert got == (request.method, request.status) and status == request.status, f"{where}: {got}"
    direction, process, *_ = sides(record)
    if request.protocol == "http1" and (direction, process) in [("egress", request.client[0]), ("ingress", "haproxy")]:
        answer = record["metadata"]["bytes_received" if direction == "egress" else "bytes_sent"]
        assert answer == request.received, f"{where}: an answer of {answer} bytes, of {request.received} by its client"
    for side, body in (("request", request.body), ("response", request.answer)):
        size = record[side].get("body_bytes", 0)
        assert size == len(body), f"{where}: {size} bytes in the body of the {side} are not the {len(body)} sent"
        if "headers" not in record["request"]:
            continue
        kept = body_of(record[side])
        assert kept == body, f"{where}: body of the {side}, {len(kept)} bytes, is not the {len(body)} bytes sent"


def body_of(message):
    body = message.get("body", "")
    return base64.b64decode(body) if message.get("body_encoding") == "base64" else body.encode()


def check(sidetap):
    """By capture path: instructions verified, by BPF program."""
    done = subprocess.run([sidetap, "check", "--programs"], capture_output=True, text=True)
    say(done.stdout)
    assert done.returncode == 0, f"sidetap check failed: {done.stderr[-4000:]}"
    paths, programs = {}, None
    for line in done.stdout.splitlines():
        if heading := re.match(r"(\w+) path, ", line):
            programs = paths.setdefault(heading[1], {})
        elif program := re.fullmatch(r" +(\d+)  (\w+)", line):
            programs[program[2]] = int(program[1])
    assert paths and all(paths.values()), "sidetap check listed no program"
    # The agent does without them where the kernel refuses them.
    assert all("thread_returns" in programs for programs in paths.values()), "no programs for older TLS connections"
    return paths


def test(sidetap, results):
    result = {"kernel": os.uname().release, "programs": check(sidetap), "runs": {}}
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        scene = Scene(folder, results / "server.pem")
        for path in result["programs"]:
            for level in ("summary", "full"):
                began = time.monotonic()
                found = record(scene, sidetap, path, level)
                result["runs"][f"{path} {level}"] = found
                counts = " and ".join(
                    f"{found[kind]['made']} requests of {name}, {found[kind]['recorded']} records"
                    for kind, name in KINDS.items()
                )
                say(f"{path} path, level {level}: {counts}, none lost, "
                    f"durations at most {found['off_ms']} ms off HAProxy's ({time.monotonic() - began:.0f} s)")
    except BaseException:
        shutil.copytree(folder, results / "failed", dirs_exist_ok=True)
        raise
    (results / "result.json").write_text(json.dumps(result))


def main():
    if sys.argv[1] == "backend":
        return http.server.ThreadingHTTPServer(("127.0.0.1", BACK), Backend).serve_forever()
    results = pathlib.Path(sys.argv[2])
    verdict = "failed"
    try:
        say(f"Linux {os.uname().release}")
        subprocess.run(["/sbin/ip", "link", "set", "lo", "up"], check=True)
        test(sys.argv[1], results)
        verdict = "passed"
    except BaseException as error:
        say(f"failed: {type(error).__name__}: {error}")
    (results / "done").write_text(verdict)


main()
