# SPDX-License-Identifier: Apache-2.0
"""Put a bridge to an autopilot through minutes of faults.

Run px4_bridge or mavlink_bridge between a scripted localizer (losses, relocalizations, refused frames, NaN, stamps that
are old, repeated, out of order or from the future, jitter) and a node that plays PX4, or a MAVLink peer that plays
ArduPilot, and compare what was published with what arrived. Exit status 1 if anything arrived that must not, if the
reset counter moved without a relocalization, or if good fixes did not arrive. px4 needs px4_msgs (docs/px4.md).
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import seed
from geoloc_ros.cli.shared.output import plain_table, print_line, rated_progress
from geoloc_ros.cli.shared.ros import require_ros

if TYPE_CHECKING:
    from geoloc_ros.cli.bench.autopilot_ends import End
    from geoloc_ros.cli.bench.px4_peer import ScriptedLocalizer
    from geoloc_ros.core.autopilot.bridge_soak import Planned, Published, Verdict

PLACE = (47.4, 8.5, 500.0)  # lat_deg, lon_deg, ellipsoidal altitude in m
DISORDER_S, STEP_S = 0.02, 0.001
JITTER = 0.3
"""Of the time between two frames, one standard deviation."""
LEAST = 0.1
FIRST_S, LAST_S = 20.0, 2.0
SHOWN = 10
BRIDGES = ("px4", "mavlink")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--bridge", choices=BRIDGES, default="px4", help="px4 over DDS or mavlink over UDP")
    add("--seconds", type=float, default=60.0, metavar="S", help="duration")
    add("--rate-hz", type=float, default=10.0, metavar="R", help="frames a second")
    add("--faults", type=float, default=0.3, metavar="P", help="share of faulty frames, 0 to 1")
    add("--limit-s", type=float, default=0.3, metavar="L",
        help="oldest fix that may be sent, s; PX4's EKF2_DELAY_MAX + 0.1")  # fmt: skip
    add("--seed", type=seed, default=0, metavar="N", help="of the script")


def run(args: argparse.Namespace) -> int:
    """Run the soak test; 1 if anything was violated."""
    for name, number in (("--seconds", args.seconds), ("--rate-hz", args.rate_hz), ("--limit-s", args.limit_s)):
        if not (math.isfinite(number) and number >= LEAST):
            raise GeolocError(f"{name} is {number}; give a number of {LEAST:g} or more")
    if not 0 <= args.faults <= 1:
        raise GeolocError(f"--faults is {args.faults}; give a share of 0 to 1")
    require_ros("bench bridge")
    import rclpy

    from geoloc_ros.cli.bench.autopilot_ends import ENDS
    from geoloc_ros.cli.shared.live_graph import use_own_domain
    from geoloc_ros.core.autopilot.bridge_soak import judge

    use_own_domain()
    rclpy.init()
    try:
        end = ENDS[args.bridge](args.limit_s)
    except ImportError as error:
        raise GeolocError(str(error)) from None
    try:
        published, totals = _fly(end, args)
        verdict = judge(published, end.arrived(), end.limit_s)
    finally:
        end.close()
        rclpy.try_shutdown()
    _print(verdict, published, totals, end.limit_s)
    return 1 if verdict.violations else 0


def _fly(end: End, args: argparse.Namespace) -> tuple[list[Published], dict[str, str]]:
    """What was published, and the final counts of the bridge's diagnostics."""
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor

    from geoloc_ros.cli.bench.px4_peer import ScriptedLocalizer
    from geoloc_ros.cli.shared.live_graph import LiveGraph

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
            # The bridge reports that nothing can be sent until it hears the autopilot, then that no fix has come.
            give_up_s = time.monotonic() + FIRST_S
            while not (localizer.heard and totals.get("state", "").startswith("no fix")):
                graph.check()
                if time.monotonic() > give_up_s:
                    raise GeolocError(f"the bridge is not ready after {FIRST_S:g} s: {totals.get('state')}")
                time.sleep(0.1)
            published = _publish(localizer, args)
            time.sleep(LAST_S)
            graph.check()
        finally:
            executor.shutdown()
            thread.join(5.0)
            localizer.destroy_node()
    return published, totals


def _publish(localizer: ScriptedLocalizer, args: argparse.Namespace) -> list[Published]:
    """Publish the script at its rate."""
    from geoloc_ros.core.autopilot.bridge_soak import Kind, script

    chance = random.Random(args.seed)
    published: list[Published] = []
    begun = time.monotonic()
    frames = max(1, round(args.seconds * args.rate_hz))
    newest_s = 0.0
    with rated_progress() as progress:
        task = progress.add_task("frames", total=frames)
        for number, planned in enumerate(itertools.islice(script(args.seed, args.faults, args.limit_s), frames)):
            due_s = (number + JITTER * chance.gauss(0.0, 1.0)) / args.rate_hz
            time.sleep(max(0.0, begun + due_s - time.monotonic()))
            stamp_s = _stamp_s(planned, _now_s(localizer), newest_s)
            if planned.kind == Kind.STALE:
                # A localizer that stalls: its frames are in order, but late.
                time.sleep(max(0.0, stamp_s + planned.age_s - _now_s(localizer)))
            if planned.kind != Kind.FUTURE:
                newest_s = max(newest_s, stamp_s)
            published.append(_publish_one(localizer, planned, stamp_s))
            progress.advance(task)
    return published


def _now_s(localizer: ScriptedLocalizer) -> float:
    return float(localizer.get_clock().now().nanoseconds) * 1e-9


def _stamp_s(planned: Planned, now_s: float, newest_s: float) -> float:
    """The stamp of a planned frame; a camera's stamps increase, however late its frames are."""
    from geoloc_ros.core.autopilot.bridge_soak import Kind

    if planned.kind == Kind.AGAIN:
        return newest_s
    if planned.kind == Kind.DISORDER:
        return newest_s - DISORDER_S
    return max(now_s - planned.age_s, newest_s + STEP_S)


def _publish_one(localizer: ScriptedLocalizer, planned: Planned, stamp_s: float) -> Published:
    from geoloc_ros.core.autopilot.bridge_soak import Kind, Published

    # Whole microseconds, as in PX4: the stamp identifies the sample when it arrives.
    stamp_us = round(stamp_s * 1e6)
    published = Published(planned, stamp_us, _now_s(localizer))
    localizer.frame(
        state=planned.state,
        valid=planned.kind != Kind.REFUSED,
        stamp_s=stamp_us * 1e-6,
        place=(math.nan, *PLACE[1:]) if planned.kind == Kind.NAN_PLACE else PLACE,
        sigma_m=math.nan if planned.kind == Kind.NAN_SPREAD else 2.0,
    )
    return published


def _print(verdict: Verdict, published: list[Published], totals: dict[str, str], limit_s: float) -> None:
    console = Console()
    table = plain_table(("what",), ("count",))
    table.add_row("frames published", str(len(published)))
    table.add_row("sent by the bridge", totals.get("sent", "?"))
    table.add_row("arrived", str(verdict.arrived))
    for key, count in totals.items():
        if key.startswith("held: ") and count != "0":
            table.add_row(key, count)
    table.add_row("oldest passed on, s", f"{verdict.oldest_s:.3f} of {limit_s:g}")
    if verdict.counted:
        table.add_row("counter increments", str(verdict.bumps))
        table.add_row("relocalizations", str(verdict.relocalizations))
    table.add_row("violations", str(len(verdict.violations)))
    console.print(table)
    for violation in verdict.violations[:SHOWN]:
        print_line(console, violation)
