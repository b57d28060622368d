# SPDX-License-Identifier: Apache-2.0
"""The localizer's search of the whole map: its parameters, and a gallery that is compared with the served map."""

from pathlib import Path

import numpy as np
from rclpy.lifecycle import LifecycleNode

from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.retriever_engine import open_retriever
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.relocalization.gallery import Gallery
from geoloc_ros.core.relocalization.relocalizer import WHOLE_PLACES, Relocalizer, Search
from geoloc_ros.nodes.map_client import MapClient
from geoloc_ros.nodes.parameters import declare, value


def declare_search_parameters(node: LifecycleNode) -> None:
    """Gallery and retrieval network."""
    text = (
        "gallery of the served map, made by geoloc gallery build: with it the localizer starts without prior and "
        "finds itself again when lost; empty: none"
    )
    declare(node, "gallery", "", text)
    text = "retrieval weights that the gallery was made with: a name that ships with the package, or a file"
    declare(node, "retrieval_weights", "retrieval", text)


class MapSearch(Relocalizer):
    """A relocalizer that makes sure, before its first search, that its gallery is of the served map.

    The map server may start after the localizer, so this cannot be known any earlier.
    """

    def __init__(
        self, node: LifecycleNode, engine: NetworkEngine, served: MapClient, settings: LocalizerSettings
    ) -> None:
        """Load what the parameters name and warm it up; GeolocError if one does not fit the other."""
        folder = value(node, "engine_folder")
        retriever = open_retriever(
            value(node, "retrieval_weights"),
            value(node, "device"),
            value(node, "threads") or None,
            value(node, "engine"),
            Path(folder).expanduser() if folder else None,
        )
        self.gallery = Gallery(Path(value(node, "gallery")), retriever.weights_id)
        super().__init__(engine, retriever, self.gallery, served, settings)
        self._served = served
        self._is_of_served_map = False
        # The first calls allocate and are slow.
        self.gallery.search(retriever.embed(np.zeros((1, 64, 64, 3), np.uint8)), 1)
        engine.warm_up((2 * engine.spec.query_px,), WHOLE_PLACES)

    def process(self, frame: Frame) -> Search:
        """As Relocalizer's; GeolocError as long as the served map is another one or not available."""
        if not self._is_of_served_map:
            self.gallery.check_map(self._served)
            self._is_of_served_map = True
        return super().process(frame)
