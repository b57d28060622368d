# SPDX-License-Identifier: Apache-2.0
"""Read an autopilot's parameters and list what keeps it from flying on the fixes, with the value to set.

Works on simulated and real vehicles, by MAVLink; nothing is changed. Exit status 1 if something stands in the way.
"""

import argparse
import math

from rich.console import Console

from geoloc_models.errors import GeolocError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "where the autopilot talks to a ground station: udpin:HOST:PORT, udpout:HOST:PORT, tcp:HOST:PORT or serial:…"
    parser.add_argument("--connect", metavar="URL", default="udpin:0.0.0.0:14550", help=text)
    text = "from an image to the autopilot, as latency_s of the bridge's diagnostics; not checked, if not given"
    parser.add_argument("--latency-ms", metavar="MS", type=float, default=argparse.SUPPRESS, help=text)


def run(args: argparse.Namespace) -> int:
    """Print a line for each parameter; 1 if there are any."""
    # Only here, as `geoloc --help` works without pymavlink.
    try:
        from geoloc_ros.core.autopilot.parameter_check import findings
        from geoloc_ros.core.simulation.ground_station import GroundStation
        from geoloc_ros.core.simulation.mission import CONNECT_S
    except ImportError as error:
        raise GeolocError(f"the check needs pymavlink: {error}") from error

    station = GroundStation(args.connect, lambda _: None)
    try:
        station.connect(CONNECT_S)

        def read(name: str) -> float | None:
            found = station.parameter(name)
            return None if found is None else found.value

        found = findings(station.autopilot, station.version(), read, getattr(args, "latency_ms", math.nan))
        vehicle = str(station)
    finally:
        station.close()
    console = Console(markup=False, highlight=False)
    for finding in found:
        console.print(f"{finding.name} is {finding.value:g}, set {finding.wanted}: {finding.why}", soft_wrap=True)
    console.print(f"{vehicle}: {len(found) or 'no'} parameter{'s' * (len(found) != 1)} in the way", soft_wrap=True)
    return 1 if found else 0
