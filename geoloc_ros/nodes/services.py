# SPDX-License-Identifier: Apache-2.0
"""Asking a service from a thread that may block, while another spins the node."""

import threading
from typing import Any

from rclpy.client import Client


def ask(client: Client, request: Any, timeout_s: float, answered: threading.Event | None = None) -> Any | None:
    """The answer to one call, None if it does not come in time or if `answered` is set by somebody else first.

    An answer may be lost where the two nodes have only just met, so who needs one asks again.
    """
    answered = answered or threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda _: answered.set())
    if answered.wait(timeout_s) and future.done():
        return future.result()
    client.remove_pending_request(future)
    return None
