"""Checks Python and the packages that the distribution requires."""

import platform
import sys
from collections.abc import Callable, Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .finding import Finding, no, yes

DISTRIBUTION = "normpipe"
#: Distributions that provide the same modules as the required one.
ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime-gpu",),
    "opencv-python": (
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
}


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_python(wanted: str, version: str | None = None) -> Finding:
    """Check this Python's version against the distribution's requirement (``>=3.11``)."""
    version = version or platform.python_version()
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return yes("python", f"{version} ({sys.executable})")
    return no("python", version, f"create an environment with Python {wanted}")


def check_packages(
    requirements: Iterable[str],
    installed: Callable[[str], str | None] = installed_version,
) -> list[Finding]:
    """Return a finding for each requirement that applies here, those of extras left out.

    Args:
        requirements: as in a distribution's metadata, such as ``torch<2.14,>=2.10``.
        installed: version of a distribution, or None; replaced in tests.
    """
    wanted = [Requirement(text) for text in requirements]
    return [
        _check_package(one, installed)
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]


def _check_package(wanted: Requirement, installed: Callable[[str], str | None]) -> Finding:
    remedy = f"{sys.executable} -m pip install '{wanted.name}{wanted.specifier}'"
    for name in (wanted.name, *ALTERNATIVES.get(wanted.name, ())):
        version = installed(name)
        if version is None:
            continue
        if wanted.specifier.contains(version, prereleases=True):
            return yes("package", f"{name} {version}")
        return no("package", f"{name} {version}, {wanted.specifier} is needed", remedy)
    return no("package", f"{wanted.name} is not installed", remedy)


def check_installation() -> list[Finding]:
    """Return the findings on Python and on every package that normpipe requires."""
    try:
        about = metadata.metadata(DISTRIBUTION)
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        remedy = f"run {sys.executable} -m pip install . in its folder"
        return [no("package", f"{DISTRIBUTION} is imported, but not installed", remedy)]
    return [check_python(about["Requires-Python"]), *check_packages(requirements)]
