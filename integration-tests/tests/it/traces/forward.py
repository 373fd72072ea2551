"""An HTTP server that asks another port for each request, with the trace fields that it got: forward.py PORT NEXT."""

import http.server
import sys
import urllib.request


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        traced = ("traceparent", "tracestate")
        headers = {name: self.headers[name] for name in traced if name in self.headers}
        request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[2]}/", headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
