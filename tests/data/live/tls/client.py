"""Clients of Python's ssl: `client.py MODE PORT CA PREFIX COUNT` makes COUNT requests with `X-Request-Id: PREFIX-N` to
https://example.test at PORT of this machine.

    ssl               one connection of http.client, downloads and uploads
    asyncio           five at once in one event loop (memory BIOs)
    threads           five at once, each in a thread of its own
    resume-1.2, -1.3  each on a connection of its own, with the session of the one before
    mac-then-encrypt  TLS 1.2 with CBC, the MAC within
    churn             each on a connection of its own, ended in four ways
    unmatched         COUNT handshakes within this process, on no socket, then one request
    steady            COUNT connections, of TLS 1.2 and 1.3 in turn, that ask again and again until SIGTERM
    steady-mixed      the same, every other two with HTTP/2 and three streams at once
    steady-memory     the same of TLS 1.3 alone in one event loop (memory BIOs)

Writes a JSON line for each: id, path, status, size and SHA-256 of the body, source port, whether resumed, and when it began
(milliseconds since the Unix epoch).
"""

import asyncio
import hashlib
import http.client
import itertools
import json
import signal
import socket
import ssl
import struct
import sys
import threading
import time

if sys.argv[1] == "steady-mixed":
    import h2.config
    import h2.connection
    import h2.events
    import hpack

NAME = "example.test"
NO_ENCRYPT_THEN_MAC = 1 << 19  # SSL_OP_NO_ENCRYPT_THEN_MAC
mode, port, authority, prefix, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])


def context(version=None):
    made = ssl.create_default_context(cafile=authority)
    if version:
        made.minimum_version = made.maximum_version = version
    return made


def tell(number, path, status, body, local, resumed=False, began=0.0):
    # In one piece: there are threads.
    sys.stdout.write(json.dumps({
        "id": f"{prefix}-{number}", "path": path, "status": status, "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(), "port": local[1], "resumed": resumed, "began": began,
    }) + "\n")  # fmt: skip


def wanted(number):
    """Method, path and body of a request: every third sends its body and gets it back."""
    size = number % 40 * 37
    if number % 3 != 2:
        return "GET", f"/bytes/{size}", b""
    # Many of them in short.
    times = number % 40 if mode == "churn" or mode.startswith("steady") else size
    return "POST", "/mirror", bytes(range(256)) * times


def request(number, *headers):
    """The path and the bytes of a request."""
    method, path, body = wanted(number)
    lines = [f"Host: {NAME}", f"X-Request-Id: {prefix}-{number}", *headers]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return path, "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


class Peer:
    """A connection, and its responses."""

    def __init__(self, tls, session=None):
        plain = socket.create_connection(("127.0.0.1", port))
        self.local = plain.getsockname()
        self.socket = tls.wrap_socket(plain, server_hostname=NAME, session=session)

    def ask(self, number, *headers):
        path, data = request(number, *headers)
        began = time.time() * 1000
        self.socket.sendall(data)
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        body = response.read()
        tell(number, path, response.status, body, self.local, self.socket.session_reused, began)


class Peer2:
    """A connection with HTTP/2. What differs from request to request is put into no table of fields: it can be read also
    by who has not seen the requests before."""

    def __init__(self, tls):
        tls.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port))
        self.local = plain.getsockname()
        self.socket = tls.wrap_socket(plain, server_hostname=NAME)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()

    def ask(self, number):
        asked, bodies, answered = {}, {}, 0
        for part in range(3 * number, 3 * number + 3):
            method, path, body = wanted(part)
            stream = self.http.get_next_available_stream_id()
            once = [hpack.NeverIndexedHeaderTuple(name, value) for name, value in (
                (":path", path), ("x-request-id", f"{prefix}-h2-{part}"), ("content-length", str(len(body))))]  # fmt: skip
            same = [(":method", method), (":scheme", "https"), (":authority", NAME), ("x-fixed", "the same each time")]
            self.http.send_headers(stream, same[:3] + once[:1] + same[3:] + once[1:], end_stream=not body)
            if body:
                self.http.send_data(stream, body, end_stream=True)
            asked[stream], bodies[stream] = (part, path), b""
        began = time.time() * 1000
        self.socket.sendall(self.http.data_to_send())
        while answered < len(asked):
            for event in self.http.receive_data(self.socket.recv(1 << 16)):
                if isinstance(event, h2.events.ResponseReceived):
                    asked[event.stream_id] += (int(dict(event.headers)[":status"]),)
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    part, path, status = asked[event.stream_id]
                    answered += 1
                    tell(f"h2-{part}", path, status, bodies[event.stream_id], self.local, self.socket.session_reused, began)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    sys.exit(f"{event}")
            self.socket.sendall(self.http.data_to_send())


