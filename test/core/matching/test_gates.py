# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from geoloc_models.evaluation import views
from geoloc_ros.core.matching.gates import Refused, check_alignment, check_odds
from geoloc_ros.core.matching.settings import GateSettings


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_place_needs_agreement_and_a_start_needs_more(confirmed: bool) -> None:
    gate = GateSettings()
    limit = gate.min_alignment if confirmed else gate.min_start_alignment
    assert gate.min_alignment < gate.min_start_alignment
    check_alignment(limit, gate, confirmed)
    with pytest.raises(Refused, match=f"unaligned: .* the limit is {limit:.0%}") as refused:
        check_alignment(limit - 1e-3, gate, confirmed)
    assert not refused.value.contradicts
    # An engine that aligns nothing does not say.
    check_alignment(math.nan, gate, confirmed)


def test_a_place_of_a_search_needs_odds() -> None:
    gate = GateSettings()
    check_odds(math.log(gate.min_start_odds), gate)
    check_odds(math.inf, gate)
    with pytest.raises(Refused, match="ambiguous"):
        check_odds(math.log(gate.min_start_odds) - 1e-3, gate)


def test_single_views_are_judged_by_the_gates_of_a_start() -> None:
    gate = GateSettings()
    limits = (views.START_PEAK, views.START_PEAK_RATIO, views.START_ALIGNMENT, views.START_ODDS)
    assert limits == (gate.min_start_peak, gate.min_peak_ratio, gate.min_start_alignment, gate.min_start_odds)
