# SPDX-License-Identifier: Apache-2.0
"""Builds the test package px4_msgs of one PX4 version, once per content, and gives the environment that finds it."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).with_name("px4_msgs")


def px4_environment(version: str) -> dict[str, str]:
    """The environment of a process that imports px4_msgs of PX4 `version` (1.17 or 1.18)."""
    prefix = _built(version)
    environment = dict(os.environ)
    packages = next(prefix.glob("**/px4_msgs/msg/__init__.py")).parents[2]
    for name, folder in (("AMENT_PREFIX_PATH", prefix), ("PYTHONPATH", packages), ("LD_LIBRARY_PATH", prefix / "lib")):
        environment[name] = os.pathsep.join(filter(None, (str(folder), environment.get(name, ""))))
    # The wheels' start-up file must take up the new library path.
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return environment


def _built(version: str) -> Path:
    digest = hashlib.sha256(f"{sys.version} {os.environ.get('ROS_DISTRO', '')}".encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(source.read_bytes())
    folder = ROOT / "build" / "px4_msgs" / f"{version}-{digest.hexdigest()[:12]}"
    if (folder / "done").is_file():
        return folder / "install"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = dict(os.environ)
    # The wheels' packages lie in the virtual environment, which is no ament prefix by itself.
    for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"):
        environment[name] = os.pathsep.join(filter(None, (environment.get(name, ""), sys.prefix)))
    build = str(folder / "build")
    configure = [
        "cmake", "-S", str(SOURCES), "-B", build, f"-DPX4={version}", f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCMAKE_INSTALL_PREFIX={folder / 'install'}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", build, "-j2", "--target", "install"]):
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    (folder / "done").touch()
    return folder / "install"
