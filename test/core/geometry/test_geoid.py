# SPDX-License-Identifier: Apache-2.0
"""The geoid against undulations published by NGA with EGM96, the test points of its program F477."""

import pytest

from geoloc_ros.core.geometry.geoid import undulation_m


@pytest.mark.parametrize(
    ("lat_deg", "lon_deg", "published_m"),
    [
        (38.6281550, 269.7791550, -31.628),
        (-14.6212170, 305.0211140, -2.969),
        (46.8743190, 102.4487290, -43.575),
        (-23.6174460, 133.8747120, 15.871),
        (38.6254730, 359.9995000, 50.066),
        (-0.4667440, 0.0023000, 17.329),
    ],
)
def test_undulation(lat_deg: float, lon_deg: float, published_m: float) -> None:
    assert undulation_m(lat_deg, lon_deg) == pytest.approx(published_m, abs=0.1)
    assert undulation_m(lat_deg, lon_deg - 360.0) == pytest.approx(published_m, abs=0.1)
