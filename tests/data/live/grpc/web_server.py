"""A server of gRPC-Web over HTTP/1 for tests: `web_server.py PORT`. Messages are bytes, so that nothing has to be generated.

Service shop.Cart: Get (one for one), List (as many as asked for). A message that starts with `fail CODE ` ends the call with
that status, the rest as its message.
"""

import socketserver
import sys
from wsgiref import simple_server

import grpc
from sonora.wsgi import grpcWSGI

CODES = {code.value[0]: code for code in grpc.StatusCode}


def get(message, context):
    if message.startswith(b"fail "):
        _, code, text = message.decode().split(" ", 2)
        context.abort(CODES[int(code)], text)
    return message


def list_(message, context):
    for number in range(int(message)):
        yield b"item %d" % number


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


def as_bytes(message):
    return message


METHODS = {
    "Get": grpc.unary_unary_rpc_method_handler(get, as_bytes, as_bytes),
    "List": grpc.unary_stream_rpc_method_handler(list_, as_bytes, as_bytes),
}

application = grpcWSGI(None)
application.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Cart", METHODS)])
simple_server.make_server("127.0.0.1", int(sys.argv[1]), application, server_class=Server).serve_forever()
