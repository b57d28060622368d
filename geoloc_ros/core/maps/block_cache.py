# SPDX-License-Identifier: Apache-2.0
"""Decoded blocks of a map's layers, as many as the memory limit allows, read ahead on request."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from geoloc_ros.core.maps.bands import Block
from geoloc_ros.core.maps.layers import Layer


class BlockKey(NamedTuple):
    """A block's place in the cache."""

    layer: int
    level: int
    row: int
    col: int


class BlockCache:
    """Decoded blocks, evicted least recently used first, read by the cache's own threads."""

    READERS = 2

    def __init__(self, layers: Sequence[Layer], limit_mib: float) -> None:
        self._layers = layers
        self._limit_bytes = int(limit_mib * 2**20)
        self._blocks: OrderedDict[BlockKey, Block] = OrderedDict()
        self._pending: dict[BlockKey, tuple[Future[Block], bool]] = {}  # and whether it was only a prefetch
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(self.READERS, thread_name_prefix="map-read")
        self._prefetcher = ThreadPoolExecutor(1, thread_name_prefix="map-prefetch")
        self.nbytes = 0

    def get(self, keys: Iterable[BlockKey], deadline: float) -> dict[BlockKey, Block]:
        """All these blocks, decoded now where need be.

        Raises GeolocError, or concurrent.futures.TimeoutError at time.monotonic() = deadline.
        """
        found: dict[BlockKey, Block] = {}
        waiting: dict[BlockKey, Future[Block]] = {}
        with self._lock:
            for key in keys:
                block = self._blocks.get(key)
                if block is None:
                    waiting[key] = self._submit(key, prefetch=False)
                else:
                    self._blocks.move_to_end(key)
                    found[key] = block
        for key, future in waiting.items():
            found[key] = future.result(max(0.0, deadline - time.monotonic()))
        return found

    def prefetch(self, keys: Iterable[BlockKey]) -> None:
        """Start to decode blocks that will be asked for; returns at once."""
        with self._lock:
            for key in keys:
                if key not in self._blocks:
                    self._submit(key, prefetch=True)

    def _submit(self, key: BlockKey, prefetch: bool) -> Future[Block]:
        """The read of a block, under way or started; the caller holds the lock."""
        pending = self._pending.get(key)
        if pending is not None:
            future, only_prefetch = pending
            # A block that is wanted now does not wait in the queue of those that may be wanted later.
            if prefetch or not only_prefetch or not future.cancel():
                return future
        future = (self._prefetcher if prefetch else self._readers).submit(self._load, key)
        self._pending[key] = (future, prefetch)
        return future

    def _load(self, key: BlockKey) -> Block:
        try:
            block = self._layers[key.layer].read(key.level, key.row, key.col)
        except BaseException:
            with self._lock:
                self._pending.pop(key, None)
            raise
        with self._lock:
            self._pending.pop(key, None)
            if key not in self._blocks and block.nbytes <= self._limit_bytes:
                self._blocks[key] = block
                self.nbytes += block.nbytes
                while self.nbytes > self._limit_bytes:
                    self.nbytes -= self._blocks.popitem(last=False)[1].nbytes
        return block

    def close(self) -> None:
        """Stop the threads and forget all blocks."""
        self._prefetcher.shutdown(wait=True, cancel_futures=True)
        self._readers.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._blocks.clear()
            self.nbytes = 0
