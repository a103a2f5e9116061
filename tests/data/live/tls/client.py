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

Writes a JSON line for each: id, path, status, size and SHA-256 of the body, source port, whether resumed, and when it began
(milliseconds since the Unix epoch).
"""

import asyncio
import hashlib
import http.client
import json
import signal
import socket
import ssl
import struct
import sys
import threading
import time

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


def request(number, *headers):
    """The path and the bytes of a request: every third sends its body and gets it back."""
    size = number % 40 * 37
    lines, body = [f"Host: {NAME}", f"X-Request-Id: {prefix}-{number}", *headers], b""
    method, path = "GET", f"/bytes/{size}"
    if number % 3 == 2:
        # Many of them in short.
        times = number % 40 if mode in ("churn", "steady") else size
        method, path, body = "POST", "/mirror", bytes(range(256)) * times
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


def one_after_the_other(first, step):
    peer = Peer(context())
    for number in range(first, count, step):
        peer.ask(number)
    peer.socket.unwrap()


async def at_once():
    tls = context()

    async def client(first):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=NAME)
        local = writer.get_extra_info("sockname")
        for number in range(first, count, 5):
            path, data = request(number)
            writer.write(data)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:"))
            tell(number, path, int(head.split()[1]), await reader.readexactly(int(length)), local)
        writer.close()

    await asyncio.gather(*(client(first) for first in range(5)))


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
    versions = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
    peers = [Peer(context(versions[number % 2])) for number in range(count)]

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
    asyncio.run(at_once())
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
elif mode == "steady":
    steady()
else:
    unmatched()
