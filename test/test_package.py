# SPDX-License-Identifier: Apache-2.0
"""The package's own files agree with each other: manifest, interfaces, launch files, build, set-up."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
INTERFACES = sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")])
# ROS packages that the nodes could import; the rest of what they import is Python's or PyPI's.
ROS_PACKAGES = {
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs", "geometry_msgs", "launch",
    "launch_ros", "launch_testing", "lifecycle_msgs", "nav_msgs", "rcl_interfaces", "rclpy", "rosgraph_msgs",
    "sensor_msgs", "std_msgs", "std_srvs", "tf2_ros", "tf_transformations",
}  # fmt: skip


def imported_packages(path: Path) -> set[str]:
    """Top-level names of everything a Python file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def calls(path: Path, name: str) -> list[ast.Call]:
    """Every call of the function or class `name` in a Python file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name]


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a keyword argument, None if it is missing or no literal."""
    for argument in call.keywords:
        if argument.arg == name and isinstance(argument.value, ast.Constant):
            return argument.value.value
    return None


def literal_names(found: list[ast.Call]) -> set[object]:
    """First positional arguments, as far as they are literals."""
    return {call.args[0].value for call in found if call.args and isinstance(call.args[0], ast.Constant)}


def test_manifest_names_every_ros_package_that_is_imported():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest if element.tag.endswith("depend")}
    sources = [*(ROOT / "geoloc_ros").rglob("*.py"), *LAUNCH_FILES]
    imported = set().union(*(imported_packages(path) for path in sources)) & ROS_PACKAGES
    assert "rclpy" in imported
    assert imported <= declared


def test_core_and_models_never_import_ros():
    sources = [*(ROOT / "geoloc_models").rglob("*.py"), *(ROOT / "geoloc_ros" / "core").rglob("*.py")]
    offenders = {path.name: imported_packages(path) & ROS_PACKAGES for path in sources}
    assert {name: packages for name, packages in offenders.items() if packages} == {}


