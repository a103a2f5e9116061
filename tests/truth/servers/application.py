"""A server on Python's http.server whose paths choose how it answers, and which logs what it did as JSON lines.

    /bytes/N        N bytes with a Content-Length        /none/STATUS   no body (204, 304)
    /chunked/N      the same in chunks                   /mirror        the request's body again
    /close/N        the same until the connection ends   /take          the SHA-256 of the request's body
    /slow/N         in four pieces, 60 ms apart          /early         answers before the request's body
    /drip/N         in writes of one byte                /hang          no answer while the client waits
    /cut/N          promises N, sends half, goes         /reset         goes without an answer
    /fail/STATUS    that status and a short body         /upgrade       101, then an echo of what comes

Usage: application.py PORT LOG. The body of /bytes and its like is SHAKE-256 of path and X-Request-Id.
"""

import base64
import hashlib
import json
import os
import select
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 7000
LOG = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def answer(self):
        self.id = self.headers.get("X-Request-Id", "-")
        self.line = {
            "id": self.id, "method": self.command, "path": self.path, "pid": os.getpid(),
            "peer": "{}:{}".format(*self.client_address), "status": None, "sent": 0, "sent_sha": None,
            "got": 0, "got_sha": None, "request_whole": False, "response_whole": False, "observable": True,
        }  # fmt: skip
        self.sha = hashlib.sha256()
        try:
            self.route()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self.line["sent_sha"] = self.sha.hexdigest()
            os.write(LOG, (json.dumps(self.line) + "\n").encode())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def route(self):
        kind, _, argument = self.path.split("?")[0].lstrip("/").partition("/")
        if kind == "early":
            # Says that it goes, and goes: what is left of the request is nobody's.
            self.close_connection = True
            return self.whole(413, b"too large\n", close=True)
        if kind in ("hang", "reset"):
            # What the client sends besides is not read.
            return getattr(self, kind)()
        request = self.body()
        if kind == "mirror":
            return self.whole(200, request)
        if kind == "take":
            return self.whole(200, hashlib.sha256(request).hexdigest().encode())
        if kind == "none":
            return self.whole(int(argument), b"")
        if kind == "fail":
            return self.whole(int(argument), b"as asked\n")
        if kind == "upgrade":
            return self.upgrade()
        size = int(argument)
        data = hashlib.shake_256(f"{self.path} {self.id}".encode()).digest(size)
        getattr(self, "send_" + kind)(data)

    def body(self):
        """All of the request's body, whichever way it is framed."""
        data = bytearray()
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.line_of_chunk(), 16):
                data += self.exactly(size)
                self.exactly(2)
            while self.line_of_chunk():
                pass
        else:
            data += self.exactly(int(self.headers.get("Content-Length", 0)))
        self.line.update(got=len(data), got_sha=hashlib.sha256(data).hexdigest(), request_whole=True)
        return bytes(data)

    def line_of_chunk(self):
        line = self.rfile.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("ended within a chunk's line")
        return line.strip()

    def exactly(self, size):
        data = self.rfile.read(size)
        if len(data) < size:
            self.line["got"] += len(data)
            raise ConnectionError("ended within the body")
        return data

    def head(self, status, *headers):
        self.line["status"] = status
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("X-Request-Id", self.id)
        self.send_header("X-Echo", f"{self.command} {self.path}")
        self.end_headers()

    def write(self, data):
        # With nothing behind the head, the other side may have gone already.
        if data and self.command != "HEAD":
            self.wfile.write(data)
            self.sha.update(data)
            self.line["sent"] += len(data)

    def framed(self, data):
        self.wfile.write(b"%x\r\n" % len(data))
        self.write(data)
        self.wfile.write(b"\r\n")

    def whole(self, status, data, close=False):
        length = [] if status in (204, 304) else [("Content-Length", len(data))]
        self.head(status, *length, *([("Connection", "close")] if close else []))
        self.write(data)
        self.line["response_whole"] = True

    def send_bytes(self, data):
        self.whole(200, data)

    def send_chunked(self, data):
        self.head(200, ("Transfer-Encoding", "chunked"))
        if self.command != "HEAD":
            for start in range(0, len(data), CHUNK):
                self.framed(data[start : start + CHUNK])
            self.wfile.write(b"0\r\n\r\n")
        self.line["response_whole"] = True

    def send_close(self, data):
        self.head(200, ("Connection", "close"))
        self.write(data)
        self.close_connection = self.line["response_whole"] = True

    def send_slow(self, data):
        self.head(200, ("Content-Length", len(data)))
        step = len(data) // 4 or 1
        for start in range(0, len(data), step):
            time.sleep(0.06)
            self.write(data[start : start + step])
        self.line["response_whole"] = True

    def send_drip(self, data):
        self.head(200, ("Content-Length", len(data)))
        for at in range(len(data)):
            self.write(data[at : at + 1])
        self.line["response_whole"] = True

    def send_cut(self, data):
        self.head(200, ("Content-Length", len(data)))
        self.write(data[: len(data) // 2])
        self.close_connection = True

    def hang(self):
        # Until the other side has gone; what it sends besides is not read.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if select.select([self.connection], [], [], 0.02)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                break
        self.close_connection = True

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def upgrade(self):
        key = self.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.head(101, ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", accept))
        self.line["response_whole"] = True
        while data := self.connection.recv(65536):
            self.connection.sendall(data)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_):
        pass


threading.stack_size(256 << 10)
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
