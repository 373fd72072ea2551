"""Counted load: load.py URL[,URL...] [REQUESTS-A-SECOND [SECONDS]]; every request counts, none is tried again.

Four connections, or one for each URL, that are kept open, and reopened when the server has closed them between two requests, as every HTTP client does.
Ends on SIGTERM, at the end of standard input (with `-` for the seconds) or after so long, and prints one line of JSON: ok, failed,
the first failures, the slowest in ms. With COLLECTOR=HOST:PORT it also sends that line there.
"""
import collections
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse

urls = [urllib.parse.urlsplit(url) for url in sys.argv[1].split(",")]
rate = float(sys.argv[2]) if len(sys.argv) > 2 else 40.0
seconds = sys.argv[3] if len(sys.argv) > 3 else ""
stop = threading.Event()
lock = threading.Lock()
count = collections.Counter()
failures = []
served_by = collections.Counter()
slowest = 0.0
WORKERS = max(4, len(urls))


def request(connection, url):
    connection.request("GET", url.path or "/", headers={"host": url.netloc})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        reason = answer.getheader("x-mesh-reason") or body[:80].decode(errors="replace")
        raise RuntimeError(f"{answer.status} {reason}")
    return body.split(b" ")[0].decode(errors="replace")


def note(kind, who=None, problem=None, took=0.0):
    global slowest
    with lock:
        count[kind] += 1
        slowest = max(slowest, took)
        if who:
            served_by[who] += 1
        if problem and len(failures) < 20:
            failures.append(f"{time.strftime('%H:%M:%S')}.{int(time.time() * 1000) % 1000:03} {problem}")


def worker(number):
    connection, url = None, urls[number % len(urls)]
    due = time.monotonic() + number / rate
    while not stop.wait(max(0.0, due - time.monotonic())):
        due = max(due + WORKERS / rate, time.monotonic() - 1)
        started = time.monotonic()
        try:
            if connection is not None and closed(connection):
                connection.close()
                connection = None
            if connection is None:
                connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=30)
                connection.connect()
            note("ok", who=request(connection, url), took=time.monotonic() - started)
            if connection.sock is None:
                connection = None
        except Exception as error:
            note("failed", problem=f"{type(error).__name__}: {error} after {time.monotonic() - started:.3f} s")
            if connection is not None:
                connection.close()
            connection = None


def closed(connection):
    """Whether the server has closed it since the last answer."""
    try:
        connection.sock.setblocking(False)
        return connection.sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.sock.settimeout(30)


def until_told():
    sys.stdin.buffer.read()
    stop.set()


signal.signal(signal.SIGTERM, lambda *_: stop.set())
threads = [threading.Thread(target=worker, args=(number,)) for number in range(WORKERS)]
for thread in threads:
    thread.start()
print("loading", flush=True)
if seconds == "-":
    threading.Thread(target=until_told, daemon=True).start()
elif seconds:
    stop.wait(float(seconds))
    stop.set()
while not stop.wait(0.2):
    pass
for thread in threads:
    thread.join()
line = json.dumps({
    "ok": count["ok"], "failed": count["failed"], "failures": failures,
    "slowest_ms": round(slowest * 1000), "served_by": served_by,
})
print(line, flush=True)
if os.environ.get("COLLECTOR"):
    host, port = os.environ["COLLECTOR"].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as collector:
        collector.sendall(line.encode() + b"\n")
