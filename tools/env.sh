# SPDX-License-Identifier: Apache-2.0
# Source this (bash) after `make build`: the environment in which geoloc, its nodes and its tests run.
_geoloc_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$_geoloc_root/.venv/bin/activate"
. "$_geoloc_root/install/setup.bash"
# The sources win over the built copy; the built package adds the generated interfaces.
export PYTHONPATH="$_geoloc_root:$PYTHONPATH"
export PATH="$_geoloc_root/install/geoloc_ros/lib/geoloc_ros:$PATH"
# Raw frames do not fit into Fast DDS's default shared-memory segment. Fast DDS 3 (Kilted and later) has a name of its
# own for the variable and warns of the old one.
case "${ROS_DISTRO:-jazzy}" in
  humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="${FASTRTPS_DEFAULT_PROFILES_FILE:-$_geoloc_root/config/fastdds.xml}" ;;
  *) export FASTDDS_DEFAULT_PROFILES_FILE="${FASTDDS_DEFAULT_PROFILES_FILE:-$_geoloc_root/config/fastdds.xml}" ;;
esac
# The wheels' start-up file must run anew in this environment.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE _geoloc_root
