# SPDX-License-Identifier: Apache-2.0
"""pip-installable without ROS: `geoloc_models`, the core of `geoloc_ros`, and the `geoloc` command."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    """The lines of one list under requirements/, without comments."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


setup(
    name="geoloc",
    version="0.1.0",
    description="Finds where a drone is by matching its camera against a map, without GNSS",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="geoloc maintainers",
    author_email="maintainers@geoloc.dev",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["geoloc_models*", "geoloc_ros*"]),
    package_data={
        "geoloc_models": ["py.typed", "**/*.safetensors", "**/*.json", "**/*.md"],
        "geoloc_ros": ["py.typed", "**/templates/*"],
    },
    # A training machine may bring a torch of its own; a newer one than tested may draw gigabytes.
    install_requires=[line.replace("torch==", "torch<=") for line in requirements("runtime.txt")],
    extras_require={
        "xfeat": requirements("xfeat.txt"),
        "lightglue": requirements("lightglue.txt"),
        "engines": requirements("engines.txt"),
        "int8": requirements("int8.txt"),
        "geoid": requirements("geoid.txt"),
        "mavlink": requirements("mavlink.txt"),
        "timm": requirements("timm.txt"),
        "tensorboard": requirements("tensorboard.txt"),
        "dev": requirements("test.txt"),
    },
    entry_points={"console_scripts": ["geoloc = geoloc_ros.cli.main:main"]},
)
