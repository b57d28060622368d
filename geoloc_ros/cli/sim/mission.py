# SPDX-License-Identifier: Apache-2.0
"""Fly a simulated vehicle on the fixes.

Fly PX4 or ArduPilot in simulation: take off, fly a pattern around that place, take GNSS away, fly on with the fixes of
the running localizer, land. Writes mission.json and mission.png: the error of the vehicle's estimate against the
simulator's truth. Exit status 1 if the vehicle was lost on the way or its estimate strayed; whatever ends the flight,
Ctrl-C too, brings GNSS back and the vehicle to the ground.
"""

import argparse
import math
from pathlib import Path

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.output import make_writable

SIZE_M, HEIGHT_M, SPEED_M_S, MAX_ERROR_M = 300.0, 100.0, 8.0, 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from geoloc_ros.core.simulation.trajectory import PATTERNS

    add = parser.add_argument
    text = "where the autopilot talks to a ground station: udpin:HOST:PORT, udpout:HOST:PORT or tcp:HOST:PORT"
    add("--connect", metavar="URL", default="udpin:0.0.0.0:14550", help=text)
    text = "seconds from the begin of the pattern to the loss of GNSS; never, if not given"
    add("--gnss-loss-s", metavar="S", type=float, default=argparse.SUPPRESS, help=text)
    add("--pattern", choices=PATTERNS, default="lawnmower", help="path around the take-off")
    add("--size-m", metavar="M", type=float, default=SIZE_M, help="side of the square that the pattern fills")
    add("--height-m", metavar="M", type=float, default=HEIGHT_M, help="height above the take-off")
    add("--speed-m-s", metavar="V", type=float, default=SPEED_M_S, help="ground speed asked for")
    text = "largest error of the vehicle's estimate before it counts as lost"
    add("--max-error-m", metavar="M", type=float, default=MAX_ERROR_M, help=text)
    text = "take GNSS away though no fixes come, to see what becomes of the vehicle alone"
    add("--without-fixes", action="store_true", help=text)
    add("--namespace", metavar="NS", default="", help="namespace of the localizer's node")
    add("--out", metavar="DIR", type=Path, default=Path("out/mission"), help="folder to write to")


def run(args: argparse.Namespace) -> int:
    """Fly, print what came of it; 1 if the vehicle was lost."""
    # Only here, as `geoloc --help` works without ROS and pymavlink.
    try:
        from geoloc_ros.cli.sim.fix_listener import FixListener
        from geoloc_ros.core.reporting.mission_report import outcome, write_mission
        from geoloc_ros.core.simulation.ground_station import GroundStation
        from geoloc_ros.core.simulation.mission import Mission, MissionPlan, Progress
        from geoloc_ros.core.simulation.mission_recorder import Recorder
    except ImportError as error:
        raise GeolocError(
            f"a mission needs ROS 2, to hear the fixes, and pymavlink: {error}; source the environment that `make` "
            "or colcon built"
        ) from error

    plan = MissionPlan(
        pattern=args.pattern,
        size_m=args.size_m,
        height_m=args.height_m,
        speed_m_s=args.speed_m_s,
        gnss_loss_s=getattr(args, "gnss_loss_s", math.inf),
        max_error_m=args.max_error_m,
        needs_fixes=not args.without_fixes,
    )
    make_writable(args.out)
    console, recorder = Console(log_path=False, markup=False), Recorder()
    with FixListener(args.namespace) as fixes, console.status("connecting") as status:

        def show(now: Progress) -> None:
            begun = f", {now.time_s:.0f} s" if math.isfinite(now.time_s) else ""
            error = f", estimate {now.error_m:.1f} m off" if math.isfinite(now.error_m) else ""
            status.update(f"{now.phase}{begun}{error}, {now.fixes} fixes")

        station = GroundStation(args.connect, recorder.take)
        try:
            flown = Mission(station, recorder, plan, fixes, console.log, show).fly()
        finally:
            station.close()
    write_mission(args.out, flown)
    console.print(f"{args.out}: {outcome(flown)}", soft_wrap=True, highlight=False)
    return 1 if flown.trouble else 0
