# SPDX-License-Identifier: Apache-2.0
"""The node localizer: camera frames in, positions out.

The executor's thread only stores what arrives and answers services. One worker thread takes the newest image, has the
core locate it (map crops come by the service get_map) and publishes: parameter and lifecycle calls are answered while a
frame is in flight.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from geoloc_models.engines.choice import NAMES
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import check_place
from geoloc_ros.core.matching.settings import LocalizerSettings, described_settings
from geoloc_ros.nodes.diagnostics import Diagnostics
from geoloc_ros.nodes.frame_inputs import declare_input_parameters
from geoloc_ros.nodes.localizer_outputs import declare_output_parameters
from geoloc_ros.nodes.localizer_worker import MAX_PRIOR_RADIUS_M, LocalizerWorker, Prior
from geoloc_ros.nodes.map_search import declare_search_parameters
from geoloc_ros.nodes.parameters import declare, value
from geoloc_ros.nodes.running import create_or_report, spin_until_interrupted
from geoloc_ros.srv import SetPrior

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


class LocalizerNode(LifecycleNode):
    """Lifecycle, parameters and services around a LocalizerWorker."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("localizer", **options)
        self._declare_parameters()
        self._worker: LocalizerWorker | None = None  # from configure to cleanup
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
        text = "where exported engines are stored; empty: the user's cache"
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
            # rclpy turns an exception into a silent error, so whatever it is must be reported here.
            reason = str(error) if isinstance(error, GeolocError) else traceback.format_exc()
            self.get_logger().error(f"cannot configure: {reason}")
            self._diagnostics.set(DiagnosticStatus.ERROR, f"cannot configure: {reason}")
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def _configure(self) -> None:
        settings = LocalizerSettings.of({name: value(self, name) for name, _ in described_settings()})
        self._worker = LocalizerWorker(self, settings, self._diagnostics)
        self._diagnostics.set(DiagnosticStatus.WARN, _INACTIVE, {}, self._worker.engine.spec.weights_id)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker."""
        worker = self._worker
        assert worker is not None  # by the lifecycle
        worker.start()
        self._diagnostics.set(DiagnosticStatus.WARN, "active: no image yet")
        self.get_logger().info(
            f"localizing on {worker.engine.spec.label} with weights {worker.engine.spec.weights_id}; "
            f"images from {worker.image_topic}"
        )
        if worker.search is not None:
            gallery = worker.search.gallery
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
        """Release topics, map client, gallery and networks."""
        self._release()
        self._diagnostics.set(DiagnosticStatus.WARN, "not configured", {}, "")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop(self) -> None:
        """End the worker's thread, if there is one."""
        if self._worker is not None:
            self._worker.stop()

    def _release(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    # --- services, parameters, diagnostics ------------------------------------------------------------------

    @property
    def _active(self) -> LocalizerWorker | None:
        return self._worker if self._worker is not None and self._worker.is_active else None

    def _on_set_prior(self, request: SetPrior.Request, response: SetPrior.Response) -> SetPrior.Response:
        place = f"latitude {request.latitude_deg:.6f}, longitude {request.longitude_deg:.6f}"
        worker = self._active
        try:
            if worker is None:
                raise GeolocError(_NOT_ACTIVE)
            check_place(request.latitude_deg, request.longitude_deg)
            if not 0 < request.radius_m <= MAX_PRIOR_RADIUS_M:  # NaN too
                raise GeolocError(
                    f"radius is {request.radius_m} m; it must be positive and at most {MAX_PRIOR_RADIUS_M:.0f} m"
                )
        except GeolocError as error:
            response.success, response.message = False, str(error)
            return response
        worker.set_prior(Prior(request.latitude_deg, request.longitude_deg, request.radius_m))
        response.success = True
        response.message = f"searching {request.radius_m:g} m around {place} from the next image on"
        return response

    def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        worker = self._active
        response.success = worker is not None and worker.search is not None
        if worker is None:
            response.message = _NOT_ACTIVE
        elif worker.search is None:
            response.message = (
                "there is no gallery to search: build one with `geoloc gallery build MAP` and name it by the "
                "parameter gallery, or call ~/set_prior with a position and a radius"
            )
        else:
            worker.relocalize()
            response.message = "the track is dropped, the whole map is searched from the next image on"
        return response

    def _on_clock_back(self, jump: TimeJump) -> None:
        if self._worker is not None:
            self._worker.reset(f"the clock went back by {-jump.delta.nanoseconds * 1e-9:.1f} s")

    def _check_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        fixed = [parameter.name for parameter in parameters if parameter.name not in LIVE_PARAMETERS]
        if self._worker is None or not fixed or fixed == ["use_sim_time"]:
            return SetParametersResult(successful=True)
        return SetParametersResult(
            successful=False,
            reason=f"{', '.join(fixed)} is read at configure: deactivate and clean up first, then set it",
        )

    def _every_second(self) -> None:
        worker = self._active
        if worker is not None and worker.silent_s > value(self, "image_timeout_s"):
            text = f"no image on {worker.image_topic}; is the camera running?"
            self._diagnostics.set(DiagnosticStatus.STALE, text)
        self._diagnostics.publish()


def main() -> int:
    """Run the node until it is interrupted; 2 if a parameter does not fit."""
    rclpy.init()
    node = create_or_report("localizer", LocalizerNode)
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
