# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench-bridge`: a bridge for minutes between a localizer that goes wrong in all ways and an autopilot."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import seed
from geoloc_ros.cli.progress import rated_progress
from geoloc_ros.core.autopilot.bridge_soak import Kind, Planned, Said, Verdict, judge, script

if TYPE_CHECKING:
    from geoloc_ros.cli.bridge_ends import End
    from geoloc_ros.cli.px4_peer import ScriptedLocalizer

PLACE = (47.4, 8.5, 500.0)  # lat_deg, lon_deg, ellipsoidal altitude in m
DISORDER_S, STEP_S = 0.02, 0.001
JITTER = 0.3
"""Of the time between two frames, one standard deviation."""
FIRST_S, LAST_S = 20.0, 2.0
SHOWN = 10
BRIDGES = ("px4", "mavlink")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench-bridge",
        help="put a bridge to an autopilot through minutes of faults",
        description=(
            "Runs px4_bridge or mavlink_bridge between a scripted localizer (losses, relocalizations, refused frames, "
            "numbers that are none, stamps that are old, repeated, out of order or from the future, jitter) and a node "
            "that plays PX4, or a MAVLink peer that plays ArduPilot, and compares what was said with what arrived. "
            "Exit status 1 if anything arrived that must not, if the reset counter moved but for a relocalization, or "
            "if good fixes did not arrive. px4 needs px4_msgs (docs/px4.md)."
        ),
    )
    parser.add_argument(
        "--bridge", choices=BRIDGES, default="px4", help="px4 over DDS or mavlink over UDP (default: px4)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long (default: 60)")
    parser.add_argument(
        "--rate-hz", type=float, default=10.0, metavar="R", help="frames a second (default: 10)"
    )
    parser.add_argument(
        "--faults", type=float, default=0.3, metavar="P", help="share of faulty frames, 0 to 1 (default: 0.3)"
    )
    parser.add_argument(
        "--limit-s",
        type=float,
        default=0.3,
        metavar="L",
        help="oldest fix that may be sent, s; PX4's EKF2_DELAY_MAX + 0.1 (default: 0.3)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the script (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the soak; 1 if the judge found a violation."""
    for name, number, least in (
        ("--seconds", args.seconds, 0.1), ("--rate-hz", args.rate_hz, 0.1), ("--limit-s", args.limit_s, 0.1),
    ):  # fmt: skip
        if not (math.isfinite(number) and number >= least):
            raise GeolocError(f"{name} is {number}; give a number of {least:g} or more")
    if not 0 <= args.faults <= 1:
        raise GeolocError(f"--faults is {args.faults}; give a share of 0 to 1")
    try:
        from geoloc_ros.cli.bridge_ends import ENDS
    except ImportError as error:
        raise GeolocError(
            f"bench-bridge needs ROS 2, which is not here ({error}); source its setup.bash"
        ) from None
    import rclpy

    # A domain of its own keeps the bench away from somebody else's vehicles; one that is set is used.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    rclpy.init()
    try:
        end = ENDS[args.bridge](args.limit_s)
    except ImportError as error:
        raise GeolocError(str(error)) from None
    try:
        said, totals = _fly(end, args)
        verdict = judge(said, end.arrived(), end.limit_s)
    finally:
        end.close()
        rclpy.try_shutdown()
    _print(verdict, said, totals, end.limit_s)
    return 1 if verdict.violations else 0


def _fly(end: End, args: argparse.Namespace) -> tuple[list[Said], dict[str, str]]:
    """What was said, and what the bridge's diagnostics counted in the end."""
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor

    from geoloc_ros.cli.live_graph import LiveGraph
    from geoloc_ros.cli.px4_peer import ScriptedLocalizer

    totals: dict[str, str] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(end.node):
                totals.update({pair.key: pair.value for pair in status.values} | {"state": status.message})

    with tempfile.TemporaryDirectory() as folder, LiveGraph(Path(folder)) as graph:
        graph.start(end.node, **end.parameters)
        localizer = ScriptedLocalizer()
        localizer.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 50)
        executor = SingleThreadedExecutor()
        for node in (localizer, *end.nodes):
            executor.add_node(node)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        try:
            # Until the autopilot is heard the bridge says that nothing can be sent, then that no fix has come.
            give_up_s = time.monotonic() + FIRST_S
            while not (localizer.heard and totals.get("state", "").startswith("no fix")):
                graph.check()
                if time.monotonic() > give_up_s:
                    raise GeolocError(f"the bridge is not ready after {FIRST_S:g} s: {totals.get('state')}")
                time.sleep(0.1)
            said = _say(localizer, args)
            time.sleep(LAST_S)
            graph.check()
        finally:
            executor.shutdown()
            thread.join(5.0)
            localizer.destroy_node()
    return said, totals


