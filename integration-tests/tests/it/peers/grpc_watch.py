"""Watches grpc_server.py through 127.0.0.1:PORT and says each message, or how the call ended; or calls `release` there."""
import sys

import grpc

channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
if sys.argv[2] == "release":
    print(channel.unary_unary("/test.Peer/Release")(b"", timeout=20).decode())
    sys.exit()
try:
    for message in channel.unary_stream("/test.Peer/Watch")(b"", timeout=120):
        print(message.decode(), flush=True)
    print("complete", flush=True)
except grpc.RpcError as error:
    trailers = dict(error.trailing_metadata() or ())
    print(error.code().name, trailers.get("x-mesh-reason"), trailers.get("x-mesh-decision"), flush=True)
