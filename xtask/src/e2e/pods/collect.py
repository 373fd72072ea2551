"""Prints each line that anybody sends: collect.py PORT."""
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            print(line.decode(errors="replace").strip(), flush=True)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


Server(("", int(sys.argv[1])), Handler).serve_forever()
