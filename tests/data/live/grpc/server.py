"""A gRPC server for tests: `server.py PORT`. Messages are bytes, so that nothing has to be generated.

Service shop.Cart: Get (one for one), List (as many as asked for), Sum (one for all), Chat (one for each), Wait (never).
A message that starts with `fail CODE ` ends the call with that status, the rest as its message.
"""

import sys
import threading
from concurrent import futures

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}


def refuse(message, context):
    if message.startswith(b"fail "):
        _, code, text = message.decode().split(" ", 2)
        context.abort(CODES[int(code)], text)


def get(message, context):
    refuse(message, context)
    return message


def list_(message, context):
    for number in range(int(message)):
        yield b"item %d" % number


def sum_(messages, context):
    count = 0
    for message in messages:
        refuse(message, context)
        count += 1
    return b"%d" % count


def chat(messages, context):
    for message in messages:
        refuse(message, context)
        yield message


def wait(message, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(60)
    return message


METHODS = {
    "Get": grpc.unary_unary_rpc_method_handler(get),
    "List": grpc.unary_stream_rpc_method_handler(list_),
    "Sum": grpc.stream_unary_rpc_method_handler(sum_),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Cart", METHODS)])
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
