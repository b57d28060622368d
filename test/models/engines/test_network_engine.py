# SPDX-License-Identifier: Apache-2.0
"""Every engine gives PyTorch's answers, and caches what may be cached."""

from collections.abc import Callable

import numpy as np
import pytest

from geoloc_models.engines.export import Sample
from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.parts import Tensors
from geoloc_models.engines.plain_engine import PlainEngine
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError

WEIGHTS = "mix_compact"


class Counting(PartsEngine):
    """Notes which parts run."""

    def __init__(self, of: TorchEngine) -> None:
        self.__dict__ |= of.__dict__
        self.forget_maps()
        self.ran: list[str] = []
        self._of = of

    def run(self, part: str, inputs: Tensors) -> Tensors:
        self.ran.append(part)
        return self._of.run(part, inputs)


def test_batches_are_their_single_pairs(exact: TorchEngine, ground: Callable[..., np.ndarray]) -> None:
    views = np.stack([ground(128, 128, seed) for seed in range(4)])
    maps = np.stack([ground(192, 192, seed) for seed in (5, 6)])

    def alone(view: int, search: int) -> np.ndarray:
        return exact.logits(views[view][None], maps[search][None])[0][0]

    two_each, _ = exact.logits(views, maps)
    one_in_all, _ = exact.logits(views[:1], maps)
    for index, (view, search) in enumerate([(0, 0), (1, 0), (2, 1), (3, 1)]):
        np.testing.assert_allclose(two_each[index], alone(view, search), atol=1e-4)
    for index in range(2):
        np.testing.assert_allclose(one_in_all[index], alone(0, index), atol=1e-4)
    with pytest.raises(GeolocError, match="3 query views do not divide among 2 maps"):
        exact.logits(views[:3], maps)


def test_equal_views_are_encoded_once(exact: TorchEngine, ground: Callable[..., np.ndarray]) -> None:
    class Batches(Counting):
        def run(self, part: str, inputs: Tensors) -> Tensors:
            encoded.extend([len(inputs[0])] if part == "query" else [])
            return super().run(part, inputs)

    encoded: list[int] = []
    one, other = ground(128, 128), ground(128, 128, 2)
    maps = np.stack([ground(192, 192, seed) for seed in (5, 6, 7)])
    logits, _ = Batches(exact).logits(np.stack([one, other, one]), maps)
    assert encoded == [2]
    for index, view in enumerate((one, other, one)):
        np.testing.assert_allclose(logits[index], exact.logits(view[None], maps[index][None])[0][0], atol=1e-4)


def test_a_map_is_encoded_once_and_another_never_answered_for_it(
    exact: TorchEngine, ground: Callable[..., np.ndarray]
) -> None:
    engine = Counting(exact)
    view, search = ground(128, 128)[None], ground(192, 192, 1)[None]
    first, _ = engine.logits(view, search)
    again, _ = engine.logits(view, search.copy())
    assert np.array_equal(first, again)
    assert engine.ran == ["query", "map", "mix", "query", "mix"]
    for row, col in ((0, 0), (100, 77), (191, 191)):
        changed = search.copy()
        changed[0, row, col] += 90
        assert engine.logits(view, changed)[0].tobytes() == exact_again(exact, view, changed).tobytes()
    assert engine.ran.count("map") == 4
    # Another size of view needs another spectrum of the same map.
    smaller = ground(96, 96)[None]
    np.testing.assert_allclose(engine.logits(smaller, search)[0], exact_again(exact, smaller, search), atol=1e-4)
    assert engine.ran.count("map") == 5
    engine.forget_maps()
    engine.logits(view, search)
    assert engine.ran.count("map") == 6


def exact_again(engine: TorchEngine, view: np.ndarray, search: np.ndarray) -> np.ndarray:
    """Logits by an engine that has cached nothing."""
    engine.forget_maps()
    return engine.logits(view, search)[0]


def test_a_prepared_map_is_not_encoded_again(exact: TorchEngine, ground: Callable[..., np.ndarray]) -> None:
    engine = Counting(exact)
    view, searched, coming = ground(128, 128)[None], ground(192, 192, 1)[None], ground(200, 184, 2)[None]
    engine.logits(view, searched)
    engine.prepare(coming[0])
    assert engine.ran == ["query", "map", "mix", "map"]
    prepared, _ = engine.logits(view, coming)
    assert engine.ran[4:] == ["query", "mix"]
    assert np.array_equal(prepared, exact_again(exact, view, coming))


def test_cached_maps_stay_within_their_memory(
    exact: TorchEngine, monkeypatch: pytest.MonkeyPatch, ground: Callable[..., np.ndarray]
) -> None:
    engine = Counting(exact)
    monkeypatch.setattr(engine._maps, "_most_bytes", 4 << 20)
    maps = [ground(192, 192, seed)[None] for seed in range(8)]
    for search in maps:
        engine.logits(maps[0][:, :128, :128], search)
    cached = list(engine._maps._entries.values())
    held = sum(image.nbytes + sum(t.numel() * t.element_size() for t in own) for image, own in cached)
    assert 0 < len(cached) < 8
    assert held == engine._maps._bytes <= 4 << 20
    engine.logits(maps[0][:, :128, :128], maps[-1])
    assert engine.ran.count("map") == 8


def test_warming_up_keeps_nothing(exact: TorchEngine) -> None:
    engine = Counting(exact)
    assert list(engine.usual_sides_px()) == list(range(144, 321, 16))
    engine.warm_up([144], maps=3)
    assert engine.ran == ["query", "map", "map", "map", "mix"]
    assert not engine._maps._entries


def test_half_precision_moves_fixes_by_centimetres(exact: TorchEngine, samples: list[Sample]) -> None:
    half = TorchEngine(WEIGHTS, "cpu", precision="bf16")
    assert half.spec.label == "cpu (torch-bf16)"
    for one in samples:
        places = [engine.infer(one.query, one.search_map).peak_xy_px for engine in (half, exact)]
        assert np.hypot(*np.subtract(*places)) * one.gsd_m < 0.1


def test_the_plain_engine_gives_the_same_logits(exact: TorchEngine, ground: Callable[..., np.ndarray]) -> None:
    plain = PlainEngine(WEIGHTS, "cpu")
    views, maps = np.stack([ground(128, 128, s) for s in (0, 1)]), ground(192, 208, 2)[None]
    np.testing.assert_allclose(plain.logits(views, maps)[0], exact.logits(views, maps)[0], atol=1e-4)
