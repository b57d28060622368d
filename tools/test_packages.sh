#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what some tests need from the system, if this is root on a machine with apt; else says in one line how to.
# Tests that miss theirs skip with a reason, so nothing here ends the run. Done in a moment where all is installed.
set -uo pipefail
cd "$(dirname "$0")/.."

# what is checked for: packages, and what they are for
needed=(
  "ign: ignition-tools libsdformat-dev sdformat-sdf" # the SDF checker, for Gazebo worlds
  "chromium: chromium"                               # opens the report
)

missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*: }")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  mkdir -p log
  log=log/setup-apt.log
  printf '\033[2m[setup]\033[0m apt-get install %s (log: %s)\n' "${missing[*]}" "$log"
  export DEBIAN_FRONTEND=noninteractive
  timeout 120 apt-get update >"$log" 2>&1
  failed=()
  for packages in "${missing[@]}"; do
    # shellcheck disable=SC2086
    timeout 300 apt-get install -y --no-install-recommends $packages >>"$log" 2>&1 || failed+=("$packages")
  done
  missing=(${failed[@]+"${failed[@]}"})
fi
[ ${#missing[@]} -eq 0 ] ||
  printf '\033[2m[setup]\033[0m some tests will skip; they need: sudo apt-get install --no-install-recommends %s\n' "${missing[*]}"
exit 0
