# SPDX-License-Identifier: Apache-2.0
"""Times engines against the plain network: each in a process of its own, in turn, so that noise hits all alike."""

import contextlib
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.bench.measuring import keep_to_cores, peak_resident_mb, percentiles

PLAIN = "plain-float32"
"""The published structure, run by PyTorch operation by operation: the reference of all others."""
CANDIDATES = 32
"""Maps that one view is searched in at once, as in a relocalization."""
ROUND_S = 0.4
"""Length of a turn of an engine, which is one call at least."""
MOST_CALLS = 100
"""Of one turn."""
PAUSE_S = 0.02
"""Between turns: threads of the last engine may spin for a while."""
STEADY_CALLS = 20
END_S = 5.0
"""Time that the process of an engine has to end by itself."""
ANSWER_S = 600.0
"""Time that an engine has to load, to compile, or for a turn."""


@dataclass(frozen=True)
class Subject:
    """What is measured: weights, device, cores, and the folder of exported engines (None: the user's)."""

    weights: str
    device: str
    cores: int
    folder: Path | None = None


@dataclass(frozen=True)
class Scene:
    """query: (h, h, 3), search_map: (H, H, 3), candidate: (C, C, 3) map of a relocalization; uint8 RGB."""

    query: np.ndarray
    search_map: np.ndarray
    candidate: np.ndarray


@dataclass(frozen=True)
class Mode:
    """What an engine is asked: one view in a batch of maps, which are new to it or whose features are cached."""

    batch: int
    cached: bool

    def maps(self, scene: Scene, call: int) -> np.ndarray:
        """(batch, H, H, 3) of a call; engines cache the features of maps that they have seen."""
        image = scene.search_map if self.batch == 1 else scene.candidate
        first = 0 if self.cached else call * self.batch
        return np.stack([np.roll(image, 8 * (first + i), axis=1) for i in range(self.batch)])


MODES = (Mode(1, False), Mode(1, True), Mode(CANDIDATES, False))


@dataclass
class Row:
    """One engine in one mode: milliseconds of each call of each round, peak memory and time to load."""

    engine: str
    device: str
    mode: Mode
    rounds_ms: list[list[float]]
    peak_mb: float
    load_s: float
    logit_error: float = 0.0
    steady: dict[str, float] = field(default_factory=dict)

    def as_json(self, plain: "Row") -> dict[str, Any]:
        """Figures of the row; `plain` is the row of PLAIN in the same mode, measured in the same rounds."""
        took = percentiles([ms for turn in self.rounds_ms for ms in turn])
        ratios = [np.median(a) / np.median(b) for a, b in zip(plain.rounds_ms, self.rounds_ms, strict=True)]
        return {
            "engine": self.engine,
            "device": self.device,
            "batch": self.mode.batch,
            "map": "cached" if self.mode.cached else "new",
            **{f"{share}_ms": ms for share, ms in took.items()},
            "per_second": round(1e3 * self.mode.batch / took["p50"], 2),
            "ratio_to_plain": round(float(np.median(ratios)), 3),
            "peak_mb": round(self.peak_mb, 1),
            "load_s": round(self.load_s, 2),
            "max_logit_error": float(f"{self.logit_error:.2g}"),
            **self.steady,
        }


