# SPDX-License-Identifier: Apache-2.0
"""Generate worlds and flights, and fly simulated vehicles.

Worlds and flights that are generated or rendered, and missions of a vehicle that PX4 or ArduPilot simulates;
a check of an autopilot's parameters.
"""

VERBS = ("flight", "world", "gazebo", "mission", "check")
