# SPDX-License-Identifier: Apache-2.0
"""From camera frames to positions: the door to the states (states.py). No ROS here."""

import contextlib
import math
from dataclasses import replace

from geoloc_models.engines import Engine
from geoloc_models.engines.placer import placing
from geoloc_models.errors import GeolocError
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.own_motion import OwnMotion
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.localization.states import Confirming, Equipment, Idle, LocalizerState, Searching, Tracking
from geoloc_ros.core.maps.cached_crop import CachedCrop
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.relocalization.relocalizer import Relocalizer


class Localizer:
    """Follows a vehicle over a map, one frame at a time."""

    def __init__(
        self,
        engine: Engine,
        map_source: MapSource,
        settings: LocalizerSettings | None = None,
        relocalizer: Relocalizer | None = None,
    ) -> None:
        """relocalizer: searches the whole map at a start without a prior and after a lost track; None: neither."""
        settings = settings or LocalizerSettings()
        most_px = settings.map.max_search_px
        if most_px <= engine.spec.query_px:
            raise GeolocError(
                f"map.max_search_px is {most_px}; it must be more than the view's {engine.spec.query_px} px"
            )
        engine = placing(engine)
        crops = CachedCrop(map_source, engine.spec.map_multiple_px, most_px)
        self._equipment = Equipment(engine, crops, settings, relocalizer)
        self._state: LocalizerState = Idle(self._equipment)
        self._stamp_s = -math.inf
        self._motion = OwnMotion(settings.pose)
        self._bias: PoseBias | None = None

    @property
    def state(self) -> State:
        """As published."""
        return self._state.code

    @property
    def needs_prior(self) -> bool:
        """Whether there is no track, or one without matches: a position from elsewhere helps."""
        return isinstance(self._state, Idle | Searching) or self.state == State.DEAD_RECKONING

    @property
    def searching(self) -> bool:
        """Whether frames are matched against the whole map."""
        return isinstance(self._state, Searching)

    def set_prior(self, lat_deg: float, lon_deg: float, radius_m: float, stamp_s: float | None = None) -> None:
        """Start anew within radius_m (3 sigma) of a place, known at stamp_s (None: at the next frame)."""
        if not (math.isfinite(radius_m) and radius_m > 0):
            raise GeolocError(f"radius of the prior is {radius_m} m; it must be positive")
        self._state = Confirming.at(self._equipment, lat_deg, lon_deg, radius_m, stamp_s)
        self._bias = None

    def relocalize(self) -> None:
        """Forget the track and search the whole map from the next frame on; GeolocError without a gallery."""
        if self._equipment.relocalizer is None:
            raise GeolocError(
                "there is no gallery to search: build one with `geoloc gallery build` and name it, or set a prior"
            )
        self._state = Searching(self._equipment, self._equipment.relocalizer)

    def process(self, frame: Frame) -> Estimate:
        """Locate one frame. A bad frame gives an invalid estimate with the reason; nothing is raised."""
        if not math.isfinite(frame.stamp_s):
            return self._state.refuse(frame, f"stamp is {frame.stamp_s} s, no moment in time: stamp each image")
        if frame.stamp_s < self._stamp_s:
            back_s = self._stamp_s - frame.stamp_s
            self._state, self._stamp_s = Idle(self._equipment), frame.stamp_s
            self._motion, self._bias = OwnMotion(self._equipment.settings.pose), None
            return self._state.refuse(
                frame, f"the clock went back by {back_s:.2f} s: the track is forgotten, set a new prior"
            )
        if frame.stamp_s == self._stamp_s:
            # One image twice would confirm itself.
            return self._state.refuse(
                frame, f"stamp {frame.stamp_s:.3f} s is that of the last frame: stamp each image anew"
            )
        self._stamp_s = frame.stamp_s
        if isinstance(self._state, Idle):
            estimate, self._state = self._state.process(frame)
            return estimate
        frame, motion = self._motion.add_to(frame, self._bias)
        estimate, self._state = self._state.process(frame)
        self._bias = estimate.bias or self._bias
        times = estimate.latencies_ms
        times = {"odometry": motion.ms, **times, "total": times["total"] + motion.ms}
        return replace(estimate, motion=motion, latencies_ms=times)

    def refuse(self, frame: Frame, reason: str) -> Estimate:
        """The answer to a frame that is not looked at; the track stays as it is."""
        return self._state.refuse(frame, reason)

    def look_ahead(self) -> None:
        """Get the crop that the track will need soon and what the engine caches of it, so that no frame waits for them.

        For moments in which no frame waits. What cannot be had now is reported with the frame that needs it.
        """
        if not isinstance(self._state, Tracking):
            return
        with contextlib.suppress(GeolocError):
            crop, engine = self._equipment.crops.renew(), self._equipment.engine
            if crop is not None:
                engine.prepare(crop.image)
