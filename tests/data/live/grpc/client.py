"""Calls for tests: `client.py PORT ROUNDS`. Prints a line of JSON for each call: its id, what was called, how it ended, how
many messages went each way, and whether it was given up. Half of the rounds compress their messages.
"""

import json
import sys
from concurrent import futures

import grpc

port, rounds = sys.argv[1:]
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
LONG = b"what is said again and again " * 200


def tell(call_id, method, code, text, sent, returned, given_up=False):
    # One write a line: several threads have something to tell.
    sys.stdout.write(json.dumps({
        "id": call_id, "service": "shop.Cart", "method": method, "status": code.value[0], "name": code.name,
        "message": text or "", "sent": sent, "returned": returned, "given_up": given_up,
    }) + "\n")


def one_round(number):
    compression = grpc.Compression.Gzip if number % 2 else grpc.Compression.NoCompression

    def options(name):
        return {"metadata": (("x-request-id", f"{number}-{name}"),), "compression": compression, "timeout": 30}

    path = "/shop.Cart/"
    answer = channel.unary_unary(path + "Get")(LONG, **options("get"))
    assert answer == LONG
    tell(f"{number}-get", "Get", grpc.StatusCode.OK, "", 1, 1)

    items = list(channel.unary_stream(path + "List")(b"%d" % (number % 40), **options("list")))
    tell(f"{number}-list", "List", grpc.StatusCode.OK, "", 1, len(items))

    answer = channel.stream_unary(path + "Sum")(iter([LONG] * 20), **options("sum"))
    assert answer == b"20"
    tell(f"{number}-sum", "Sum", grpc.StatusCode.OK, "", 20, 1)

    items = list(channel.stream_stream(path + "Chat")(iter([LONG] * 15), **options("chat")))
    assert items == [LONG] * 15
    tell(f"{number}-chat", "Chat", grpc.StatusCode.OK, "", 15, 15)

    code = 1 + number % 16
    try:
        channel.unary_unary(path + "Get")(b"fail %d no such cart: 100%%, \xc3\xa4" % code, **options("fail"))
    except grpc.RpcError as error:
        tell(f"{number}-fail", "Get", error.code(), error.details(), 1, 0)

    try:
        channel.unary_unary(path + "Missing")(b"x", **options("missing"))
    except grpc.RpcError as error:
        tell(f"{number}-missing", "Missing", error.code(), error.details(), 1, 0)

    try:
        channel.unary_unary(path + "Wait")(b"x", **options("deadline") | {"timeout": 0.2})
    except grpc.RpcError as error:
        tell(f"{number}-deadline", "Wait", error.code(), "", 1, 0, True)

    call = channel.unary_unary(path + "Wait").future(b"x", **options("cancel"))
    try:
        call.result(timeout=0.1)
    except grpc.FutureTimeoutError:
        call.cancel()
        tell(f"{number}-cancel", "Wait", grpc.StatusCode.CANCELLED, "", 1, 0, True)


with futures.ThreadPoolExecutor(max_workers=8) as pool:
    for done in pool.map(one_round, range(int(rounds))):
        pass
