# SPDX-License-Identifier: Apache-2.0
"""List the weights that ship and the networks.

List the weights that ship with the package, of localizers and of retrievers, each loaded and checked against its
SHA-256 (a damaged one ends this with exit status 2), and the networks, which are the presets of `geoloc train`
(`geoloc ast models` lists those of retrieval): parameters, and multiply-accumulates both without the matrix products
of attention, as the DRL paper counts, and true; beside them what the paper reports for that row of its tables on UL14.
Ours leave out layers whose output nothing reads, so they may count less than the paper's.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="list only the networks whose name or source has all these words"
    )
    parser.add_argument(
        "--convert",
        nargs=2,
        type=Path,
        metavar=("CHECKPOINT", "FILE"),
        help="write a checkpoint of the paper's published code as a weights file; WORD is then the one preset it is of",
    )


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    if args.convert:
        return _convert(args.words, *args.convert)
    if not args.words:
        _list_weights()
    _list_networks(args.words)
    return 0


def _list_weights() -> None:
    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_models.weights import load_weights, shipped

    localizers = _table("localizer", "network", "params", "query", "m per px", "MB", "SHA-256")
    for name, entry in sorted(shipped("localizer").items()):
        loaded = load_weights(name)
        info = loaded.info
        count = sum(parameter.numel() for parameter in loaded.model.parameters())
        localizers.add_row(
            name,
            info.network,
            f"{count / 1e6:.2f} M",
            f"{info.query_px} px",
            f"{info.gsd_min_m:g} to {info.gsd_max_m:g}",
            *_file_cells(entry),
        )
    _print(localizers)
    retrievers = _table("retriever", "network", "image", "trained on tiles", "vector", "MB", "SHA-256")
    for name, entry in sorted(shipped("retriever").items()):
        retriever, about = load_retriever(name, "cpu")
        retrievers.add_row(
            name,
            about.name,
            f"{retriever.input_px} px",
            "" if about.tile_m is None else "{:g} to {:g} m".format(*about.tile_m),
            f"{retriever.dim} numbers",
            *_file_cells(entry),
        )
    if retrievers.row_count:
        _print(retrievers)


def _file_cells(entry: dict[str, str]) -> tuple[str, str]:
    """Megabytes and the start of the digest of an entry of the index."""
    from geoloc_models.weights import FOLDER

    return f"{(FOLDER / entry['file']).stat().st_size / 1e6:.1f}", entry["sha256"][:8]


def _list_networks(words: list[str]) -> None:
    import torch

    from geoloc_models.backbones.timm_backbone import STREAMS
    from geoloc_models.drl.macs import Cost, count_cost
    from geoloc_models.drl.presets import PRESETS, build_on_meta, names_with
    from geoloc_models.errors import GeolocError

    names = names_with(words)
    if not names:
        raise GeolocError(f"no network has {' '.join(words)!r} in its name or source; `geoloc models` lists them")
    table = _table("network", "params", "G MACs", "true", "RDS", "MA@20", "source")
    of_timm = [name for name in names if PRESETS[name].backbone in STREAMS]
    timm_missing = _timm_missing() if of_timm else None
    costs: dict[object, Cost] = {}
    with Console(stderr=True).status("counting") as status:
        for name in names:
            preset = PRESETS[name]
            status.update(f"counting {name}")
            counted = ("", "", "")
            if not (timm_missing and name in of_timm):
                if preset.arithmetic not in costs:
                    images = [torch.empty(1, 3, side, side) for side in (preset.query_px, preset.map_px)]
                    costs[preset.arithmetic] = count_cost(build_on_meta(name), *images)
                cost = costs[preset.arithmetic]
                counted = (f"{cost.parameters / 1e6:.2f} M", f"{cost.counted_macs / 1e9:.2f}", f"{cost.macs / 1e9:.2f}")
            reported = ("" if value is None else f"{value:.3f}" for value in (preset.rds, preset.ma20))
            table.add_row(name, *counted, *reported, preset.source)
    _print(table)
    if timm_missing:
        print(f"Not counted: {', '.join(of_timm)}. {timm_missing}")


def _timm_missing() -> str | None:
    """Why the networks of timm cannot be built, if they cannot."""
    from geoloc_models.backbones.timm_backbone import import_timm
    from geoloc_models.errors import GeolocError

    try:
        import_timm()
    except GeolocError as error:
        return str(error)
    return None


def _convert(words: list[str], checkpoint: Path, path: Path) -> int:
    from geoloc_models.drl.presets import PRESETS
    from geoloc_models.drl.published_checkpoints import UL14_GSD_M, load_published
    from geoloc_models.errors import GeolocError
    from geoloc_models.weights import WeightsInfo, save_weights

    if len(words) != 1:
        raise GeolocError(f"--convert needs one preset, not {len(words)}: name it before --convert")
    network = load_published(words[0], checkpoint)
    info = WeightsInfo(words[0], PRESETS[words[0]].query_px, *UL14_GSD_M, temperature=1.0)
    digest = save_weights(path, network, info)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")
    return 0


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _print(table: Table) -> None:
    """In full: on a narrow terminal a long line beats names cut into pieces."""
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
