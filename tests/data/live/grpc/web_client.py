"""Calls of gRPC-Web for tests: `web_client.py PORT`. Prints a line of JSON for each call, as client.py does: in 17 rounds one
for one, several for one, one that fails, and one as text, in base64.
"""

import base64
import http.client
import json
import re
import sys

import grpc
from sonora import protocol
from sonora.client import insecure_web_channel

port = int(sys.argv[1])
LONG = b"what is said again and again " * 200


def as_bytes(message):
    return message


def tell(call_id, method, code, text, returned):
    print(json.dumps({
        "id": call_id, "service": "shop.Cart", "method": method, "status": code.value[0], "name": code.name,
        "message": text or "", "sent": 1, "returned": returned, "given_up": False,
    }))


def as_text(call_id, count):
    """By hand: the client cannot."""
    body = base64.b64encode(protocol.wrap_message(False, False, b"%d" % count))
    peer = http.client.HTTPConnection("127.0.0.1", port)
    text = "application/grpc-web-text"
    peer.request("POST", "/shop.Cart/List", body, {"Content-Type": text, "Accept": text, "X-Request-Id": call_id})
    answer = peer.getresponse().read()
    # Each part has padding of its own.
    rest = b"".join(base64.b64decode(part) for part in re.findall(rb"[^=]+=*", answer))
    returned, status = 0, None
    while rest:
        trailers, _, message = protocol.unwrap_message(rest)
        rest = rest[5 + len(message):]
        if trailers:
            status = dict(protocol.unpack_trailers(message))["grpc-status"]
        else:
            returned += 1
    assert (returned, status) == (count, "0"), answer
    tell(call_id, "List", grpc.StatusCode.OK, "", returned)


with insecure_web_channel(f"http://127.0.0.1:{port}") as channel:
    get = channel.unary_unary("/shop.Cart/Get", as_bytes, as_bytes)
    list_ = channel.unary_stream("/shop.Cart/List", as_bytes, as_bytes)
    for number in range(17):
        named = {"metadata": (("x-request-id", f"{number}-get"),)}
        assert get(LONG, **named) == LONG
        tell(f"{number}-get", "Get", grpc.StatusCode.OK, "", 1)

        named = {"metadata": (("x-request-id", f"{number}-list"),)}
        items = list(list_(b"%d" % (number + 1), **named))
        tell(f"{number}-list", "List", grpc.StatusCode.OK, "", len(items))

        code = 1 + number % 16
        named = {"metadata": (("x-request-id", f"{number}-fail"),)}
        try:
            get(b"fail %d no such cart: 100%%, \xc3\xa4" % code, **named)
        except grpc.RpcError as error:
            tell(f"{number}-fail", "Get", error.code(), error.details(), 0)

        as_text(f"{number}-text", number + 1)