def test_versions_agree():
    version = ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_every_interface_field_is_explained(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.match(r"[a-z]", line):
            assert "#" in line or above.startswith("#"), f"no comment: {line}"


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_launch_argument_is_described(path: Path):
    arguments = calls(path, "DeclareLaunchArgument")
    assert arguments
    for argument in arguments:
        descriptions = [k.value for k in argument.keywords if k.arg == "description"]
        assert descriptions, ast.unparse(argument)
        assert not isinstance(descriptions[0], ast.Constant) or descriptions[0].value, ast.unparse(argument)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_use_only_what_exists(path: Path):
    text = path.read_text(encoding="utf-8")
    declared = literal_names(calls(path, "DeclareLaunchArgument"))
    assert literal_names(calls(path, "LaunchConfiguration")) <= declared
    for node in [*calls(path, "Node"), *calls(path, "LifecycleNode")]:
        executable = keyword(node, "executable")
        # The bridges' names are made up of the autopilot's; the smoke runs start them.
        assert executable is None or os.access(ROOT / "scripts" / str(executable), os.X_OK)
    for name in re.findall(r'"([\w.]+\.(?:yaml|xml))"', text):
        assert (ROOT / "config" / name).is_file(), name


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_load_in_real_launch(path: Path):
    pytest.importorskip("launch_ros.actions", reason="the ROS 2 wheels bring no launch")
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
    assert all(argument.description for argument in description.get_launch_arguments())


def test_scripts_call_modules_that_exist():
    for script in (ROOT / "scripts").iterdir():
        module = re.search(r"from (geoloc_ros[\w.]+) import main", script.read_text(encoding="utf-8"))
        assert module, script.name
        assert (ROOT / (module[1].replace(".", "/") + ".py")).is_file(), script.name
        assert f"scripts/{script.name}" in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def test_built_package_runs_without_the_sources(tmp_path: Path):
    """What colcon installed is whole: generated interfaces beside our modules, executables, share files."""
    from ament_index_python.packages import get_package_prefix, get_package_share_directory

    prefix, share = Path(get_package_prefix("geoloc_ros")), Path(get_package_share_directory("geoloc_ros"))
    for folder in ("launch", "config"):
        sources = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        assert sources == {path.name for path in (share / folder).iterdir()}
    environment = dict(os.environ)
    paths = environment["PYTHONPATH"].split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if Path(path).resolve() != ROOT)
    code = (
        "import geoloc_models.errors, geoloc_ros.core.geometry.geodesy, geoloc_ros.msg, geoloc_ros.srv;"
        "print(geoloc_ros.core.geometry.geodesy.__file__); print(geoloc_ros.srv.GetMap.Response.OUT_OF_BOUNDS)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    module, number = result.stdout.split()
    assert Path(module).is_relative_to(prefix)
    assert number == "2"
    command = subprocess.run(
        [str(prefix / "lib" / "geoloc_ros" / "geoloc"), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "evaluate" in command.stdout


def test_wheel_paths_are_pointed_at_this_environment(tmp_path: Path):
    generator = "rosidl_generator_py_generate_interfaces.cmake"
    (tmp_path / "share").mkdir()
    exported = tmp_path / "share" / "export.cmake"
    exported.write_text(
        'INCLUDES "/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"\n'
    )
    (tmp_path / "share" / generator).write_text("PUBLIC ${Python3_NumPy_INCLUDE_DIRS}\n")
    for changed in (2, 0):
        result = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "fix_wheel_paths.py"), str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert result.stdout == f"{changed} CMake files changed\n"
    include, site_packages = sysconfig.get_path("include"), sysconfig.get_path("purelib")
    assert exported.read_text() == f'INCLUDES "{include};{site_packages}/numpy/_core/include"\n'
    assert "$<BUILD_INTERFACE:${Python3_NumPy_INCLUDE_DIRS}>" in (tmp_path / "share" / generator).read_text()


def tools_without(folder: Path, *missing: str) -> str:
    """A PATH that holds what set-up needs, except `missing`."""
    for name in ("dirname", "mkdir", "uname", "cc", "c++", "make", "cmake"):
        if name not in missing:
            (folder / name).write_text('#!/bin/sh\nexec /usr/bin/env PATH=/usr/bin:/bin "${0##*/}" "$@"\n')
            (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("missing", "python", "remedy"),
    [
        ("cmake", sys.executable, "sudo apt install cmake"),
        ("c++", sys.executable, "sudo apt install build-essential"),
        ("make", sys.executable, "sudo apt install make"),
        ("python", "python-that-is-not-here", "sudo apt install python3"),
    ],
)
def test_setup_says_in_one_line_what_to_install(tmp_path: Path, missing: str, python: str, remedy: str):
    environment = {**os.environ, "PATH": tools_without(tmp_path, missing), "PYTHON": python}
    result = subprocess.run(
        ["/bin/bash", str(ROOT / "tools" / "setup.sh")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert remedy in result.stderr


@pytest.mark.parametrize("installs", [None, True, False])
def test_missing_system_packages_never_end_the_tests(tmp_path: Path, installs: bool | None):
    """Without apt-get, with one that works, and with one that reaches nothing."""
    tools, asked = tmp_path / "bin", tmp_path / "asked"
    tools.mkdir()
    for name, does in {
        "dirname": '/usr/bin/dirname "$@"',
        "id": "echo 0",
        "mkdir": ":",
        "timeout": 'shift; "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
    if installs is not None:
        (tools / "apt-get").write_text(f"#!/bin/sh\necho $* >>{asked}\nexit {0 if installs else 100}\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "tools").mkdir()
    (tmp_path / "log").mkdir()
    script = shutil.copy(ROOT / "tools" / "test_packages.sh", tmp_path / "tools")
    done = subprocess.run(["/bin/bash", script], env={"PATH": str(tools)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("some tests will skip" in done.stdout) == (installs is not True)
    if installs:
        assert "--no-install-recommends ignition-tools libsdformat-dev sdformat-sdf" in asked.read_text()
    else:
        assert "sudo apt-get install --no-install-recommends" in done.stdout
        assert "sdformat-sdf chromium" in done.stdout


OPTIONAL = {
    # imported where it is needed, with a message that names the extra: engines, baselines, bridges, curves, backbones
    "onnx", "onnxruntime", "openvino", "nncf", "tensorrt", "lightglue", "kornia", "modules", "pymavlink", "serial",
    "egm96", "timm", "torchvision",
}  # fmt: skip
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "faiss": "faiss-cpu"}


def test_what_runs_without_ros_is_in_the_runtime_requirements() -> None:
    """Every third-party import, lazy ones too, except nodes, extras, and ROS in what translates its messages."""
    lines = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8").splitlines()
    required = {re.split("[=<>]", line)[0].lower() for line in lines if line and not line.startswith("#")}
    known = sys.stdlib_module_names | {"geoloc_models", "geoloc_ros"} | OPTIONAL | ROS_PACKAGES
    nodes = ROOT / "geoloc_ros" / "nodes"
    files = [file for folder in ("geoloc_models", "geoloc_ros") for file in (ROOT / folder).rglob("*.py")]
    imported = set().union(*(imported_packages(file) for file in files if nodes not in file.parents))
    assert {"torch", "faiss", "rclpy"} <= imported
    assert {name for name in imported - known if DISTRIBUTIONS.get(name, name).lower() not in required} == set()


def test_colcon_test_runs_every_suite() -> None:
    listed = re.search(r"foreach\(suite ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    assert listed
    folders = {file.relative_to(ROOT / "test").parts[0] for file in (ROOT / "test").rglob("test_*.py")}
    assert set(listed[1].split()) == folders


def test_tools_of_pre_commit_are_those_of_the_requirements() -> None:
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "requirements" / "test.txt").read_text(encoding="utf-8"), re.M)
    assert pinned
    assert f"rev: v{pinned[1]} " in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    if listed.returncode or ROOT / "package.xml" not in files:
        pytest.skip(f"{ROOT} is no git checkout")
    return [file for file in files if file.is_file()]


def test_source_files_state_their_licence_first() -> None:
    """In the first line, or in the second after a #!."""
    sources = [
        file
        for file in tracked_files()
        if file.suffix in {".py", ".sh", ".yaml", ".yml", ".toml"}
        or file.name in {"CMakeLists.txt", "Makefile"}
        or file.parent in {ROOT / "scripts", ROOT / ".ci"}
    ]
    heads = {file: file.read_text(encoding="utf-8").splitlines()[:2] for file in sources}
    assert {str(file) for file, head in heads.items() if "# SPDX-License-Identifier: Apache-2.0" not in head} == set()


def test_tracked_files_are_light():
    """Whoever clones gets all of them, and more than nine tenths are weights."""
    assert sum(file.stat().st_size for file in tracked_files()) < 48.5e6
