# SPDX-License-Identifier: Apache-2.0
"""A configured localizer: engine, map, gallery, topics, and the thread that locates frames and publishes fixes."""

import contextlib
import ctypes
import math
import threading
import time
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage, Image

from geoloc_models.engines.choice import offer, open_engine
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.odometry_gate import OdometryLimits
from geoloc_ros.core.recording.stamp_gate import StampGate
from geoloc_ros.messages.stamps import message_time_s
from geoloc_ros.nodes.diagnostics import Diagnostics
from geoloc_ros.nodes.frame_inputs import FrameInputs, Gathered, without_sensors
from geoloc_ros.nodes.inbox import Inbox, Work
from geoloc_ros.nodes.localizer_outputs import Outputs
from geoloc_ros.nodes.map_client import MapClient
from geoloc_ros.nodes.map_search import MapSearch
from geoloc_ros.nodes.parameters import value

MAX_PRIOR_RADIUS_M = 20_000.0
"""A larger circle is no prior: it is searched as the whole map, with a gallery."""


@dataclass(frozen=True)
class Prior:
    """A circle to search: centre in degrees and radius (3 sigma) in metres."""

    lat_deg: float
    lon_deg: float
    radius_m: float


class LocalizerWorker:
    """Public methods and the callbacks run on the executor's thread and only store; all else runs on the worker's."""

    def __init__(self, node: LifecycleNode, settings: LocalizerSettings, diagnostics: Diagnostics) -> None:
        """Read the parameters, load and warm up the networks, subscribe and advertise; GeolocError if that fails."""
        self._node, self._settings, self._diagnostics = node, settings, diagnostics
        folder = value(node, "engine_folder")
        self.engine = open_engine(
            value(node, "weights"),
            value(node, "device"),
            value(node, "threads") or None,
            value(node, "engine"),
            Path(folder).expanduser() if folder else None,
        )
        if value(node, "engine") == "auto" and (better := offer(value(node, "device"), self.engine.spec.name)):
            node.get_logger().info(better)
        self.engine.warm_up(self.engine.usual_sides_px())
        self._inbox = Inbox()
        self._thread: threading.Thread | None = None
        self._frames = 0
        self._note = ""
        self._image_arrived_s = time.monotonic()
        with contextlib.ExitStack() as undo:
            self._map = MapClient(node, value(node, "map_timeout_s"))
            undo.callback(self._map.close)
            gallery = value(node, "gallery")
            self.search = MapSearch(node, self.engine, self._map, settings) if gallery else None
            self._outputs = Outputs(node)
            undo.callback(self._outputs.close)
            s = settings.track
            limits = OdometryLimits(s.max_speed_m_s, s.max_acceleration_m_s2, s.sigma_odometry_m_s)
            self._inputs = FrameInputs(node, self._on_image, limits)
            undo.callback(self._inputs.close)
            self._new_localizer()
            undo.pop_all()
        _give_back_memory()

    @property
    def image_topic(self) -> str:
        """Full name of the image topic."""
        return self._inputs.image_topic

    @property
    def is_active(self) -> bool:
        """Whether images are located."""
        return self._thread is not None

    @property
    def silent_s(self) -> float:
        """Since the last image or the start, s of real time."""
        return time.monotonic() - self._image_arrived_s

    def start(self) -> None:
        """Locate images from now on."""
        self._inbox.open()
        self._image_arrived_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="localize", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the frame in flight, if it runs."""
        if self._thread is not None:
            self._inbox.close()
            self._map.release()
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop, and take topics and map client down."""
        self.stop()
        self._inputs.close()
        self._outputs.close()
        self._map.close()

    def set_prior(self, prior: Prior) -> None:
        """Start anew within a circle, from the next image on."""
        self._inbox.put_start(partial(self._set_prior, prior, None))

    def relocalize(self) -> None:
        """Start anew with a search of the whole map, from the next image on."""
        self._inbox.put_start(self._search_anew)

    def reset(self, reason: str) -> None:
        """Drop the track, the samples and the waiting image."""
        self._inbox.put_reset(reason)
        self._inputs.forget()

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._image_arrived_s = time.monotonic()
        if self.is_active:
            self._inbox.put_image(message)

    # --- worker thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (work := self._inbox.take()) is not None:
            self._try(work)

    def _try(self, work: Work) -> None:
        """A fault of ours must not silence the node: it is reported, and the next image is tried."""
        try:
            self._process(work)
        except Exception:
            if rclpy.ok():  # Ctrl-C shuts ROS down under this thread
                self._node.get_logger().error(traceback.format_exc())
                self._diagnostics.set(DiagnosticStatus.ERROR, "internal error, see the node's log")

    def _process(self, work: Work) -> None:
        if work.reset_reason:
            self._start_over(work.reset_reason)
        if work.start is not None:
            self._new_localizer()  # whatever the last image's stamp was, the next one counts
            work.start()
        if work.image is not None:
            self._locate(work.image)
            if not self._inbox.has_work:
                self._localizer.look_ahead()

    def _start_over(self, why: str) -> None:
        self._new_localizer()
        clocks = self._node.count_publishers("/clock") if value(self._node, "use_sim_time") else 0
        self._note = f"{why}: the track is dropped"
        if clocks > 1:
            self._note += f" ({clocks} nodes publish /clock, stop all but one)"
        # Two players at once turn the clock back a hundred times a second.
        self._node.get_logger().warning(self._note, throttle_duration_sec=1.0)
        searches = self.search is not None and self._settings.search.cold_start
        what_next = "the whole map is searched" if searches else "a new prior is needed"
        self._diagnostics.set(DiagnosticStatus.WARN, f"{self._note}, {what_next}")

    def _new_localizer(self) -> None:
        self._localizer = Localizer(self.engine, self._map, self._settings, self.search)
        self._stamps = StampGate()

    def _set_prior(self, prior: Prior, stamp_s: float | None) -> None:
        self._note = ""
        self._outputs.set_datum(prior.lat_deg, prior.lon_deg)
        self._localizer.set_prior(prior.lat_deg, prior.lon_deg, prior.radius_m, stamp_s)

    def _search_anew(self) -> None:
        self._note = ""
        self._localizer.relocalize()

    def _locate(self, message: Image | CompressedImage) -> None:
        start = time.perf_counter()
        stamp_s = message_time_s(message)
        if self._stamps.is_late(stamp_s):
            self._inbox.count_dropped()
            return
        refusal = self._stamps.refusal(stamp_s, self._node.get_clock().now().nanoseconds * 1e-9)
        if refusal:
            gathered = without_sensors(stamp_s)
            estimate = self._localizer.refuse(gathered.frame, refusal)
        else:
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
        counts, engine = ((self._frames, self._inbox.dropped), (self.engine.spec.weights_id, self.engine.spec.label))
        self._outputs.publish_status(estimate, gathered, latencies_ms, counts, engine, stamp)
        if not refusal:  # a track at a wrong stamp would be a wrong track
            self._outputs.publish_track(estimate, gathered, stamp)
        self._outputs.publish_heatmaps(estimate, self._inputs.truth_at(stamp_s), stamp)
        self._diagnose(estimate, gathered, latencies_ms)

    def _seed_from_gnss(self, gathered: Gathered) -> None:
        """Valid GNSS gives the prior and the height of the ground, never the fix."""
        frame = gathered.frame
        gnss = self._inputs.gnss_at(frame.stamp_s)
        if gnss is None:
            return
        self._outputs.learn_ground(gnss.altitude_m, frame.height_m)
        if self._localizer.needs_prior:
            radius_m = max(value(self._node, "gnss_radius_m"), 3.0 * gnss.sigma_m)
            if radius_m > MAX_PRIOR_RADIUS_M:
                return
            self._set_prior(Prior(gnss.lat_deg, gnss.lon_deg, radius_m), frame.stamp_s)

    def _age_ms(self, stamp_s: float) -> float:
        """From image stamp to now; NaN while a simulated clock has not started."""
        now_s = self._node.get_clock().now().nanoseconds * 1e-9
        return (now_s - stamp_s) * 1e3 if now_s > 0 else float("nan")

    def _diagnose(self, estimate: Estimate, gathered: Gathered, latencies_ms: dict[str, float]) -> None:
        if estimate.valid:
            level, text = DiagnosticStatus.OK, "tracking"
        elif gathered.frame.problem or estimate.state == State.LOST:
            level, text = DiagnosticStatus.ERROR, estimate.reason
        else:
            level, text = DiagnosticStatus.WARN, estimate.reason
        bias = estimate.bias
        learned = (
            {}
            if bias is None
            else {
                "heading_offset_deg": f"{math.degrees(bias.heading_rad):.1f}",
                "height_scale": f"{math.exp(bias.log_height_scale):.3f}",
            }
        )
        self._diagnostics.set(
            level,
            text,
            {
                "state": estimate.state.name,
                "search_size_m": f"{estimate.search_size_m:.0f}",
                "motion_source": estimate.motion.source,
                "motion_refused": estimate.motion.refused,
                "frames": self._frames,
                "dropped": self._inbox.dropped,
                "odom_refused": self._inputs.odometry.refused,
                "odom_refusal": self._inputs.odometry.reason,
                "device": self.engine.spec.label,
                **learned,
                **{f"latency_{stage}_ms": f"{latency:.1f}" for stage, latency in latencies_ms.items()},
            },
        )


def _give_back_memory() -> None:
    """Return to the system what loading has freed and glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
