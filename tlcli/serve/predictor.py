"""Image bytes to probabilities, one batch at a time and for a bounded number of requests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from tlcli.data import pixels
from tlcli.evaluate.runtimes import Runtime

# Requests whose bodies are in memory at the same time, and images that the network takes at once.
PARALLEL = 32


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        max_bytes: Size of the body of a request, bytes.
        max_pixels: Pixels of an image.
        max_waiting: Requests that are answered or wait at the same time.
        timeout_s: Time of a request, from its arrival to its answer, seconds.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_waiting: int = 256
    timeout_s: float = 30.0


class Busy(Exception):
    """More requests wait than `Limits.max_waiting`."""


class Predictor:
    """Classifies images for many requests: few threads decode, and one runs the network on all that wait.

    Args:
        runtime: The classifier.
        limits: What is accepted.
        decoders: Images that are decoded at the same time; each may need several times `max_pixels` of memory.
    """

    def __init__(self, runtime: Runtime, limits: Limits, *, decoders: int = 2) -> None:
        self.runtime, self.limits = runtime, limits
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._decoded: list[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = []
        self._is_running = False
        self._waiting = 0
        self._slots = asyncio.Semaphore(PARALLEL)

    def warm_up(self) -> None:
        """Classify black images, so that the first requests do not wait for the graphs of one and of many images."""
        for count in (1, 4, PARALLEL):
            self.runtime.probabilities(np.zeros((count, *self.runtime.size, 3), np.float32))

    @asynccontextmanager
    async def slot(self, deadline: float) -> AsyncIterator[None]:
        """Wait for one of the `PARALLEL` slots. Bodies are read in it, which bounds the memory they take.

        Args:
            deadline: Until when to wait, on the clock of the event loop, seconds.

        Raises:
            Busy: If too many wait, or no slot came free in time.
        """
        if self._waiting >= self.limits.max_waiting:
            raise Busy
        self._waiting += 1
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._slots.acquire()
            except TimeoutError:
                raise Busy from None
            try:
                yield
            finally:
                self._slots.release()
        finally:
            self._waiting -= 1

    async def predict(self, data: bytes) -> np.ndarray:
        """The probabilities of an image, float32 (classes,), 0-1.

        Args:
            data: The content of an image file.

        Raises:
            DataError: If it cannot be decoded or is too large.
        """
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._decoders, self._decode, data)
        answer: asyncio.Future[np.ndarray] = loop.create_future()
        self._decoded.append((image, answer))
        if not self._is_running:
            self._is_running = True
            self._task = loop.create_task(self._run())
        return await answer

    def _decode(self, data: bytes) -> np.ndarray:
        size, resize = self.runtime.size, self.runtime.resize
        return pixels.exactly_of_bytes(data, size, resize, where="the image", max_pixels=self.limits.max_pixels)

    async def _run(self) -> None:
        """Classify what waits, in batches, until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._decoded:
                batch, self._decoded = self._decoded[:PARALLEL], self._decoded[PARALLEL:]
                wanted = [(image, answer) for image, answer in batch if not answer.done()]
                await self._answer(loop, wanted)
        finally:
            self._is_running = False

    async def _answer(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[tuple[np.ndarray, "asyncio.Future[np.ndarray]"]]
    ) -> None:
        if not batch:
            return
        try:
            images = np.stack([image for image, _ in batch])
            rows = await loop.run_in_executor(self._network, self.runtime.probabilities, images)
        except Exception as error:  # every waiting request must get an answer
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), row in zip(batch, rows, strict=True):
            if not answer.done():
                answer.set_result(row)
