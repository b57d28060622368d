# SPDX-License-Identifier: Apache-2.0
"""What each part of the default network, and the size of its view, is worth: the ablation table of docs/accuracy.md.

python tools/ablation.py DATA [--limit N]: the shipped hybrid with one part taken out at a time, and the compact
network, on the same held-out views and maps in one run. A part is taken out by setting its weights to zero.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from geoloc_models.devices import fix_threads
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.engines import Engine
from geoloc_models.engines.pose_search import PoseSearch
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.view_sets import PairProtocol
from geoloc_models.evaluation.views import evaluate_set
from geoloc_models.weights import load_weights, save_weights
from geoloc_ros.cli.shared.output import rated_progress
from geoloc_ros.core.evaluation.recorded_view_sets import open_set

SETS = ("levir", "srif", "joplin", "village")
PARTS: dict[str, Callable[[HybridMixFusion], list[nn.Parameter]]] = {
    "without trunk in the mixed tokens": lambda m: list(m.to_coarse.parameters()),
    "without trunk in the fine features": lambda m: list(m.to_fine.parameters()),
    "without correlation of the trunk": lambda m: [m.semantic.scale],
    "without mixed attention": lambda m: [m.context.weight],
    "without fine correlation": lambda m: [m.correlation.scale],
}
SCALES = (0.87, 1.0, 1.15)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with pairs/, crossdate/ and flights/")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="samples of each set (default: 100)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    args = parser.parse_args()
    fix_threads(args.threads)
    try:
        with TemporaryDirectory() as folder:
            engines = _engines(Path(folder))
        table = _table(args.data, args.limit, engines)
    except GeolocError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


def _engines(folder: Path) -> dict[str, Engine]:
    loaded = load_weights("mix_hybrid")
    assert isinstance(loaded.model, HybridMixFusion)
    engines: dict[str, Engine] = {"mix_hybrid": TorchEngine("mix_hybrid")}
    for side in (128, 160):
        path = folder / f"{side}.safetensors"
        save_weights(path, loaded.model, replace(loaded.info, query_px=side))
        engines[f"view of {side} px"] = TorchEngine(path)
    for name, parts in PARTS.items():
        model = load_weights("mix_hybrid").model
        assert isinstance(model, HybridMixFusion)
        with torch.no_grad():
            for parameter in parts(model):
                parameter.zero_()
        path = folder / "part.safetensors"
        save_weights(path, model, loaded.info)
        engines[name] = TorchEngine(path)
    engines["with a search over height"] = PoseSearch(TorchEngine("mix_hybrid"), scales=SCALES)
    engines["mix_compact"] = TorchEngine("mix_compact")
    return engines


def _table(data: Path, limit: int, engines: dict[str, Engine]) -> Table:
    sets = [open_set(data, name, PairProtocol(limit=limit), [], None) for name in SETS]
    table = Table(title=f"MA@5 / MA@20 / median m, {limit} samples a set")
    table.add_column("")
    rows: dict[str, list[str]] = {name: [] for name in engines}
    times: dict[str, list[float]] = {name: [] for name in engines}
    with rated_progress() as progress:
        task = progress.add_task("", total=sum(len(one) for one in sets))
        for one in sets:
            progress.update(task, description=one.name)
            table.add_column(one.name, justify="right")
            for score in evaluate_set(one, engines, advance=lambda: progress.advance(task)):
                summary = score.summary()
                ma = summary["ma"]
                rows[score.name].append(f"{ma['5']:.3f} / {ma['20']:.3f} / {summary['median_error_m']:.2f}")
                times[score.name].append(summary["latency_ms"]["p50"])
    table.add_column("ms, p50", justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells, f"{sum(times[name]) / len(times[name]):.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
