"""Calls every method of grpc_server.py through PORT [HOST] and says what came back, a line each."""
import sys

import grpc

host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
channel = grpc.insecure_channel(f"{host}:{sys.argv[1]}")
reverse = channel.unary_unary("/test.Peer/Reverse")
reply, call = reverse.with_call(b"stressed", timeout=20)
print("reverse", reply.decode(), dict(call.trailing_metadata()).get("x-served"))
big = bytes(range(256)) * 8192
print("big", reverse(big, timeout=20) == big[::-1])
try:
    reverse(b"fail", timeout=20)
except grpc.RpcError as error:
    print("fail", error.code().name, error.details())
print("count", sum(1 for _ in channel.unary_stream("/test.Peer/Count")(b"1000", timeout=20)))
chat = channel.stream_stream("/test.Peer/Chat")(iter([b"a", b"b", b"c"]), timeout=20)
print("chat", [message.decode() for message in chat])
try:
    channel.unary_unary("/test.Peer/Forbidden")(b"x", timeout=20)
except grpc.RpcError as error:
    print("forbidden", error.code().name, dict(error.trailing_metadata() or ()).get("x-mesh-reason"))
