"""Sends texts and a large binary message through PORT [HOST] and says whether they came back."""
import asyncio
import sys

import websockets

HOST = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"


async def main():
    async with websockets.connect(f"ws://{HOST}:{sys.argv[1]}/chat", max_size=None) as socket:
        for text in ["one", "two", "ä" * 1000]:
            await socket.send(text)
            assert await socket.recv() == text
        blob = bytes(range(256)) * 4096
        await socket.send(blob)
        assert await socket.recv() == blob
        print("echoed")


asyncio.run(main())
