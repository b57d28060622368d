# SPDX-License-Identifier: Apache-2.0
"""The node localizer: camera frames in, positions out.

The executor's thread only stores what arrives and answers services. One worker thread takes the newest
picture, has the core locate it (map crops come by the service get_map) and publishes. A picture that arrives
while another is waiting replaces it and the replaced one is counted as dropped, so nothing ever queues up.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from geoloc_models.engines.choice import NAMES, open_engine
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.settings import LocalizerSettings, described_settings
from geoloc_ros.messages import conversions as messages
from geoloc_ros.nodes.diagnostics import Diagnostics
from geoloc_ros.nodes.frame_inputs import FrameInputs, Gathered, declare_input_parameters
from geoloc_ros.nodes.localizer_outputs import Outputs, declare_output_parameters
from geoloc_ros.nodes.map_client import MapClient
from geoloc_ros.nodes.map_search import MapSearch, declare_search_parameters
from geoloc_ros.nodes.parameters import declare, value
from geoloc_ros.nodes.running import made_or_told, spin_until_interrupted
from geoloc_ros.srv import SetPrior

DISORDER_S = 1.0
"""A picture older than the last one by less than this was overtaken on its way, by more: the clock went back."""

_INACTIVE = "inactive: activate it to get fixes"
_NOT_ACTIVE = "the localizer is not active; activate it first"

# Parameters that are read for every frame; all others are read at configure.
LIVE_PARAMETERS = frozenset(
    {
        "heading_deg",
        "sensor_wait_s",
        "imu_max_age_s",
        "altitude_max_age_s",
        "odom_max_age_s",
        "gnss_max_age_s",
        "gnss_radius_m",
        "heatmap_encoding",
        "altitude_stddev_m",
        "image_timeout_s",
    }
)


@dataclass(frozen=True)
class Prior:
    """A circle to search: centre in degrees and radius (3 sigma) in metres."""

    lat_deg: float
    lon_deg: float
    radius_m: float


class LocalizerNode(LifecycleNode):
    """Lifecycle shell around `core.localizer.Localizer`."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("localizer", **options)
        self._declare_parameters()
        self._wake = threading.Condition()
        self._waiting: Image | CompressedImage | None = None
        self._pending_start: Callable[[], None] | None = None
        self._reset_reason = ""
        self._stopping = False
        self._frames = self._dropped = 0
        self._last_stamp_s = -np.inf
        self._image_arrived_s = time.monotonic()
        self._note = ""
        self._worker: threading.Thread | None = None
        self._inputs: FrameInputs | None = None
        self._search: MapSearch | None = None
        self._diagnostics = Diagnostics(self, "localization")
        self.create_service(Trigger, "~/relocalize", self._on_relocalize)
        self.create_service(SetPrior, "~/set_prior", self._on_set_prior)
        backward = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-0.1), on_clock_change=False)
        self._jump = self.get_clock().create_jump_callback(backward, post_callback=self._on_clock_back)
        self.add_on_set_parameters_callback(self._check_parameters)
        # Steady time: a simulation that stands still must not silence the diagnostics.
        self.create_timer(1.0, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare_parameters(self) -> None:
        declare(self, "autostart", True, "configure and activate at start, without a lifecycle manager")
        declare(self, "weights", "default", "network weights: a name that ships with the package, or a file")
        declare(self, "device", "auto", "where inference runs: auto, cpu, cuda or cuda:N")
        text = (
            "what runs the network: auto (the fastest that geoloc export has made and found right, else torch) or one "
            "by name"
        )
        declare(self, "engine", "auto", text, choices=NAMES)
        text = "where exported engines are kept; empty: the user's cache"
        declare(self, "engine_folder", "", text)
        declare(self, "threads", 0, "CPU threads of inference; 0: all cores", 0, 256)
        declare(self, "map_timeout_s", 2.0, "how long a frame waits for its map crop, s", 0.05, 60.0)
        declare(self, "image_timeout_s", 2.0, "silence after which diagnostics say STALE, s", 0.1, 600.0)
        declare(self, "gnss_radius_m", 30.0, "least radius of a prior taken from gnss, m", 1.0, 10000.0)
        declare_search_parameters(self)
        declare_input_parameters(self)
        declare_output_parameters(self)
        for name, setting in described_settings():
            low, high = setting.metadata.get("range", (None, None))
            declare(self, name, setting.default, setting.metadata["description"], low, high)

    # --- lifecycle ------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up networks and gallery; FAILURE, with the reason in log and diagnostics, if that fails."""
        try:
            self._configure()
        except Exception as error:
            # rclpy turns an exception into a silent error, so whatever it is gets told here.
            reason = str(error) if isinstance(error, GeolocError) else traceback.format_exc()
            self.get_logger().error(f"cannot configure: {reason}")
            self._diagnostics.set(DiagnosticStatus.ERROR, f"cannot configure: {reason}")
            return TransitionCallbackReturn.FAILURE
        self._diagnostics.set(DiagnosticStatus.WARN, _INACTIVE, {}, self._engine.spec.weights_id)
        return super().on_configure(state)

    def _configure(self) -> None:
        self._settings = LocalizerSettings.of({name: value(self, name) for name, _ in described_settings()})
        threads = value(self, "threads")
        self._engine = open_engine(
            value(self, "weights"),
            value(self, "device"),
            threads or None,
            value(self, "engine"),
            Path(folder).expanduser() if (folder := value(self, "engine_folder")) else None,
        )
        self._engine.warm_up(self._engine.usual_sides_px())
        self._map = MapClient(self, value(self, "map_timeout_s"))
        try:
            gallery = value(self, "gallery")
            self._search = MapSearch(self, self._engine, self._map, self._settings) if gallery else None
            self._outputs = Outputs(self)
        except Exception:
            self._map.close()
            raise
        self._inputs = FrameInputs(self, self._on_image)
        self._new_localizer()
        _give_back_memory()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker."""
        self._stopping = False
        self._waiting = None
        self._image_arrived_s = time.monotonic()
        self._worker = threading.Thread(target=self._work, name="localize", daemon=True)
        self._worker.start()
        self._diagnostics.set(DiagnosticStatus.WARN, "active: no picture yet")
        self.get_logger().info(
            f"localizing on {self._engine.spec.label} with weights {self._engine.spec.weights_id}; "
            f"pictures from {self._inputs.image_topic}"  # type: ignore[union-attr]
        )
        if self._search is not None:
            gallery = self._search.gallery
            self.get_logger().info(
                f"searching the whole map with {gallery.path}, {len(gallery)} tiles, when lost or without prior"
            )
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the worker after the frame in flight."""
        self.stop()
        self._diagnostics.set(DiagnosticStatus.WARN, _INACTIVE)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of topics, map client, gallery and networks."""
        self._release()
        self._diagnostics.set(DiagnosticStatus.WARN, "not configured", {}, "")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self.stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self._worker is None:
            return
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._map.release()
        self._worker.join()
        self._worker = None

    def _release(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._outputs.close()
            self._map.close()
            self._inputs = self._search = None
            del self._engine, self._localizer

    # --- executor thread ------------------------------------------------------------------------------------

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._image_arrived_s = time.monotonic()
        if self._worker is None:
            return
        with self._wake:
            self._dropped += self._waiting is not None
            self._waiting = message
            self._wake.notify()

    def _on_set_prior(self, request: SetPrior.Request, response: SetPrior.Response) -> SetPrior.Response:
        place = f"latitude {request.latitude_deg:.6f}, longitude {request.longitude_deg:.6f}"
        try:
            if self._worker is None:
                raise GeolocError(_NOT_ACTIVE)
            LocalEnu(request.latitude_deg, request.longitude_deg)
            if not (np.isfinite(request.radius_m) and request.radius_m > 0):
                raise GeolocError(f"radius is {request.radius_m} m; it must be positive")
        except GeolocError as error:
            response.success, response.message = False, str(error)
            return response
        prior = Prior(request.latitude_deg, request.longitude_deg, request.radius_m)
        self._start_next(partial(self._set_prior, prior, None))
        response.success = True
        response.message = f"searching {request.radius_m:g} m around {place} from the next picture on"
        return response

    def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None and self._search is not None
        if self._worker is None:
            response.message = _NOT_ACTIVE
        elif self._search is None:
            response.message = (
                "there is no gallery to search: build one with `geoloc gallery build MAP` and name it by the "
                "parameter gallery, or call ~/set_prior with a position and a radius"
            )
        else:
            self._start_next(self._search_anew)
            response.message = "the track is forgotten, the whole map is searched from the next picture on"
        return response

    def _start_next(self, start: Callable[[], None]) -> None:
        """Have the worker start anew before the next picture."""
        with self._wake:
            self._pending_start = start
            self._wake.notify()

    def _on_clock_back(self, jump: TimeJump) -> None:
        self._reset(f"the clock went back by {-jump.delta.nanoseconds * 1e-9:.1f} s")

    def _reset(self, why: str) -> None:
        """Forget the track, the samples and the waiting picture."""
        with self._wake:
            self._reset_reason = why
            self._waiting = self._pending_start = None
            self._wake.notify()
        if self._inputs is not None:
            self._inputs.forget()

    def _check_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        fixed = [parameter.name for parameter in parameters if parameter.name not in LIVE_PARAMETERS]
        if self._inputs is None or not fixed or fixed == ["use_sim_time"]:
            return SetParametersResult(successful=True)
        return SetParametersResult(
            successful=False,
            reason=f"{', '.join(fixed)} is read at configure: deactivate and clean up first, then set it",
        )

    def _every_second(self) -> None:
        silent_s = time.monotonic() - self._image_arrived_s
        if self._worker and self._inputs and silent_s > value(self, "image_timeout_s"):
            topic = self._inputs.image_topic
            self._diagnostics.set(DiagnosticStatus.STALE, f"no picture on {topic}; is the camera running?")
        self._diagnostics.publish()

    # --- worker thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._stopping or self._waiting or self._pending_start or self._reset_reason
                )
                if self._stopping:
                    return
                reset_reason, self._reset_reason = self._reset_reason, ""
                start, self._pending_start = self._pending_start, None
                message, self._waiting = self._waiting, None
            try:
                if reset_reason:
                    self._start_over(reset_reason)
                if start is not None:
                    self._new_localizer()  # whatever the last picture's stamp was, the next one counts
                    start()
                if message is not None:
                    self._locate(message)
                    if not (self._waiting or self._pending_start or self._reset_reason):
                        self._localizer.look_ahead()
            except Exception:
                if not rclpy.ok():
                    return  # Ctrl-C has taken ROS away
                # A fault of ours must not silence the node: it is told, and the next picture is tried.
                self.get_logger().error(traceback.format_exc())
                self._diagnostics.set(DiagnosticStatus.ERROR, "internal error, see the node's log")

    def _start_over(self, why: str) -> None:
        self._new_localizer()
        clocks = self.count_publishers("/clock") if value(self, "use_sim_time") else 0
        self._note = f"{why}: the track is forgotten"
        if clocks > 1:
            self._note += f" ({clocks} nodes publish /clock, stop all but one)"
        # Two players at once turn the clock back a hundred times a second.
        self.get_logger().warning(self._note, throttle_duration_sec=1.0)
        searches = self._search is not None and self._settings.search.cold_start
        what_next = "the whole map is searched" if searches else "a new prior is needed"
        self._diagnostics.set(DiagnosticStatus.WARN, f"{self._note}, {what_next}")

    def _new_localizer(self) -> None:
        self._localizer = Localizer(self._engine, self._map, self._settings, self._search)
        self._last_stamp_s = -np.inf

    def _set_prior(self, prior: Prior, stamp_s: float | None) -> None:
        self._note = ""
        self._outputs.set_datum(prior.lat_deg, prior.lon_deg)
        self._localizer.set_prior(prior.lat_deg, prior.lon_deg, prior.radius_m, stamp_s)

    def _search_anew(self) -> None:
        self._note = ""
        self._localizer.relocalize()

    def _locate(self, message: Image | CompressedImage) -> None:
        assert self._inputs is not None
        start = time.perf_counter()
        stamp_s = messages.seconds_from_time(message.header.stamp)
        if self._last_stamp_s - DISORDER_S < stamp_s < self._last_stamp_s:
            with self._wake:
                self._dropped += 1
            return
        self._last_stamp_s = stamp_s
        gathered = self._inputs.gather(message)
        self._seed_from_gnss(gathered)
        estimate = self._localizer.process(gathered.frame)
        if self._note and estimate.state == State.UNINITIALIZED:
            estimate = replace(estimate, reason=f"{estimate.reason} ({self._note})")
        if estimate.valid:
            self._outputs.set_datum(estimate.lat_deg, estimate.lon_deg)
        self._frames += 1
        stamp = message.header.stamp
        self._outputs.publish_fix(estimate, gathered.frame.height_m, stamp)
        latencies_ms = {
            **estimate.latencies_ms,
            "decode": gathered.decode_ms,
            "total": (time.perf_counter() - start) * 1e3,
            "age": self._age_ms(stamp_s),
        }
        counts, engine = (
            (self._frames, self._dropped),
            (self._engine.spec.weights_id, self._engine.spec.label),
        )
        self._outputs.publish_status(estimate, latencies_ms, counts, engine, stamp)
        self._outputs.publish_odometry(estimate, gathered, stamp)
        self._outputs.publish_pictures(estimate, self._inputs.truth_at(stamp_s), stamp)
        self._diagnose(estimate, gathered, latencies_ms)

    def _seed_from_gnss(self, gathered: Gathered) -> None:
        """While GNSS is valid it says where to start and how high the ground is, never where the fix is."""
        assert self._inputs is not None
        frame = gathered.frame
        gnss = self._inputs.gnss_at(frame.stamp_s)
        if gnss is None:
            return
        self._outputs.learn_ground(gnss.altitude_m, frame.height_m)
        if self._localizer.needs_prior:
            radius_m = max(value(self, "gnss_radius_m"), 3.0 * gnss.sigma_m)
            self._set_prior(Prior(gnss.lat_deg, gnss.lon_deg, radius_m), frame.stamp_s)

    def _age_ms(self, stamp_s: float) -> float:
        """From image stamp to now; NaN while a simulated clock has not started."""
        now_s = self.get_clock().now().nanoseconds * 1e-9
        return (now_s - stamp_s) * 1e3 if now_s > 0 else float("nan")

    def _diagnose(self, estimate: Estimate, gathered: Gathered, latencies_ms: dict[str, float]) -> None:
        if estimate.valid:
            level, text = DiagnosticStatus.OK, "tracking"
        elif gathered.frame.problem or estimate.state == State.LOST:
            level, text = DiagnosticStatus.ERROR, estimate.reason
        else:
            level, text = DiagnosticStatus.WARN, estimate.reason
        self._diagnostics.set(
            level,
            text,
            {
                "state": estimate.state.name,
                "search_size_m": f"{estimate.search_size_m:.0f}",
                "frames": self._frames,
                "dropped": self._dropped,
                "device": self._engine.spec.label,
                **{f"latency_{stage}_ms": f"{latency:.1f}" for stage, latency in latencies_ms.items()},
            },
        )


def _give_back_memory() -> None:
    """To the system, what loading has freed and glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> int:
    """Run the node until it is interrupted; 2 if a parameter does not fit."""
    rclpy.init()
    node = made_or_told("localizer", LocalizerNode)
    if node is None:
        return 2
    try:
        if value(node, "autostart") and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        spin_until_interrupted(node)
    finally:
        node.stop()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