def measure_engines(
    names: Sequence[str], subject: Subject, scene: Scene, rounds: int, report: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows as JSON of the engines that load, and the reasons of those that do not.

    names: PLAIN first; report: called with the progress.
    """
    reasons: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        engines: list[_EngineProcess] = []
        for name in names:
            report(f"loading {name}")
            engine = stack.enter_context(_EngineProcess.started(name, subject, scene))
            try:
                engine.load()
            except GeolocError as error:
                reasons[name] = str(error)
            else:
                engines.append(engine)
        if PLAIN in reasons:
            raise GeolocError(f"{PLAIN} is the reference of all engines: {reasons[PLAIN]}")
        for number, mode in enumerate(MODES):
            # A call with many maps takes seconds on a CPU.
            for turn in range(rounds if mode.batch == 1 else max(2, rounds // 6)):
                for engine in engines:
                    report(f"{engine.name}, {mode.batch} maps, round {turn + 1}")
                    engine.take_turn(number)
        for engine in engines:
            engine.finish(engines[0])
        rows = [
            row.as_json(plain) for engine in engines for row, plain in zip(engine.rows, engines[0].rows, strict=True)
        ]
    return rows, reasons


class _EngineProcess:
    """An engine in a process of its own, from the side of the process that measures."""

    def __init__(self, name: str, device: str, pipe: Connection) -> None:
        self.name, self._device, self._pipe = name, device, pipe
        self.rows: list[Row] = []
        self._logits = np.empty(0)

    @classmethod
    @contextlib.contextmanager
    def started(cls, name: str, subject: Subject, scene: Scene) -> "Iterator[_EngineProcess]":
        """The process, which lives within the block."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, name, subject, scene))
        process.start()
        theirs.close()
        try:
            yield cls(name, subject.device, ours)
        finally:
            ours.close()
            process.join(END_S)
            process.kill()
            process.join()

    def _ask(self, question: str, *arguments: Any) -> Any:
        """The answer; GeolocError if the engine raised it, or if no answer comes."""
        try:
            self._pipe.send((question, arguments))
            if not self._pipe.poll(ANSWER_S):
                raise GeolocError(f"{self.name} gave no answer within {ANSWER_S:g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise GeolocError(f"the process of {self.name} ended: too little memory?") from None
        if isinstance(answer, GeolocError):
            raise answer
        return answer

    def load(self) -> None:
        """Open the engine and run each mode once; GeolocError if it cannot."""
        loaded = self._ask("load", gpu_used_mb() if self._device.startswith("cuda") else None)
        self._logits = loaded["logits"]
        self.rows = [
            Row(self.name, self._device, mode, [], peak_mb, loaded["load_s"])
            for mode, peak_mb in zip(MODES, loaded["peak_mb"], strict=True)
        ]

    def take_turn(self, mode: int) -> None:
        """One round's calls."""
        self.rows[mode].rounds_ms.append(self._ask("turn", mode))
        time.sleep(PAUSE_S)

    def finish(self, plain: "_EngineProcess") -> None:
        """Fill in the figures that do not depend on the rounds."""
        logit_error = float(np.abs(self._logits - plain._logits).max())
        for number, row in enumerate(self.rows):
            row.logit_error = logit_error
            if row.mode.batch == 1:
                row.steady = self._ask("steady", number)


def gpu_used_mb() -> float:
    """GPU memory in use by all processes, with what the driver adds for each."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e6


def open_by_name(name: str, subject: Subject) -> Any:
    """PLAIN or one of the localizer's engines; GeolocError with the reason if it cannot be opened."""
    # Imported in the process of the engine, so that it counts as its memory.
    from geoloc_models.engines.choice import open_engine

    if name == PLAIN:
        from geoloc_models.engines.plain_engine import PlainEngine

        return PlainEngine(subject.weights, subject.device, subject.cores)
    return open_engine(subject.weights, subject.device, subject.cores, name, subject.folder)


def _serve(pipe: Connection, name: str, subject: Subject, scene: Scene) -> None:
    """Answer questions until the pipe is closed."""
    keep_to_cores(subject.cores)
    served: _Served | None = None
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            question, details = pipe.recv()
            answer: Any
            try:
                if question == "load":
                    served = _Served(name, subject, scene, *details)
                    answer = served.loaded()
                else:
                    answer = getattr(served, question)(*details)
            except GeolocError as error:
                answer = error
            pipe.send(answer)


class _Served:
    """An engine in its own process, with what it is asked."""

    def __init__(self, name: str, subject: Subject, scene: Scene, gpu_before_mb: float | None) -> None:
        """Opens the engine; GeolocError if it cannot. gpu_before_mb: in use on the GPU, None without one."""
        self._on_gpu = gpu_before_mb is not None
        self._before_mb = peak_resident_mb() if gpu_before_mb is None else gpu_before_mb
        start = time.perf_counter()
        self._engine = open_by_name(name, subject)
        self._load_s = time.perf_counter() - start
        self._scene = scene
        self._calls = 0
        self._call_s = [0.0] * len(MODES)

    def loaded(self) -> dict[str, Any]:
        """Logits of one view and map, and peak memory after the calls of each mode and those before."""
        peak_mb = []
        logits = None
        for number, mode in enumerate(MODES):
            for _ in range(2 if mode.batch == 1 else 1):
                self._call_s[number] = self._timed(mode) / 1e3
            if logits is None:
                logits = self._engine.logits(self._scene.query[None], self._scene.search_map[None])[0]
            # A GPU's memory pools do not shrink.
            used_mb = gpu_used_mb() if self._on_gpu else peak_resident_mb()
            peak_mb.append(used_mb - self._before_mb)
        return {"logits": logits, "peak_mb": peak_mb, "load_s": self._load_s}

    def turn(self, number: int) -> list[float]:
        """Milliseconds of a turn's calls in a mode."""
        calls = int(np.clip(ROUND_S / self._call_s[number], 1, MOST_CALLS))
        if MODES[number].cached:
            self._timed(MODES[number])  # other maps may have replaced it in the cache
        return [self._timed(MODES[number]) for _ in range(calls)]

    def steady(self, number: int) -> dict[str, float]:
        """Of a mode on a GPU, per call: PyTorch's allocations, those of the driver, and waits for the device."""
        if not self._on_gpu:
            return {}
        import torch

        before = torch.cuda.memory_stats()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for _ in range(STEADY_CALLS):
                    self._timed(MODES[number])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        after = torch.cuda.memory_stats()
        waits = sum("synchroniz" in str(warning.message) for warning in caught)
        counts = {
            key: after.get(name, 0) - before.get(name, 0)
            for key, name in (("allocations", "allocation.all.allocated"), ("driver_allocations", "num_device_alloc"))
        }
        return {key: count / STEADY_CALLS for key, count in {**counts, "synchronizations": waits}.items()}

    def _timed(self, mode: Mode) -> float:
        """Milliseconds of one call, until its logits are in memory, on a GPU too."""
        maps = mode.maps(self._scene, self._calls)
        self._calls += 1
        start = time.perf_counter()
        self._engine.logits(self._scene.query[None], maps)
        return 1e3 * (time.perf_counter() - start)
