#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ruff, mypy and pytest with coverage, in the environment that tools/setup.sh made. --lint-only stops before pytest.
set -eo pipefail
cd "$(dirname "$0")/.."
source tools/env.sh

say() { printf '\033[2m[test]\033[0m %s\n' "$*"; }

say "ruff"
ruff check .
say "mypy"
mypy
[ "${1:-}" != --lint-only ] || exit 0

# Runs side by side on one machine must not hear each other. 1..101 keeps clear of the ports Linux gives to others.
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((1 + $$ % 101))}"
export ROS_LOG_DIR="$PWD/log/ros"
say "pytest (ROS_DOMAIN_ID=$ROS_DOMAIN_ID)"
python -m pytest --cov "$@"
