"""What a Vulkan loader would find here: the library, and the driver files that it reads.

Only for telling a user what was looked for where no GPU was found; nothing is loaded.

Source: "Linux Driver Discovery" in Khronos' Vulkan-Loader, docs/LoaderDriverInterface.md.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

VARIABLES: Final = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""Environment variables that name driver files; the first that is set counts."""


def driver_files(environment: Mapping[str, str]) -> tuple[list[Path], list[Path]]:
    """The driver files that the loader reads.

    Args:
        environment: the process's environment.

    Returns:
        The files and folders that are looked at, and the driver files that are there.
    """
    for variable in VARIABLES:
        if environment.get(variable):
            places = [Path(part) for part in environment[variable].split(os.pathsep) if part]
            return places, [file for place in places for file in _manifests(place)]
    places = list(_folders(environment))
    return places, [file for place in places for file in _manifests(place)]


def _manifests(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(place.glob("*.json"))
    return [place] if place.is_file() else []


def _folders(environment: Mapping[str, str]) -> Iterator[Path]:
    """The folders of drivers on Linux, in the loader's order."""
    home = environment.get("HOME", "")
    roots = [environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")]
    roots += (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    roots += ["/usr/local/etc", "/etc"]
    roots += [environment.get("XDG_DATA_HOME") or (f"{home}/.local/share" if home else "")]
    roots += (environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    for root in roots:
        if root:
            yield Path(root) / "vulkan" / "icd.d"


def looked_for(environment: Mapping[str, str]) -> str:
    """What a GPU was looked for with, as sentences for an error message."""
    if not sys.platform.startswith("linux"):
        return "Looked for an adapter of this system's own graphics interface."
    library = "found" if ctypes.util.find_library("vulkan") else "not found"
    places, files = driver_files(environment)
    variable = next((name for name in VARIABLES if environment.get(name)), None)
    source = f"{variable}=" if variable else ""
    return (
        f"Looked for the Vulkan loader libvulkan.so.1 ({library}) and for driver files in "
        f"{source}{', '.join(map(str, places))} (found: {', '.join(map(str, files)) or 'none'})."
    )
