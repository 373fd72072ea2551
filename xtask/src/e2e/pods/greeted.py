"""Says nothing before it is greeted, then sends a line: greeted.py HOST PORT. Prints the greeting and the answer."""
import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=15) as connection:
    lines = connection.makefile("rw")
    print(lines.readline().strip())
    lines.write("hello\n")
    lines.flush()
    print(lines.readline().strip())
