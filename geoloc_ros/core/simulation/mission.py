# SPDX-License-Identifier: Apache-2.0
"""A mission that shows what the fixes are worth: take off, fly a pattern, lose GNSS, fly on, land.

The vehicle is a simulated one, as its simulator tells where it really is and can take GNSS away. It is flown by mission
items, which PX4 and ArduPilot both follow by themselves. GNSS goes by PX4's SIM_GPS_USED (SIH and Gazebo; no fix
below four satellites), else by its failure injection, or by ArduPilot's SIM_GPS1_ENABLE (SIM_GPS_DISABLE up to 4.5).
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.simulation.gnss_switch import GnssSwitch
from geoloc_ros.core.simulation.ground_station import GroundStation
from geoloc_ros.core.simulation.mission_recorder import QUIET_S, Recorder, Samples
from geoloc_ros.core.simulation.trajectory import PATTERNS, pattern_corners

CONNECT_S = 15.0
READY_S = 90.0
"""How long an autopilot may take from its start until it lets itself be armed."""

AGAIN_S = 2.0
STEP_S = 0.1
FIX_AGE_S = 5.0
"""GNSS is not taken away unless a fix went to the vehicle within so long."""

FIRST_FIX_S = 20.0
"""So long it hovers above the take-off for the first fix; the pattern begins with or without one."""

LEAST_WITHOUT_S = 10.0
"""A pattern that ends sooner after the loss shows nothing."""

CLIMB_M_S = 0.5
"""The slowest climb and descent that is waited for."""

OFF_S = 10.0
"""How long a receiver may take to report that its fix is gone."""


class Fixes(Protocol):
    """Who hears the localizer and its bridge."""

    def count(self) -> int:
        """Fixes sent to the autopilot so far."""

    def diagnostics(self) -> str:
        """The last diagnostics of localizer and bridge."""


@dataclass(frozen=True)
class MissionPlan:
    """What to fly. The pattern lies about the place of the take-off."""

    pattern: str  # of trajectory.PATTERNS
    size_m: float  # side of its square
    height_m: float  # above the take-off
    speed_m_s: float
    gnss_loss_s: float  # after the pattern began; infinite: never
    max_error_m: float  # of the vehicle's estimate, before it counts as lost
    needs_fixes: bool  # False: GNSS is taken away although no fixes are sent

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise GeolocError(f"pattern '{self.pattern}' is unknown; use one of {', '.join(PATTERNS)}")
        for name, unit in (("size_m", "m"), ("height_m", "m"), ("speed_m_s", "m/s"), ("max_error_m", "m")):
            number = getattr(self, name)
            if not 0 < number < math.inf:
                raise GeolocError(f"{name} is {number:g} {unit}; it must be positive")
        latest_s = self.duration_s - LEAST_WITHOUT_S
        if not (0 <= self.gnss_loss_s <= latest_s or self.gnss_loss_s == math.inf):
            raise GeolocError(
                f"GNSS would go after {self.gnss_loss_s:g} s of {self.duration_s:.0f} s; lose it at least "
                f"{LEAST_WITHOUT_S:g} s before the pattern ends, or fly a larger or slower one"
            )

    @property
    def corners_m(self) -> np.ndarray:
        """(n, 2) metres east and north of the take-off."""
        half = self.size_m / 2
        return pattern_corners(self.pattern, (-half, -half, half, half), np.random.default_rng(0))

    @property
    def duration_s(self) -> float:
        """From above the take-off through all corners at the set speed."""
        path = np.vstack([[0.0, 0.0], self.corners_m])
        return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum() / self.speed_m_s)


@dataclass(frozen=True)
class Progress:
    """Where the mission is, for a line on the screen. error_m: of the vehicle's estimate, NaN where unknown."""

    phase: str
    time_s: float
    error_m: float
    fixes: int


@dataclass(frozen=True)
class Flown:
    """What came of a mission. Times are seconds since the pattern began, NaN for what never happened."""

    plan: MissionPlan
    vehicle: str
    trouble: str  # empty when all went well
    gnss_lost_s: float
    pattern_end_s: float
    gnss_back_s: float
    landed_s: float
    samples: Samples
    fix_times_s: np.ndarray  # (fixes,)
    texts: tuple[str, ...]  # of the vehicle
    diagnostics: str  # last diagnostics of localizer and bridge on the way


