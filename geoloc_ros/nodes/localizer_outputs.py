# SPDX-License-Identifier: Apache-2.0
"""The localizer's outputs: fix, pose, odometry, status, drawings of the heatmap."""

import math
from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image, NavSatFix

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.body_pose import BodyPose, body_pose
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.overlay import draw_candidates, draw_overlay
from geoloc_ros.messages.maps import grid_from_heatmap, image_from_heatmap
from geoloc_ros.messages.odometry import odometry_from_filter, pose_from_filter, transform_from_odom
from geoloc_ros.messages.sensors import fix_from_position, image_from_rgb, no_fix
from geoloc_ros.messages.status import status_from_estimate
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.nodes.frame_inputs import Gathered
from geoloc_ros.nodes.parameters import choice, declare, value

HEATMAP_ENCODINGS = ("mono8", "rgb8")


def declare_output_parameters(node: LifecycleNode) -> None:
    """Frames of reference, altitude and drawings."""
    declare(node, "base_frame", "base_link", "frame_id of the fix, the vehicle's body")
    declare(node, "map_frame", "map", "frame_id of pose, odometry and grid: ENU around the datum")
    text = (
        "latitude and longitude of the map frame's origin, degrees; not a number: the first prior or, without one, "
        "the first fix"
    )
    declare(node, "datum", [math.nan, math.nan], text)
    text = (
        "ellipsoidal height of the ground, m; with the height above ground it makes the fix's altitude; not "
        "a number: taken from valid gnss, and the altitude is not a number until then"
    )
    declare(node, "ground_altitude_m", math.nan, text)
    text = "standard deviation of the fix's altitude, and of the pose's height until its scale is learned, m"
    declare(node, "altitude_stddev_m", 5.0, text, 0.1, 1000.0)
    declare(node, "publish_tf", False, "publish map→odom from the filtered place, imu and odom; needs tf2_ros")
    declare(node, "heatmap_encoding", "mono8", "encoding of ~/heatmap", choices=HEATMAP_ENCODINGS)


