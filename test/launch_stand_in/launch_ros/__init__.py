# SPDX-License-Identifier: Apache-2.0
"""Stands in for ROS 2's `launch_ros` in tests, as `launch` beside it does for `launch`."""
