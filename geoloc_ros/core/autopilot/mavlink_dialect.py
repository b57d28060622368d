# SPDX-License-Identifier: Apache-2.0
"""The MAVLink messages and their numbers, from the package pymavlink; ImportError with the remedy where it is missing.

`mavlink` is the dialect of ArduPilot, which holds the common messages that PX4 uses, too.
"""

try:
    from pymavlink.dialects.v20 import ardupilotmega as mavlink
except ImportError:
    raise ImportError(
        "the MAVLink bridge needs the package pymavlink, which is not here; install it with "
        "`pip install -r requirements/mavlink.txt`"
    ) from None

if not hasattr(mavlink, "MAVLink_global_position_sensor_message"):
    raise ImportError(
        "this pymavlink does not know GLOBAL_POSITION_SENSOR; 2.4.50 is the first that does: "
        "`pip install -r requirements/mavlink.txt`"
    )

__all__ = ["mavlink"]
