"""Says when answers change: flips.py URL...; a line `MS URL STATUS` for the first answer and for each other one, until standard
input ends. MS is the time of day at which the request began that was answered so.
"""
import http.client
import sys
import threading
import time
import urllib.parse

EVERY_S = 0.02
lock = threading.Lock()


def watch(url):
    parts = urllib.parse.urlsplit(url)
    connection, before = None, None
    while True:
        began = time.time()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=10)
            connection.request("GET", parts.path or "/")
            answer = connection.getresponse()
            answer.read()
            status = str(answer.status)
        except Exception as error:
            connection, status = None, type(error).__name__
        if status != before:
            before = status
            with lock:
                print(round(began * 1000), url, status, flush=True)
        time.sleep(EVERY_S)


for url in sys.argv[1:]:
    threading.Thread(target=watch, args=(url,), daemon=True).start()
sys.stdin.buffer.read()
