"""Connects as the user UID to each HOST|PORT and prints a line each: what was said there, or why nothing was: dial.py UID HOST|PORT..."""
import os
import socket
import sys

os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for target in sys.argv[2:]:
    host, port = target.split("|")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
            connection.settimeout(10)
            connection.connect((host, int(port)))
            print(connection.makefile().readline().strip())
    except OSError as error:
        print(type(error).__name__)
