# SPDX-License-Identifier: Apache-2.0
"""ROS 2 nodes and the ROS-free core they call; the build makes `geoloc_ros.msg` and `geoloc_ros.srv`."""

from pkgutil import extend_path

# In the source tree the generated msg/ and srv/ lie elsewhere, in the built package of the same name.
__path__ = extend_path(__path__, __name__)
