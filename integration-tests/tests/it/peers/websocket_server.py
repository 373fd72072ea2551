"""A WebSocket echo server made of the websockets package."""
import asyncio
import sys

import websockets

HOST = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, HOST, int(sys.argv[1]), max_size=None):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
