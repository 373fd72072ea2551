"""Prints each line that anybody sends: collect.py PORT."""
import socketserver
import sys


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            # In one piece: `print` writes the end of the line apart, and others write as well.
            sys.stdout.write(line.decode(errors="replace").strip() + "\n")
            sys.stdout.flush()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


Server(("", int(sys.argv[1])), Handler).serve_forever()
