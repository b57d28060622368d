# SPDX-License-Identifier: Apache-2.0
"""The command line: help everywhere, one line and exit status 2 for the user's mistakes."""

import pytest

from geoloc_ros.cli.main import COMMANDS, build_parser, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("    ") and line[4] != " "}
    assert listed == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_argument_is_explained(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "show this help message" in capsys.readouterr().out
    subparsers = build_parser([command])._subparsers
    assert subparsers is not None
    parser = subparsers._group_actions[0].choices[command]  # type: ignore[index,call-overload]
    assert all(action.help for action in parser._actions)


def test_a_mistyped_command_names_the_right_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["evalute"])
    assert stop.value.code == 2
    assert "evaluate-pairs" in capsys.readouterr().err


def test_a_missing_flight_is_one_line_and_exit_status_2(capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "no/such/flight"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "no/such/flight" in error
