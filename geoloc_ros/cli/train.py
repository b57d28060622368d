# SPDX-License-Identifier: Apache-2.0
"""`geoloc train`: train the localizer on pairs of pictures of two dates."""

import argparse
from dataclasses import replace
from pathlib import Path

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import make_writable, seed

SOURCES = ("levir", "srif", "dsifn", "tiles")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "train",
        help="train the localizer on picture pairs",
        description="Train a Mix-Fusion network on pairs of pictures of the same ground at two dates. Scenes whose "
        "name falls into the held-out fifth are never trained on. Continues from OUT/checkpoint.pt if it is there.",
    )
    parser.add_argument(
        "data", type=Path, help="folder with pairs/ and tiles/ in the layout of docs/training.md"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/train"), help="run folder (default %(default)s)"
    )
    parser.add_argument(
        "--source", action="append", choices=SOURCES, help="use only these sources (repeat; default all)"
    )
    parser.add_argument(
        "--network",
        default="mix_compact",
        help="preset: mix_compact, mix_vits14_pyramid_gc, mix_cvt13_fpn_linear, mix_cvt13_ccn_{avg,linear,gem,gc} "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="start the backbone from DINOv2 ViT-S/14 (timm names) or from CvT-13 of its model zoo",
    )
    parser.add_argument(
        "--loss",
        choices=("spatial", "wbl"),
        default="spatial",
        help="softmax cross-entropy over the map, or the paper's weighted balance loss (default %(default)s)",
    )
    parser.add_argument(
        "--samples", type=int, default=160_000, help="query/map pairs in all (default %(default)s)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=1.2e-3, help="peak learning rate (default %(default)s)"
    )
    parser.add_argument(
        "--maps-per-batch",
        type=int,
        default=8,
        help="search maps a batch, six views each (default %(default)s)",
    )
    parser.add_argument(
        "--heading-deg",
        type=float,
        default=15.0,
        help="largest heading error drawn (180: unknown; default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=seed, default=666, help="seed of weights and samples (default %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="where to write the weights (default OUT/NETWORK.safetensors)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, calibrate and export."""
    import torch

    from geoloc_models.data.pairs import calibrates, list_pairs
    from geoloc_models.data.samples import SampleSettings
    from geoloc_models.drl.presets import PRESETS, build
    from geoloc_models.training import TrainingSettings, calibrate, train
    from geoloc_models.weights import WeightsInfo, save_weights

    if args.samples <= 0:
        raise GeolocError(f"--samples is {args.samples}: give a positive number")
    make_writable(args.out)
    device = args.device if args.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    sources = args.source or SOURCES
    pairs = [pair for source in sources for pair in list_pairs(args.data, source, held_out=False)]
    held_out = [
        pair
        for source in sources
        if source in ("levir", "srif")
        for pair in list_pairs(args.data, source, True)
    ]
    samples = SampleSettings(heading_deg=args.heading_deg)
    settings = TrainingSettings(
        loss=args.loss,
        samples=args.samples,
        maps_per_batch=args.maps_per_batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    query_px = 128
    if args.network in PRESETS and PRESETS[args.network].family != "compact":
        preset = PRESETS[args.network]
        query_px = preset.query_px
        samples = replace(samples, map_px=preset.map_px, query_px=preset.query_px)
        settings = replace(
            settings, positive_cells=preset.positive_cells, negative_weight=preset.negative_weight
        )
    torch.manual_seed(args.seed)
    model = train(
        build(args.network, args.backbone_weights), pairs, held_out, args.out, samples, settings, device
    )
    # Calibrated as it is used: larger views than in training, errors of a usual IMU and altimeter, and only
    # half of the held-out scenes, so that the other half can tell whether the calibration holds.
    flown = replace(
        samples,
        query_px=query_px,
        map_px=3 * query_px,
        map_scale=(0.8, 1.2),
        tilt_deg=6.0,
        heading_deg=min(6.0, args.heading_deg),
        height_share=0.07,
    )
    temperature = calibrate(model, [p for p in held_out if calibrates(p.name)] or pairs, flown, device)
    path = args.export or args.out / f"{args.network}.safetensors"
    info = WeightsInfo(
        args.network, query_px=query_px, gsd_min_m=0.25, gsd_max_m=1.2, temperature=round(temperature, 3)
    )
    digest = save_weights(path, model, info)
    print(
        f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}, temperature {temperature:.3f}"
    )
    return 0