class Outputs:
    """The publishers of an active localizer, used by the worker thread only."""

    def __init__(self, node: LifecycleNode) -> None:
        """Read the parameters and advertise; GeolocError for an impossible one."""
        self._node = node
        choice(node, "heatmap_encoding", HEATMAP_ENCODINGS)
        self._base_frame, self._map_frame = value(node, "base_frame"), value(node, "map_frame")
        self._ground_altitude_m = value(node, "ground_altitude_m")
        datum = value(node, "datum")
        if len(datum) != 2:
            raise GeolocError(f"datum has {len(datum)} values; it needs latitude and longitude")
        self._map_origin = None if math.isnan(datum[0]) else LocalEnu(*datum)
        self._broadcaster = _transform_broadcaster(node) if value(node, "publish_tf") else None
        self._fix = node.create_lifecycle_publisher(NavSatFix, "~/fix", 10)
        self._status = node.create_lifecycle_publisher(LocalizerStatus, "~/status", 10)
        self._odometry = node.create_lifecycle_publisher(Odometry, "~/odometry", 10)
        self._pose = node.create_lifecycle_publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self._heatmap = node.create_lifecycle_publisher(Image, "~/heatmap", 1)
        self._overlay = node.create_lifecycle_publisher(Image, "~/heatmap/overlay", 1)
        self._grid = node.create_lifecycle_publisher(OccupancyGrid, "~/heatmap/grid", 1)
        drawings = [self._heatmap, self._overlay, self._grid]
        self._all = [self._fix, self._status, self._odometry, self._pose, *drawings]

    def close(self) -> None:
        """Take the topics down."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)

    def set_datum(self, lat_deg: float, lon_deg: float) -> None:
        """Make this the map frame's origin unless it has one."""
        if self._map_origin is None:
            self._map_origin = LocalEnu(lat_deg, lon_deg)

    def learn_ground(self, altitude_m: float, height_m: float) -> None:
        """Take the ground's ellipsoidal height from a GNSS altitude, unless a parameter gives it."""
        if math.isnan(value(self._node, "ground_altitude_m")) and math.isfinite(altitude_m - height_m):
            self._ground_altitude_m = altitude_m - height_m

    def publish_fix(self, estimate: Estimate, height_m: float, stamp: Time) -> None:
        """Every frame gets one: a fix, or NO_FIX with NaN."""
        if not estimate.valid:
            self._fix.publish(no_fix(stamp, self._base_frame))
            return
        self._fix.publish(
            fix_from_position(
                estimate.lat_deg,
                estimate.lon_deg,
                self._ground_altitude_m + height_m,
                estimate.covariance_enu_m2,
                value(self._node, "altitude_stddev_m") ** 2,
                stamp,
                self._base_frame,
            )
        )

    def publish_status(
        self,
        estimate: Estimate,
        gathered: Gathered,
        latencies_ms: Mapping[str, float],
        counts: tuple[int, int],
        engine: tuple[str, str],
        stamp: Time,
    ) -> None:
        """State, confidence and latencies of one frame."""
        heading_deg = self._body(estimate, gathered).heading_deg
        self._status.publish(
            status_from_estimate(estimate, heading_deg, stamp, self._base_frame, latencies_ms, counts, engine)
        )

    def publish_track(self, estimate: Estimate, gathered: Gathered, stamp: Time) -> None:
        """Pose, odometry and transform of the filtered track, while there is one."""
        track = estimate.filtered
        if track is None or self._map_origin is None:
            return
        body = self._body(estimate, gathered)
        place_m = (*self._map_origin.to_enu(track.lat_deg, track.lon_deg), body.height_m)
        rotation, frames = body.rotation_enu_from_body, (self._map_frame, self._base_frame)
        self._pose.publish(pose_from_filter(place_m, track.covariance[:2, :2], body, stamp, self._map_frame))
        yaw_variance_rad2 = float(body.rotation_covariance_rad2[2, 2])
        self._odometry.publish(
            odometry_from_filter(
                place_m, track.velocity_enu, track.covariance, rotation, stamp, frames, yaw_variance_rad2
            )
        )
        if self._broadcaster is not None and gathered.attitude is not None and gathered.motion is not None:
            self._broadcaster.sendTransform(
                transform_from_odom(place_m, rotation, gathered.motion, stamp, self._map_frame)
            )

    def _body(self, estimate: Estimate, gathered: Gathered) -> BodyPose:
        return body_pose(
            gathered.frame,
            gathered.attitude,
            estimate.bias,
            math.radians(value(self._node, "pose.sigma_attitude_deg")),
            value(self._node, "altitude_stddev_m"),
        )

    def publish_heatmaps(self, estimate: Estimate, truth: tuple[float, float] | None, stamp: Time) -> None:
        """Heatmap, overlay and grid, each drawn only while it has a subscriber.

        During a search the overlay is a sheet of the candidates, the others show the likeliest one's heatmap.
        """
        heatmap, crop = estimate.heatmap, estimate.crop
        best = estimate.candidates[0].match if estimate.candidates else None
        if best is not None:
            heatmap, crop = best.heatmap, best.crop
        drawn = None
        if self._overlay.get_subscription_count() > 0:
            if estimate.candidates:
                drawn = draw_candidates(estimate, truth)
            elif heatmap is not None and crop is not None:
                drawn = draw_overlay(crop, heatmap, estimate, truth)
        if drawn is not None:
            self._overlay.publish(image_from_rgb(drawn, stamp, self._map_frame))
        if heatmap is None or crop is None:
            return
        if self._heatmap.get_subscription_count() > 0:
            colour, size_px = value(self._node, "heatmap_encoding") == "rgb8", crop.image.shape[0]
            image = image_from_heatmap(heatmap, size_px, colour, stamp, self._map_frame)
            self._heatmap.publish(image)
        if self._grid.get_subscription_count() > 0 and self._map_origin is not None:
            grid = grid_from_heatmap(heatmap, crop, self._map_origin, stamp, self._map_frame)
            self._grid.publish(grid)


def _transform_broadcaster(node: LifecycleNode) -> Any:
    """tf2_ros's broadcaster; GeolocError where tf2_ros is missing, as it has no wheel."""
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        raise GeolocError(
            "publish_tf needs tf2_ros, which is not here; install ros-$ROS_DISTRO-tf2-ros or set it to false"
        ) from None
    return TransformBroadcaster(node)