def _say(localizer: ScriptedLocalizer, args: argparse.Namespace) -> list[Said]:
    """Say the script at its rate."""
    chance = random.Random(args.seed)
    said: list[Said] = []
    begun = time.monotonic()
    frames = max(1, round(args.seconds * args.rate_hz))
    newest_s = 0.0
    with rated_progress() as progress:
        task = progress.add_task("frames", total=frames)
        for number, planned in enumerate(
            itertools.islice(script(args.seed, args.faults, args.limit_s), frames)
        ):
            due_s = (number + JITTER * chance.gauss(0.0, 1.0)) / args.rate_hz
            time.sleep(max(0.0, begun + due_s - time.monotonic()))
            stamp_s = _stamp_s(planned, _now_s(localizer), newest_s)
            if planned.kind == Kind.STALE:
                # A localizer that stalls: its frames are in order, but late.
                time.sleep(max(0.0, stamp_s + planned.age_s - _now_s(localizer)))
            if planned.kind != Kind.FUTURE:
                newest_s = max(newest_s, stamp_s)
            said.append(_say_one(localizer, planned, stamp_s))
            progress.advance(task)
    return said


def _now_s(localizer: ScriptedLocalizer) -> float:
    return float(localizer.get_clock().now().nanoseconds) * 1e-9


def _stamp_s(planned: Planned, now_s: float, newest_s: float) -> float:
    """The stamp of a planned frame; a camera's stamps go up, however late its frames are."""
    if planned.kind == Kind.AGAIN:
        return newest_s
    if planned.kind == Kind.DISORDER:
        return newest_s - DISORDER_S
    return max(now_s - planned.age_s, newest_s + STEP_S)


def _say_one(localizer: ScriptedLocalizer, planned: Planned, stamp_s: float) -> Said:
    # Whole microseconds, as PX4 has them, or no sample could be told from its neighbour.
    stamp_us = round(stamp_s * 1e6)
    said = Said(planned, stamp_us, _now_s(localizer))
    localizer.frame(
        state=planned.state,
        valid=planned.kind != Kind.REFUSED,
        stamp_s=stamp_us * 1e-6,
        place=(math.nan, *PLACE[1:]) if planned.kind == Kind.NAN_PLACE else PLACE,
        sigma_m=math.nan if planned.kind == Kind.NAN_SPREAD else 2.0,
    )
    return said


def _print(verdict: Verdict, said: list[Said], totals: dict[str, str], limit_s: float) -> None:
    console = Console()
    table = Table("what", "count")
    table.add_row("frames said", str(len(said)))
    table.add_row("sent by the bridge", totals.get("sent", "?"))
    table.add_row("arrived", str(verdict.arrived))
    for key, count in totals.items():
        if key.startswith("held: ") and count != "0":
            table.add_row(key, count)
    table.add_row("oldest passed on, s", f"{verdict.oldest_s:.3f} of {limit_s:g}")
    if verdict.counted:
        table.add_row("counter bumps", str(verdict.bumps))
        table.add_row("relocalizations", str(verdict.relocalizations))
    table.add_row("violations", str(len(verdict.violations)))
    console.print(table)
    for violation in verdict.violations[:SHOWN]:
        console.print(violation, highlight=False)
