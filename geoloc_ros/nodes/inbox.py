# SPDX-License-Identifier: Apache-2.0
"""What waits for the localizer's worker thread: of each kind only the newest, so that nothing queues up."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sensor_msgs.msg import CompressedImage, Image


@dataclass
class Work:
    """What to do next, in this order."""

    reset_reason: str = ""
    start: Callable[[], None] | None = None
    image: Image | CompressedImage | None = None


class Inbox:
    """Filled by the executor's thread, emptied by the worker's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._work = Work()
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Images that were not located because a newer one had arrived, count."""
        return self._dropped

    @property
    def has_work(self) -> bool:
        """Whether something waits."""
        work = self._work
        return bool(work.reset_reason or work.start or work.image)

    def put_image(self, message: Image | CompressedImage) -> None:
        """Replace the waiting image; the replaced one counts as dropped."""
        with self._changed:
            self._dropped += self._work.image is not None
            self._work.image = message
            self._changed.notify()

    def put_start(self, start: Callable[[], None]) -> None:
        """Have the worker start anew before the next image."""
        with self._changed:
            self._work.start = start
            self._changed.notify()

    def put_reset(self, reason: str) -> None:
        """Have the worker drop its track; what waits is void."""
        with self._changed:
            self._work = Work(reset_reason=reason)
            self._changed.notify()

    def count_dropped(self) -> None:
        """Count an image that the worker leaves out."""
        with self._changed:
            self._dropped += 1

    def open(self) -> None:
        """Accept work; an image from before does not count."""
        with self._changed:
            self._closed, self._work.image = False, None

    def close(self) -> None:
        """Have `take` return None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> Work | None:
        """Wait for work and take all of it; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.has_work)
            if self._closed:
                return None
            work, self._work = self._work, Work()
            return work
