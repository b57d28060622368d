#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ruff, mypy and pytest with coverage, in the environment that tools/setup.sh made; all run, whichever fails.
# --lint-only stops before pytest; other arguments go to pytest.
set -eo pipefail
cd "$(dirname "$0")/.."
source tools/env.sh

say() { printf '\033[2m[test]\033[0m %s\n' "$*"; }

status=0
say "ruff"
ruff check --quiet . || status=1
say "mypy"
mypy || status=1
[ "${1:-}" != --lint-only ] || exit $status

tools/test_packages.sh

# Runs side by side on one machine must not hear each other. 1..101 keeps clear of the ports Linux gives to others.
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((1 + $$ % 101))}"
export ROS_LOG_DIR="$PWD/log/ros"
say "pytest (ROS_DOMAIN_ID=$ROS_DOMAIN_ID)"
python -m pytest --cov "$@" || status=1
exit $status
