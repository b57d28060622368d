#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ruff, mypy, import-linter and pytest with coverage, in the environment that tools/setup.sh made; all run, whichever fails.
# --lint-only stops before pytest; with other arguments pytest runs once, in one process, with them.
set -eo pipefail
cd "$(dirname "$0")/.."
source tools/env.sh

say() { printf '\033[2m[test]\033[0m %s\n' "$*"; }

status=0
say "ruff"
ruff check --quiet . || status=1
ruff format --quiet --check . || { echo "not formatted: run ruff format ."; status=1; }
say "mypy"
mypy || status=1
say "order of imports"
lint-imports --no-cache >log/imports.log 2>&1 || { cat log/imports.log; status=1; }
[ "${1:-}" != --lint-only ] || exit $status

tools/test_packages.sh

# Runs side by side on one machine must not hear each other. 1..101 keeps clear of the ports Linux gives to others.
export ROS_DOMAIN_ID="${ROS_DOMAIN_ID:-$((1 + $$ % 101))}"
export ROS_LOG_DIR="$PWD/log/ros"
say "pytest (ROS_DOMAIN_ID=$ROS_DOMAIN_ID)"
if [ $# -gt 0 ]; then
  python -m pytest --cov "$@" || status=1
  exit $status
fi
# What only computes runs side by side, a file at a time, as files share what they have trained or exported; one thread
# each, or they would wait for each other's. Nodes in a graph answer in time, and have the machine to themselves.
side_by_side=(test/cli test/core test/models test/messages)
OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile "${side_by_side[@]}" --cov --cov-report= || status=1
python -m pytest "${side_by_side[@]/#/--ignore=}" --cov --cov-append || status=1
exit $status
