"""Two ends of QUIC, as far as it is in the clear: python3 quic.py CONNECTIONS

For each connection, both send their first packet twice, and then what is none. Nothing in them is sealed, which who cannot
open them does not see. The server receives in each of the ways that there are.
"""

import ctypes
import os
import socket
import sys

VERSIONS = [(0xC0, 1), (0xD0, 0x6B3343CF)]
MESSAGES = 2


class Buffer(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Header(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("buffers", ctypes.POINTER(Buffer)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]  # fmt: skip


class Message(ctypes.Structure):
    _fields_ = [("header", Header), ("length", ctypes.c_uint32)]


def receive_several(server):
    rooms = [ctypes.create_string_buffer(2000) for _ in range(MESSAGES)]
    buffers = [Buffer(ctypes.addressof(room), len(room)) for room in rooms]
    headers = [Header(buffers=ctypes.pointer(buffer), count=1) for buffer in buffers]
    messages = (Message * MESSAGES)(*[Message(header=header) for header in headers])
    count = ctypes.CDLL(None, use_errno=True).recvmmsg(server.fileno(), messages, MESSAGES, 0, None)
    assert count == MESSAGES, (count, os.strerror(ctypes.get_errno()))


def receive_one_by_one(server):
    for _ in range(MESSAGES):
        server.recvfrom(2000)


def receive_messages(server):
    for _ in range(MESSAGES):
        server.recvmsg(2000)


def initial(number, receiver, sender):
    """RFC 9000 section 17.2.2"""
    flags, version = VERSIONS[number % len(VERSIONS)]
    head = bytes([flags]) + version.to_bytes(4, "big") + bytes([len(receiver)]) + receiver + bytes([len(sender)]) + sender
    return (head + b"\0\x44\x9e" + os.urandom(1200)).ljust(1200)[:1200]


def main():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    ways = [receive_one_by_one, receive_messages, receive_several]
    for number in range(int(sys.argv[1])):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(server.getsockname())
        client_id, server_id = os.urandom(8), os.urandom(12)
        for _ in range(MESSAGES):
            client.send(initial(number, os.urandom(8), client_id))
        ways[number % len(ways)](server)
        for _ in range(MESSAGES):
            server.sendto(initial(number, client_id, server_id), client.getsockname())
            client.recv(2000)
        # A packet with a short header, one with a long header of another type, and none.
        for other in (b"\x40" + server_id + os.urandom(1300), b"\xe0" + initial(0, server_id, client_id)[1:], bytes(1300)):
            client.send(other)
            server.recv(2000)


main()
