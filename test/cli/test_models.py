# SPDX-License-Identifier: Apache-2.0
"""`geoloc models` lists what ships."""

import pytest

from geoloc_models.weights import FOLDER, shipped
from geoloc_ros.cli.main import main


def test_lists_every_name_with_its_size(capsys: pytest.CaptureFixture[str]):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name, entry in shipped().items():
        assert name in text
        assert f"{(FOLDER / entry['file']).stat().st_size / 1e6:.1f}" in text
