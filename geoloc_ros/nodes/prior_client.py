# SPDX-License-Identifier: Apache-2.0
"""Giving a localizer its prior, for nodes that have one."""

import threading
import time

from rclpy.node import Node

from geoloc_models.errors import GeolocError
from geoloc_ros.nodes.services import ask
from geoloc_ros.srv import SetPrior

ANSWER_S = 5.0
"""How long the localizer may take to answer one call."""
PAUSE_S = 0.2


class PriorClient:
    """A client of localizer/set_prior. The node must be spun by another thread than the caller's."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._client = node.create_client(SetPrior, "localizer/set_prior")

    def set(
        self, lat_deg: float, lon_deg: float, radius_m: float, wait_s: float, ended: threading.Event | None = None
    ) -> None:
        """Ask until the localizer takes the prior, as it refuses while it is still loading, or `ended` is set.

        GeolocError with the last refusal when it has not after `wait_s`.
        """
        ended = ended or threading.Event()
        request = SetPrior.Request(latitude_deg=lat_deg, longitude_deg=lon_deg, radius_m=radius_m)
        end, refusal = time.monotonic() + wait_s, f"{self._client.srv_name} does not answer"
        while not ended.is_set():
            response = ask(self._client, request, ANSWER_S) if self._client.wait_for_service(PAUSE_S) else None
            if response is not None and response.success:
                self._node.get_logger().info(f"prior set: {response.message}")
                return
            refusal = refusal if response is None else response.message
            if time.monotonic() > end:
                raise GeolocError(f"no prior set within {wait_s:g} s: {refusal}")
            ended.wait(PAUSE_S)
