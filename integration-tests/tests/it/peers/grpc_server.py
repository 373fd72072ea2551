"""A gRPC server made of grpcio alone: unary, server-streaming and bidirectional methods over raw bytes.

`Watch` streams a first message at once and a second one when `Release` is called.
"""
import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-served", "yes"),))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you asked")
    return request[::-1]


def stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def chat(requests, context):
    for request in requests:
        yield b"echo " + request


released = threading.Event()


def watch(request, context):
    yield b"first"
    while context.is_active() and not released.wait(0.05):
        pass
    yield b"second"


def release(request, context):
    released.set()
    return b"released"


same = {"request_deserializer": None, "response_serializer": None}
handler = grpc.method_handlers_generic_handler(
    "test.Peer",
    {
        "Reverse": grpc.unary_unary_rpc_method_handler(unary, **same),
        "Count": grpc.unary_stream_rpc_method_handler(stream, **same),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, **same),
        "Release": grpc.unary_unary_rpc_method_handler(release, **same),
        "Chat": grpc.stream_stream_rpc_method_handler(chat, **same),
    },
)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((handler,))
host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
server.add_insecure_port(f"{host}:{sys.argv[1]}")
server.start()
server.wait_for_termination()