def one_after_the_other(first, step):
    peer = Peer(context())
    for number in range(first, count, step):
        peer.ask(number)
    peer.socket.unwrap()


async def at_once(clients, numbers):
    """`numbers`: from a client's first one, those that it asks with."""
    tls = context()

    async def client(first):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=NAME)
        local = writer.get_extra_info("sockname")
        for number in numbers(first):
            path, data = request(number)
            began = time.time() * 1000
            writer.write(data)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:"))
            body = await reader.readexactly(int(length))
            tell(number, path, int(head.split()[1]), body, local, began=began)
            if mode == "steady-memory":
                sys.stdout.flush()
                await asyncio.sleep(0.02)
        writer.close()

    await asyncio.gather(*(client(first) for first in range(clients)))


def resumed(version):
    tls, session = context(version), None
    for number in range(count):
        peer = Peer(tls, session)
        # Sizes that the test knows: no uploads.
        path = f"/bytes/{number * 37}"
        peer.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nX-Request-Id: {prefix}-{number}\r\n\r\n".encode())
        response = http.client.HTTPResponse(peer.socket)
        response.begin()
        tell(number, path, response.status, response.read(), peer.local, peer.socket.session_reused)
        # Tickets of TLS 1.3 come with the first bytes that are read.
        session = peer.socket.session
        peer.socket.unwrap()


def churn():
    tls = context()
    for number in range(count):
        peer = Peer(tls)
        peer.ask(number)
        if number % 4 == 0:
            peer.socket.unwrap()
        elif number % 4 == 1:
            # No close_notify.
            peer.socket.close()
        elif number % 4 == 2:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.socket.close()
        else:
            # Within a request that is not complete.
            peer.socket.sendall(b"GET /half HTTP/1.1\r\nHost: x\r\n")
            peer.socket.close()


def unmatched():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.replace("ca.crt", "ecdsa.pem"))
    client = context()
    for _ in range(count):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [client.wrap_bio(down, up, server_hostname=NAME), server.wrap_bio(up, down, server_side=True)]
        while ends:
            for end in list(ends):
                try:
                    end.do_handshake()
                    ends.remove(end)
                except ssl.SSLWantReadError:
                    pass
    Peer(client).ask(0)


def steady():
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    if mode == "steady-memory":
        return asyncio.run(at_once(count, lambda first: itertools.takewhile(
            lambda _: not is_over.is_set(), itertools.count(first, count))))  # fmt: skip
    versions = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
    kinds = [Peer, Peer, Peer2, Peer2] if mode == "steady-mixed" else [Peer]
    peers = [kinds[number % len(kinds)](context(versions[number % 2])) for number in range(count)]

    def ask(first):
        number = first
        while not is_over.is_set():
            peers[first].ask(number)
            number += count
            sys.stdout.flush()
            time.sleep(0.02)
        peers[first].socket.unwrap()

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(count)]
    for thread in threads:
        thread.start()
    # Signals are for the first thread.
    is_over.wait()
    for thread in threads:
        thread.join()


if mode == "ssl":
    one_after_the_other(0, 1)
elif mode == "asyncio":
    asyncio.run(at_once(5, lambda first: range(first, count, 5)))
elif mode == "threads":
    threads = [threading.Thread(target=one_after_the_other, args=(first, 5)) for first in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
elif mode == "resume-1.2":
    resumed(ssl.TLSVersion.TLSv1_2)
elif mode == "resume-1.3":
    resumed(ssl.TLSVersion.TLSv1_3)
elif mode == "mac-then-encrypt":
    old = context(ssl.TLSVersion.TLSv1_2)
    old.options |= NO_ENCRYPT_THEN_MAC
    old.set_ciphers("ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")
    peer = Peer(old)
    for number in range(count):
        peer.ask(number)
elif mode == "churn":
    churn()
elif mode.startswith("steady"):
    steady()
else:
    unmatched()
