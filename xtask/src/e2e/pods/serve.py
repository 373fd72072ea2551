"""An HTTP/1.1 server: says who it is and what it was asked. PORT [SECONDS-TO-START].

Ends as well-behaved servers do: on SIGTERM it takes no more connections, finishes what it has begun, and goes.
"""
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Busy:
    """How many requests are being answered."""

    def __init__(self):
        self.count, self.changed = 0, threading.Condition()

    def __enter__(self):
        with self.changed:
            self.count += 1

    def __exit__(self, *_):
        with self.changed:
            self.count -= 1
            self.changed.notify_all()

    def wait_for_none(self, seconds):
        with self.changed:
            self.changed.wait_for(lambda: self.count == 0, seconds)


busy = Busy()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        with busy:
            self.answer_now()

    def answer_now(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if self.path.startswith("/slow"):
            time.sleep(1)
        text = f"{os.environ.get('HOSTNAME', '')} {self.command} {self.path} {len(body)}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
server = Server(("::" if Server.address_family == socket.AF_INET6 else "", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", flush=True)
server.serve_forever()
server.server_close()
busy.wait_for_none(5)
