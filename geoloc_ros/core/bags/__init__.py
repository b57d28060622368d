# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings as frames, without ROS."""
