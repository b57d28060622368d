# SPDX-License-Identifier: Apache-2.0
"""Point the CMake files of the ROS 2 wheels at this environment.

The wheels were built elsewhere and export the include and site-packages folders of the Python that built them
(/opt/python/cp3XX-cp3XX/...). CMake stops on a path that does not exist, so both are replaced in place. They
also export numpy's headers with every interface package; as .venv lies inside the package's own folder, CMake
refuses to export that path, so it is kept to the build.

Usage: python tools/fix_wheel_paths.py ENVIRONMENT
"""

import re
import sys
import sysconfig
from pathlib import Path

INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")
NUMPY = re.compile(r"(?<!BUILD_INTERFACE:)\$\{Python3_NumPy_INCLUDE_DIRS\}")
SITE_PACKAGES = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages")


def fix(environment: Path) -> int:
    """Rewrite every CMake file under `environment`/share; returns how many changed. Runs again harmlessly."""
    changed = 0
    for path in (environment / "share").rglob("*.cmake"):
        text = path.read_text(encoding="utf-8")
        fixed = INCLUDE.sub(sysconfig.get_path("include"), text)
        fixed = SITE_PACKAGES.sub(sysconfig.get_path("purelib"), fixed)
        if path.name == "rosidl_generator_py_generate_interfaces.cmake":
            fixed = NUMPY.sub("$<BUILD_INTERFACE:${Python3_NumPy_INCLUDE_DIRS}>", fixed)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    print(f"{fix(Path(sys.argv[1]))} CMake files changed")