@dataclass
class Mission:
    """One flight of a plan. tell: milestones, as text; show: progress, ten times a second."""

    station: GroundStation
    recorder: Recorder
    plan: MissionPlan
    fixes: Fixes
    tell: Callable[[str], None]
    show: Callable[[Progress], None]
    _begun_s: float = field(default=math.nan, init=False)
    _lost_s: float = field(default=math.nan, init=False)
    _ended_s: float = field(default=math.nan, init=False)
    _back_s: float = field(default=math.nan, init=False)
    _landed_s: float = field(default=math.nan, init=False)
    _fix_times_s: list[float] = field(default_factory=list, init=False)
    _diagnostics: str = field(default="", init=False)
    _phase: str = field(default="connecting", init=False)

    def fly(self) -> Flown:
        """Fly it. GeolocError if it cannot be flown at all or no fixes come; what happens later is the outcome.

        Whatever ends it, Ctrl-C too: GNSS is put back, the vehicle is asked to land, and it is waited for.
        """
        self.station.connect(CONNECT_S)
        self._wait_until_ready()
        switch = GnssSwitch(self.station) if math.isfinite(self.plan.gnss_loss_s) else None
        try:
            last = self._start()
            trouble = self._fly_pattern(last, switch)
        finally:
            not_down = self._bring_home(switch)
        samples = self.recorder.samples(self._begun_s)
        return Flown(
            self.plan,
            str(self.station),
            trouble or not_down,
            self._lost_s - self._begun_s,
            self._ended_s - self._begun_s,
            self._back_s - self._begun_s,
            self._landed_s - self._begun_s,
            samples,
            np.array(self._fix_times_s) - self._begun_s,
            tuple(self.station.texts),
            self._diagnostics,
        )

    # --- stages ---------------------------------------------------------------------------------------------

    def _wait_until_ready(self) -> None:
        self._phase = "waiting for position and truth"
        self.tell(f"connected to {self.station} on {self.station.url}")
        if not self._step_until(lambda: self.recorder.has("estimate"), READY_S):
            raise GeolocError(
                f"the vehicle has no position after {READY_S:g} s; it needs GNSS to start{self.station.last_texts()}"
            )
        if not self._step_until(lambda: self.recorder.has("truth"), CONNECT_S):
            raise GeolocError(
                "the vehicle does not say where it really is (HIL_STATE_QUATERNION of PX4's SIH and Gazebo, SIM_STATE "
                "of ArduPilot's simulator); a mission without GNSS is for simulated vehicles only"
            )

    def _start(self) -> int:
        """Upload, arm, climb, begin; returns the last item's number."""
        position = self.station.latest("GLOBAL_POSITION_INT")
        frame = LocalEnu(position.lat * 1e-7, position.lon * 1e-7)
        corners = self.plan.corners_m
        lat_deg, lon_deg = frame.to_geodetic(corners[:, 0], corners[:, 1])
        last = self.station.upload(list(zip(lat_deg, lon_deg, strict=True)), self.plan.height_m)
        self._arm()
        self.station.take_off(self.plan.height_m)
        self._phase = "climbing"
        self.tell(f"armed, climbing to {self.plan.height_m:g} m")
        climb_s = self.plan.height_m / CLIMB_M_S + READY_S
        if not self._step_until(self._is_up, climb_s):
            raise GeolocError(
                f"the vehicle did not reach {self.plan.height_m:g} m within {climb_s:.0f} s{self.station.last_texts()}"
            )
        if self.plan.needs_fixes and math.isfinite(self.plan.gnss_loss_s):
            self._phase = "waiting for a fix"
            self._step_until(self._has_fix, FIRST_FIX_S)
        self.station.command("start the mission", mavlink.MAV_CMD_MISSION_START, 0.0, 0.0)
        if not self._step_until(lambda: self.station.is_in("mission"), QUIET_S):
            raise GeolocError(
                f"the vehicle does not fly its mission but {self.station.mode}{self.station.last_texts()}"
            )
        self.station.try_command(mavlink.MAV_CMD_DO_CHANGE_SPEED, 1.0, self.plan.speed_m_s, -1.0)
        self._begun_s = self.recorder.now_s()
        self.tell(f"flying a {self.plan.pattern} of {len(corners)} corners, {self.plan.duration_s:.0f} s")
        return last

    def _arm(self) -> None:
        self._phase = "arming"
        end_s = time.monotonic() + READY_S
        while True:
            self.station.set_mode("hold")
            if self.station.try_command(mavlink.MAV_CMD_COMPONENT_ARM_DISARM, 1.0):
                break
            if time.monotonic() > end_s:
                raise GeolocError(f"the vehicle refuses to arm for {READY_S:g} s{self.station.last_texts()}")
            self._step_until(lambda: False, AGAIN_S)
        self._step_until(lambda: self.station.is_armed, QUIET_S)

    def _is_up(self) -> bool:
        return bool(self.station.latest("GLOBAL_POSITION_INT").relative_alt * 1e-3 > 0.95 * self.plan.height_m)

    def _fly_pattern(self, last: int, switch: GnssSwitch | None) -> str:
        """To the last corner, with GNSS and then without; returns what went wrong, if anything."""
        self._phase = "with GNSS"
        end_s = self._begun_s + 2.0 * self.plan.duration_s + READY_S
        trouble = ""
        while not self._has_reached(last) and not trouble:
            now_s = self.recorder.now_s()
            if switch is not None and not switch.is_off and now_s - self._begun_s >= self.plan.gnss_loss_s:
                self._check_fixes()
                switch.off()
                self._lost_s = self.recorder.now_s()
                self._phase = "without GNSS"
                self.tell(f"GNSS is gone, with the estimate {self.recorder.error_now_m():.1f} m off")
            self._step()
            # PX4 leaves the mode with the last corner.
            trouble = "" if self._has_reached(last) else self._trouble()
            if now_s > end_s:
                trouble = f"the last corner was not reached within {end_s - self._begun_s:.0f} s"
        self._ended_s, self._diagnostics = self.recorder.now_s(), self.fixes.diagnostics()
        return trouble

    def _bring_home(self, switch: GnssSwitch | None) -> str:
        """GNSS back on; down, if it is up, whatever it does by itself. Returns why it is not, if so.

        A PX4 whose failsafe lands it reports the mode of a landing, and goes on with its mission once it has GNSS.
        """
        self._phase = "landing"
        if switch is not None and switch.is_off:
            self._put_back(switch)
        end_s = time.monotonic() + self.plan.height_m / CLIMB_M_S + READY_S
        was_asked = False
        while self.station.is_armed:
            if self.station.is_silent:
                self.tell("the vehicle does not answer")
                return "the vehicle is silent"
            if time.monotonic() > end_s:
                return f"the vehicle does not land{self.station.last_texts()}"
            is_due = not was_asked or not self.station.is_in("land")
            if is_due and self.station.set_mode("land") and not was_asked:
                was_asked = True
                self.tell("the vehicle was asked to land")
            self._step_until(lambda: not self.station.is_armed, AGAIN_S)
        if was_asked:
            self._landed_s = self.recorder.now_s()
            self.tell("landed")
        return ""

    def _put_back(self, switch: GnssSwitch) -> None:
        """GNSS, and wait until the receiver has its fix."""
        if not switch.on():
            self.tell("GNSS could not be put back: restart the simulator")
        elif self._step_until(lambda: self.recorder.has("gnss"), OFF_S):
            self._back_s = self.recorder.now_s()
            self.tell("GNSS is back")
        else:
            self.tell(f"the receiver has no fix {OFF_S:g} s after it was put back")

    # --- watching -------------------------------------------------------------------------------------------

    def _has_reached(self, last: int) -> bool:
        reached = self.station.latest("MISSION_ITEM_REACHED")
        return reached is not None and reached.seq >= last

    def _has_fix(self) -> bool:
        return bool(self._fix_times_s) and self.recorder.now_s() - self._fix_times_s[-1] < FIX_AGE_S

    def _check_fixes(self) -> None:
        if not self.plan.needs_fixes or self._has_fix():
            return
        raise GeolocError(
            f"no fix of ours went to the vehicle in the last {FIX_AGE_S:g} s, so GNSS stays on; "
            f"{self.fixes.diagnostics()}; start both over the right map, "
            "or show with --without-fixes what becomes of the vehicle alone"
        )

    def _trouble(self) -> str:
        """What is wrong with a vehicle that flies its mission; empty: nothing."""
        station, recorder = self.station, self.recorder
        error_m = recorder.error_now_m()
        if station.is_silent:
            return "the vehicle is silent"
        if not station.is_armed:
            return f"the vehicle disarmed in flight{station.last_texts()}"
        if not station.is_in("mission"):
            cause = ", as a failsafe" if station.is_in("land") else ""
            return f"the vehicle left its mission for {station.mode}{cause}{station.last_texts()}"
        if not recorder.has("truth"):
            return "the simulator no longer says where the vehicle is"
        if not recorder.has("estimate"):
            return f"the vehicle has no position any more{station.last_texts()}"
        if error_m > self.plan.max_error_m:
            return f"its estimate is {error_m:.1f} m off, the limit is {self.plan.max_error_m:g} m"
        if recorder.now_s() - self._lost_s > OFF_S and recorder.has("gnss"):
            return f"its GNSS has a fix {OFF_S:g} s after it was taken away"
        return ""

    def _step_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                return False
            self._step()
        return True

    def _step(self) -> None:
        """A tenth of a second: count fixes, show where we are."""
        time.sleep(STEP_S)
        now_s, count = self.recorder.now_s(), self.fixes.count()
        self._fix_times_s += itertools.repeat(now_s, count - len(self._fix_times_s))
        time_s = now_s - self._begun_s
        self.show(Progress(self._phase, time_s, self.recorder.error_now_m(), count))
