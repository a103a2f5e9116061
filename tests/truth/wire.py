"""A client on a plain socket: it sends exactly the bytes it is given, and knows exactly which came back."""

import socket
import ssl
import struct
import time
from dataclasses import dataclass, field


class Ended(Exception):
    """The connection ended before the response did; `so_far` is what there was of its body."""

    def __init__(self, what: str, so_far: bytes = b"", status: int | None = None) -> None:
        super().__init__(what)
        self.so_far, self.status = so_far, status


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    interim: list[int] = field(default_factory=list)


class Connection:
    """One connection to 127.0.0.1, in TLS where a context is given. `limit`: seconds that any wait for bytes may take."""

    def __init__(self, port: int, limit: float = 30.0, receive_buffer: int | None = None,
                 tls: ssl.SSLContext | None = None) -> None:  # fmt: skip
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(limit)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local = "{}:{}".format(*self.socket.getsockname())
        self.peer = f"127.0.0.1:{port}"
        if tls:
            self.socket = tls.wrap_socket(self.socket)
        self.buffer = bytearray()
        self.sent = self.received = 0
        self.closed = False
        self.clean = True  # all that was sent was asked for, and all that came was read

    def send(self, data: bytes, piece: int = 0, pause: float = 0.0) -> None:
        """All of it, in pieces of so many bytes with a pause behind each."""
        step = piece or max(len(data), 1)
        for start in range(0, len(data), step):
            part = data[start : start + step]
            self.socket.sendall(part)
            self.sent += len(part)
            if pause:
                time.sleep(pause)

    def reply(self, method: str = "GET", piece: int = 1 << 18, pause: float = 0.0) -> Reply:
        """The next final response. `piece` and `pause` make a slow reader. Raises Ended where it is cut."""
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status >= 200 or status == 101:
                break
            interim.append(status)
        reply = Reply(status, headers, b"", interim)
        if method == "HEAD" or status in (101, 204, 304):
            return reply
        try:
            reply.body = self._body(headers, piece, pause)
        except Ended as ended:
            ended.status = status
            raise
        return reply

    def _head(self) -> tuple[int, dict[str, str]]:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return int(lines[0].split(" ")[1]), headers

    def _body(self, headers: dict[str, str], piece: int, pause: float) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            return self._chunks()
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]), piece, pause)
        while self.more(piece):
            time.sleep(pause)
        rest, self.buffer = bytes(self.buffer), bytearray()
        return rest

    def _chunks(self) -> bytes:
        whole = bytearray()
        try:
            while True:
                size = int(self._until(b"\r\n").split(b";")[0], 16)
                if size == 0:
                    while self._until(b"\r\n"):
                        pass
                    return bytes(whole)
                whole += self.exactly(size)
                self.exactly(2)
        except Ended as ended:
            raise Ended(str(ended), bytes(whole) + ended.so_far) from None

    def _until(self, end: bytes) -> bytes:
        while (at := self.buffer.find(end)) < 0:
            if not self.more():
                raise Ended("closed within a head or a chunk's line")
        found = bytes(self.buffer[:at])
        del self.buffer[: at + len(end)]
        return found

    def exactly(self, count: int, piece: int = 1 << 18, pause: float = 0.0) -> bytes:
        while len(self.buffer) < count:
            if not self.more(piece):
                raise Ended(f"closed with {len(self.buffer)} of {count} bytes", bytes(self.buffer))
            if pause:
                time.sleep(pause)
        found = bytes(self.buffer[:count])
        del self.buffer[:count]
        return found

    def more(self, piece: int = 1 << 18) -> bool:
        try:
            data = self.socket.recv(piece)
        except ConnectionError:
            return False
        self.buffer += data
        self.received += len(data)
        return bool(data)

    def close(self) -> None:
        self.closed = True
        self.socket.close()

    def finish_sending(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.clean = False
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
