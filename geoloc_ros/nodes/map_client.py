# SPDX-License-Identifier: Apache-2.0
"""The map as the localizer sees it: crops by the service get_map."""

import threading

from rclpy.node import Node

from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.messages.maps import crop_from_response, empty_crop
from geoloc_ros.nodes.services import ask
from geoloc_ros.srv import GetMap


class MapClient:
    """A MapSource that asks the map server. `crop` blocks, so call it from the worker thread only."""

    def __init__(self, node: Node, timeout_s: float) -> None:
        self._node = node
        self._client = node.create_client(GetMap, "get_map")
        self._timeout_s = timeout_s
        self._answered = threading.Event()

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        """The crop, or one of status TIMED_OUT when no answer comes in time."""
        request = GetMap.Request(
            latitude_deg=float(lat_deg), longitude_deg=float(lon_deg), size_m=float(size_m), size_px=int(size_px)
        )
        # Nodes that start together find each other within a second or so: the first frame waits for it.
        if not self._client.wait_for_service(self._timeout_s):
            return empty_crop(
                request,
                CropStatus.TIMED_OUT,
                f"no map server answers on {self._client.srv_name}; start map_server or remap get_map",
            )
        self._answered = threading.Event()
        response = ask(self._client, request, self._timeout_s, self._answered)
        if response is None:
            return empty_crop(
                request,
                CropStatus.TIMED_OUT,
                f"the map server did not answer within {self._timeout_s:g} s; "
                "raise map_timeout_s or look at the map server's load",
            )
        return crop_from_response(request, response)

    def release(self) -> None:
        """Let a waiting `crop` return at once, for shutting down."""
        self._answered.set()

    def close(self) -> None:
        """Give the client back to the node."""
        self._node.destroy_client(self._client)
