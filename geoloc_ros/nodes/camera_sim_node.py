# SPDX-License-Identifier: Apache-2.0
"""The node camera_sim: publishes what a camera over a georeferenced raster sees.

It flies a path of its own, or follows the vehicle that an autopilot's simulator flies.
"""

import math
import sys
import time
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.simulation.simulator import TYPICAL, CameraSimulator, Degradation
from geoloc_ros.core.simulation.trajectory import PATTERNS, SensorNoise, Trajectory
from geoloc_ros.nodes.frame_topics import FrameTopics
from geoloc_ros.nodes.parameters import choice, declare, value
from geoloc_ros.nodes.running import run_node
from geoloc_ros.nodes.vehicle_camera import VehicleCamera

# name: (default, lowest, highest, what it is)
_NUMBERS = {
    "height_m": (120.0, 1.0, 10000.0, "height above ground, m"),
    "speed_m_s": (12.0, 0.1, 200.0, "ground speed between the turns, m/s"),
    "rate_hz": (20.0, 0.1, 100.0, "frames a second; of a vehicle at most so many"),
    "start_s": (0.0, 0.0, 1e6, "where on the path to start, s"),
    "attitude_noise_deg": (0.0, 0.0, 30.0, "error of the published roll and pitch, degrees, 1 sigma"),
    "heading_noise_deg": (0.0, 0.0, 90.0, "error of the published heading, degrees, 1 sigma"),
    "height_noise": (0.0, 0.0, 0.5, "error of the published height, share of it, 1 sigma"),
    "exposure": (TYPICAL.exposure, 0.05, 20.0, "gain of the image"),
    "noise": (TYPICAL.noise, 0.0, 100.0, "sensor noise, 8-bit levels, 1 sigma"),
    "blur_px": (TYPICAL.blur_px, 0.0, 20.0, "lens blur, standard deviation, px"),
    "shutter_s": (TYPICAL.shutter_s, 0.0, 1.0, "open time, for motion blur on a path, s"),
}
_FOCAL_PX = 490.0
SOURCES = ("path", "vehicle")


class CameraSimNode(Node):
    """A CameraSimulator on a path or on a vehicle."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("camera_sim", **options)
        declare(self, "map", "", "raster that the camera sees; serve another date of it for an independent test")
        declare(self, "camera", "", "camera.yaml; empty: 640x480 with 66 degrees of view")
        text = (
            "path: fly one and publish all that a camera drone does; vehicle: publish images only, seen from the "
            "pose on truth and truth_attitude, such as mavlink_bridge gives of an autopilot's simulator"
        )
        declare(self, "source", "path", text, choices=SOURCES)
        text = (
            "vehicle: ellipsoidal altitude of the ground, m; not a number: where the vehicle is at first, as on the "
            "ground"
        )
        declare(self, "ground_altitude_m", math.nan, text)
        declare(self, "pattern", "lawnmower", "path over the ground", choices=PATTERNS)
        declare(self, "publish_clock", False, "be the source of /clock")
        declare(self, "seed", 0, "of path, gusts and noise", 0, 2**31 - 1)
        for name, (default, low, high, text) in _NUMBERS.items():
            declare(self, name, default, text, low, high)
        raster = value(self, "map")
        if not raster:
            raise GeolocError("no map is set; start with -p map:=FILE")
        number = {name: value(self, name) for name in _NUMBERS}
        source, seed = choice(self, "source", SOURCES), value(self, "seed")
        self._simulator = CameraSimulator(raster, self._camera(), self._degradation(number), seed)
        if source == "vehicle":
            self._follower = VehicleCamera(self, self._simulator, number["rate_hz"])
        else:
            self._fly_path(number, seed)
            self.get_logger().info(f"flying over {raster}, {self._path.duration_s:.0f} s a round")

    def _fly_path(self, number: dict[str, float], seed: int) -> None:
        """Put the camera on a timer. The path is flown again and again; the time goes on."""
        self._topics = FrameTopics(self)
        pattern = choice(self, "pattern", PATTERNS)
        self._path = Trajectory.over(self._simulator, pattern, number["height_m"], number["speed_m_s"], seed)
        self._noise = SensorNoise(
            number["attitude_noise_deg"], number["heading_noise_deg"], number["height_noise"], seed
        )
        self._start_s = number["start_s"]
        self._begun = time.monotonic()
        self._publish_clock = value(self, "publish_clock")
        self.create_timer(1.0 / number["rate_hz"], self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _camera(self) -> CameraModel:
        path = value(self, "camera")
        if path:
            return CameraModel.from_yaml(path)
        return CameraModel(640, 480, np.array([[_FOCAL_PX, 0, 319.5], [0, _FOCAL_PX, 239.5], [0, 0, 1]]))

    def _degradation(self, number: dict[str, float]) -> Degradation:
        return Degradation(
            exposure=number["exposure"],
            gamma=TYPICAL.gamma,
            vignetting=TYPICAL.vignetting,
            blur_px=number["blur_px"],
            noise=number["noise"],
            shutter_s=number["shutter_s"],
        )

    def _on_timer(self) -> None:
        flown_s = self._start_s + time.monotonic() - self._begun
        pose = self._path.at(flown_s % self._path.duration_s)
        # As the only clock it counts from the start; else frames have the time that others have.
        stamp_s = flown_s if self._publish_clock else self.get_clock().now().nanoseconds * 1e-9
        if self._publish_clock:
            self._topics.publish_clock(stamp_s)
        rotation, height_m = self._noise.record(pose)
        self._topics.publish(
            Frame(
                image=self._simulator.render_pose(pose),
                stamp_s=stamp_s,
                rotation_enu_from_optical=rotation,
                height_m=height_m,
                camera=self._simulator.camera,
                truth=Truth(pose.lat_deg, pose.lon_deg, pose.height_m),
            )
        )

    def close(self) -> None:
        """Close the raster."""
        self._simulator.close()


def main() -> int:
    """Fly until interrupted; 2 if the parameters do not allow it."""
    return run_node("camera_sim", CameraSimNode)


if __name__ == "__main__":
    sys.exit(main())
