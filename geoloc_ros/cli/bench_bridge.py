# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench-bridge`: px4_bridge for minutes between a localizer that goes wrong in all ways and PX4's part."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import seed
from geoloc_ros.cli.progress import rated_progress
from geoloc_ros.core.bridge_soak import Arrived, Kind, Planned, Said, Verdict, judge, script

if TYPE_CHECKING:
    from geoloc_ros.cli.px4_peer import Received, ScriptedLocalizer

PLACE = (47.4, 8.5, 500.0)  # lat_deg, lon_deg, ellipsoidal altitude in m
DISORDER_S, STEP_S = 0.02, 0.001
JITTER = 0.3
"""Of the time between two frames, one standard deviation."""
FIRST_S, LAST_S = 20.0, 2.0
SHOWN = 10
NAMESPACE = "/bench/fmu"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench-bridge",
        help="put the bridge to PX4 through minutes of faults",
        description=(
            "Runs px4_bridge between a scripted localizer (losses, relocalizations, refused frames, numbers that are "
            "none, stamps that are old, repeated, out of order or from the future, jitter) and a node that plays PX4, "
            "and compares what was said with what arrived. Exit status 1 if anything arrived that must not, if the "
            "reset counter moved but for a relocalization, or if good fixes did not arrive. Needs px4_msgs "
            "(docs/px4.md)."
        ),
    )
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long (default: 60)")
    parser.add_argument(
        "--rate-hz", type=float, default=10.0, metavar="R", help="frames a second (default: 10)"
    )
    parser.add_argument(
        "--faults", type=float, default=0.3, metavar="P", help="share of faulty frames, 0 to 1 (default: 0.3)"
    )
    parser.add_argument(
        "--delay-max-ms",
        type=float,
        default=200.0,
        metavar="D",
        help="PX4's EKF2_DELAY_MAX, ms (default: 200)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the script (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the soak; 1 if the judge found a violation."""
    for name, number in (("--seconds", args.seconds), ("--rate-hz", args.rate_hz)):
        if not (math.isfinite(number) and number > 0):
            raise GeolocError(f"{name} is {number}; give a positive number")
    if not 0 <= args.faults <= 1:
        raise GeolocError(f"--faults is {args.faults}; give a share of 0 to 1")
    said, received, totals = _fly(args)
    limit_s = (args.delay_max_ms + 100.0) * 1e-3
    verdict = judge(said, [_arrived(sample) for sample in received], limit_s)
    _print(verdict, said, totals, limit_s)
    return 1 if verdict.violations else 0


def _fly(args: argparse.Namespace) -> tuple[list[Said], list[Received], dict[str, str]]:
    """What was said, what arrived, and what the bridge's diagnostics counted in the end."""
    try:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
    except ImportError:
        raise GeolocError(
            "bench-bridge needs ROS 2, which is not here: source /opt/ros/*/setup.bash"
        ) from None
    import threading

    from diagnostic_msgs.msg import DiagnosticArray

    from geoloc_ros.cli.live_graph import LiveGraph
    from geoloc_ros.cli.px4_peer import Px4Peer, ScriptedLocalizer
    from geoloc_ros.nodes.px4_topics import px4_topics

    topics = px4_topics("auto", NAMESPACE)
    # A domain of its own keeps the bench away from somebody else's vehicles; one that is set is used.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    totals: dict[str, str] = {}

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith("px4_bridge"):
                totals.update({pair.key: pair.value for pair in status.values} | {"state": status.message})

    with tempfile.TemporaryDirectory() as folder, LiveGraph(Path(folder)) as graph:
        graph.start("px4_bridge", fmu_namespace=NAMESPACE, ekf2_delay_max_ms=args.delay_max_ms)
        rclpy.init()
        px4, localizer = Px4Peer(topics), ScriptedLocalizer()
        localizer.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 50)
        executor = SingleThreadedExecutor()
        executor.add_node(px4)
        executor.add_node(localizer)
        thread = threading.Thread(target=executor.spin, daemon=True)
        thread.start()
        try:
            # Until PX4 is heard the bridge says that nothing can be sent, then that no fix has come.
            end = time.monotonic() + FIRST_S
            while not (localizer.heard and totals.get("state", "").startswith("no fix")):
                graph.check()
                if time.monotonic() > end:
                    raise GeolocError(f"the bridge is not ready after {FIRST_S:g} s: {totals.get('state')}")
                time.sleep(0.1)
            said = _say(localizer, args)
            time.sleep(LAST_S)
            graph.check()
        finally:
            executor.shutdown()
            thread.join(5.0)
            received = px4.received
            for node in (px4, localizer):
                node.destroy_node()
            rclpy.try_shutdown()
    return said, received, totals


def _say(localizer: ScriptedLocalizer, args: argparse.Namespace) -> list[Said]:
    """Say the script at its rate."""
    chance = random.Random(args.seed)
    limit_s = (args.delay_max_ms + 100.0) * 1e-3
    said: list[Said] = []
    begun = time.monotonic()
    frames = max(1, round(args.seconds * args.rate_hz))
    newest_s = 0.0
    with rated_progress() as progress:
        task = progress.add_task("frames", total=frames)
        for number, planned in enumerate(itertools.islice(script(args.seed, args.faults, limit_s), frames)):
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


def _arrived(sample: Received) -> Arrived:
    message = sample.message
    numbers = tuple(float(getattr(message, name)) for name in ("lat", "lon", "alt", "eph", "epv"))
    return Arrived(message.timestamp_sample, sample.sent_s, numbers, message.lat_lon_reset_counter)


def _print(verdict: Verdict, said: list[Said], totals: dict[str, str], limit_s: float) -> None:
    console = Console()
    table = Table("what", "count")
    table.add_row("frames said", str(len(said)))
    table.add_row("sent by the bridge", totals.get("sent", "?"))
    table.add_row("arrived at PX4", str(verdict.arrived))
    for key, count in totals.items():
        if key.startswith("held: ") and count != "0":
            table.add_row(key, count)
    table.add_row("oldest passed on, s", f"{verdict.oldest_s:.3f} of {limit_s:g}")
    table.add_row("counter bumps", str(verdict.bumps))
    table.add_row("relocalizations", str(verdict.relocalizations))
    table.add_row("violations", str(len(verdict.violations)))
    console.print(table)
    for violation in verdict.violations[:SHOWN]:
        console.print(violation, highlight=False)
