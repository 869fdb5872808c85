"""What a Service does for replicas on this machine: each connection goes to one that is ready, in turn.

A network that is slow can be had too: every piece of bytes is held up for a while, both ways.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Self

PIECE = 65_536
LOOK = 0.1
"""Seconds between two looks at who is ready, as a readiness probe has its period."""


class Service:
    """Forwards connections to ready replicas, on a thread of its own."""

    def __init__(self, endpoints: Callable[[], list[str]]) -> None:
        """Begins to listen.

        Args:
            endpoints: Asked ten times a second for the addresses, `host:port`, of those that are ready.
        """
        self._endpoints = endpoints
        self._ready: list[str] = []
        self._turn = 0
        self.delay = 0.0
        """Seconds by which every piece of bytes is held up, in each direction."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._over, self._some = asyncio.Event(), asyncio.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="service", daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops; open connections are cut."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self, started: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        looking = asyncio.create_task(self._look())
        started.set()
        await self._over.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in (looking, *others):
            task.cancel()
        await asyncio.gather(looking, *others, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            self._ready = await asyncio.to_thread(self._endpoints)
            if self._ready:
                self._some.set()
            else:
                self._some.clear()
            await asyncio.sleep(LOOK)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._some.wait()
            self._turn += 1
            host, _, port = self._ready[self._turn % len(self._ready)].rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            ways = (self._pipe(reader, back), self._pipe(there, writer))
            tasks = [asyncio.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            back.close()
        except OSError:
            # Its client sees that the connection ends.
            pass
        finally:
            writer.close()

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(PIECE):
                if self.delay:
                    await asyncio.sleep(self.delay)
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
