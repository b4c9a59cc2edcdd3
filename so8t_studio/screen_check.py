"""Says in a sentence why no window can open here, before Qt aborts with its own words (no Qt)."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping

HEADLESS = "Everything works without a window as well: so8t quickstart, so8t --help."
# Shared libraries that Qt's X11 plugin loads and wheels do not carry, with their Debian packages.
X11_LIBRARIES = {
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
}
BASE_LIBRARIES = {"libEGL.so.1": "libegl1", "libGL.so.1": "libgl1"}


def why_no_window(environment: Mapping[str, str] = os.environ) -> str:
    """Return why a window cannot be opened and what to do about it; empty if nothing is known."""
    if not sys.platform.startswith("linux"):
        return ""
    wanted = dict(BASE_LIBRARIES)
    if not environment.get("QT_QPA_PLATFORM"):
        wayland, x11 = environment.get("WAYLAND_DISPLAY"), environment.get("DISPLAY")
        if not wayland and not x11:
            return (
                "There is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set), so no "
                f"window can open. {HEADLESS}"
            )
        if not wayland:
            wanted |= X11_LIBRARIES
    packages = [wanted[library] for library in missing(wanted)]
    if not packages:
        return ""
    return (
        "The window needs system libraries that are not installed. On Debian or Ubuntu: "
        f"sudo apt-get install -y {' '.join(packages)}. {HEADLESS}"
    )


def missing(libraries: Iterable[str]) -> list[str]:
    """Return those shared libraries that cannot be loaded."""
    absent = []
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError:
            absent.append(library)
    return absent
