# SPDX-License-Identifier: Apache-2.0
"""Networks that find a drone's view on a satellite map; PyTorch only, no ROS."""
