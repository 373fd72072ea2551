"""An HTTP server that takes as long for an answer as a file says, in milliseconds: slow_server.py PORT FILE."""

import http.server
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer leaves in one piece, and not when the last one was acknowledged.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        with open(sys.argv[2], encoding="ascii") as file:
            time.sleep(int(file.read() or 0) / 1000)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
