"""A server whose TLS the kernel does once the handshake is over, and its client, whose TLS is Python's own:
python3 ktls.py CERTIFICATE_AND_KEY REQUESTS

Says what it cannot do, and ends with 77, where this kernel has no TLS, or not this cipher.
"""

import hashlib
import hmac
import http.client
import os
import socket
import ssl
import struct
import sys
import tempfile
import threading

SOL_TCP, TCP_ULP = 6, 31
SOL_TLS, TLS_TX, TLS_RX = 282, 1, 2
TLS_1_3, AES_GCM_256 = 0x0304, 52
BODY = b"from the kernel\n"


def expand(secret, label, length):
    """HKDF-Expand-Label with SHA-384 and no context (RFC 8446 section 7.1): one block is enough."""
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + b"\0"
    return hmac.new(secret, info + b"\x01", hashlib.sha384).digest()[:length]


def keys(secret):
    """struct tls12_crypto_info_aes_gcm_256 (linux/tls.h), which 1.3 uses, too."""
    key, iv = expand(secret, b"key", 32), expand(secret, b"iv", 12)
    return struct.pack("=HH", TLS_1_3, AES_GCM_256) + iv[4:] + key + iv[:4] + bytes(8)


def handshake(connection, pem, log):
    """In memory, so that nothing but the handshake was read when the kernel takes over; its secrets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # they would be sealed with the first of the kernel's keys
    context.keylog_filename = log
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    within = context.wrap_bio(incoming, outgoing, server_side=True)
    while True:
        try:
            within.do_handshake()
            break
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(1 << 16))
    connection.sendall(outgoing.read())
    assert within.cipher()[0] == "TLS_AES_256_GCM_SHA384", within.cipher()
    lines = [line.split() for line in open(log) if not line.startswith("#")]
    return {label: bytes.fromhex(secret) for label, _, secret in lines}


def serve(listener, pem, count):
    with tempfile.TemporaryDirectory() as folder:
        connection, _ = listener.accept()
        secrets = handshake(connection, pem, os.path.join(folder, "secrets"))
    connection.setsockopt(SOL_TCP, TCP_ULP, b"tls")
    connection.setsockopt(SOL_TLS, TLS_TX, keys(secrets["SERVER_TRAFFIC_SECRET_0"]))
    connection.setsockopt(SOL_TLS, TLS_RX, keys(secrets["CLIENT_TRAFFIC_SECRET_0"]))
    for _ in range(count):
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    connection.close()


def main():
    pem, count = sys.argv[1], int(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as trial:
        try:
            trial.setsockopt(SOL_TCP, TCP_ULP, b"tls")
            trial.setsockopt(SOL_TLS, TLS_TX, keys(bytes(48)))
        except OSError as error:
            print(f"this kernel cannot do TLS: {error}")
            sys.exit(77)
        listener.accept()[0].close()
    server = threading.Thread(target=serve, args=(listener, pem, count))
    server.start()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = http.client.HTTPSConnection("127.0.0.1", listener.getsockname()[1], context=context)
    for number in range(count):
        client.request("GET", f"/{number}", headers={"X-Request-Id": f"ktls-{number}"})
        assert client.getresponse().read() == BODY
    client.close()
    server.join()


main()
