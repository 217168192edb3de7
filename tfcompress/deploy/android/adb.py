"""Finding adb, running it, and saying what its failures mean.

The messages are those that adb prints (client/adb_client.cpp, client/file_sync_client.cpp and
transport.cpp of the Android platform tools); old versions print "error:" where new ones print
"adb:".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tfcompress.errors import DeviceError

SECONDS: Final = 60.0
"""How long adb may take for anything but a push or a run."""

# What is looked for in a message, what it means, what to do.
_MEANINGS: Final = (
    (
        "unauthorized",
        "The device does not trust this computer.",
        "Unlock it and allow USB debugging in the dialog that it shows.",
    ),
    (
        "device offline",
        "The device is offline.",
        "Plug it in again, or run: adb reconnect",
    ),
    (
        "more than one device",
        "Several devices are connected.",
        "Name one with `serial` (--serial).",
    ),
    (
        "no devices/emulators found",
        "No device is connected.",
        "Plug one in and switch on USB debugging in its developer options.",
    ),
    (
        "no permissions",
        "This user may not use the device's USB port.",
        "Install the udev rules for Android devices, and plug it in again.",
    ),
    (
        "No space left on device",
        "The device's storage is full.",
        "Free some space in /data, and try again.",
    ),
    (
        "Permission denied",
        "The device does not allow it.",
        "Its /data/local/tmp must be writable for the shell user.",
    ),
    (
        "Read-only file system",
        "The device's file system is read-only.",
        "Its /data/local/tmp must be writable for the shell user.",
    ),
    (
        "cannot connect to daemon",
        "adb's server does not start.",
        "Run: adb kill-server, and then adb start-server to see why.",
    ),
    (
        "failed to start daemon",
        "adb's server does not start.",
        "Run: adb kill-server, and then adb start-server to see why.",
    ),
)
_GONE: Final = ("not found", "error: closed", "device still connecting", "protocol fault", "EOF")


class AdbTimeout(DeviceError):
    """A command took too long and was ended on this computer."""


@dataclass(frozen=True)
class Output:
    """What a command has printed, and how it ended.

    Attributes:
        code: exit code.
        out: its standard output.
        err: its standard error, without what adb says of starting its server.
    """

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs."""
        return "\n".join(part for part in (self.out.strip(), self.err.strip()) if part)


def find_adb(path: str | None = None) -> str:
    """Where adb is: `path`, on PATH, or in the folders where Android's SDK puts it.

    Raises:
        DeviceError: nowhere; the message names the places.
    """
    name = "adb.exe" if sys.platform == "win32" else "adb"
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise DeviceError(f"No program at `adb`={path!r}.")
        return found
    found = shutil.which("adb")
    if found is not None:
        return found
    roots = [os.environ.get("ANDROID_HOME"), os.environ.get("ANDROID_SDK_ROOT")]
    roots += [
        os.path.expanduser(place)
        for place in ("~/Android/Sdk", "~/Library/Android/sdk", "~/AppData/Local/Android/Sdk")
    ]
    places = [os.path.join(root, "platform-tools", name) for root in roots if root]
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise DeviceError(
        "adb was not found. Looked on PATH and for "
        + ", ".join(places)
        + ". Install Android's platform tools (https://developer.android.com/tools/releases/"
        "platform-tools, or: apt install adb), or set ANDROID_HOME."
    )


class Adb:
    """Runs adb's commands.

    Args:
        program: path of adb.
        serial: the device that commands go to; None before one is chosen.
    """

    def __init__(self, program: str, serial: str | None = None) -> None:
        self.program, self.serial = program, serial

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The whole command line."""
        device = ["-s", self.serial] if self.serial else []
        return [self.program, *device, *arguments]

    def run(self, arguments: Sequence[str], *, seconds: float = SECONDS) -> Output:
        """Runs one command, whatever its exit code.

        Raises:
            AdbTimeout: it takes longer than `seconds`.
            DeviceError: adb cannot be run.
        """
        try:
            process = subprocess.Popen(
                self.command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us, who clean up
            )
        except OSError as error:
            raise DeviceError(f"{self.program!r} cannot be run: {error}") from None
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AdbTimeout(
                f"`{' '.join(self.command(arguments))}` did not end within {seconds:.0f} s. Is the "
                "device still connected and awake? If the model is slow, ask for fewer `runs`."
            ) from None
        finally:
            if process.poll() is None:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=5)
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
        lines = err.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
        kept = "\n".join(line for line in lines if not line.startswith("* daemon"))
        return Output(process.returncode, out.decode("utf-8", "replace"), kept)

    def check(self, arguments: Sequence[str], *, seconds: float = SECONDS) -> str:
        """Runs one command that must succeed, and returns its standard output.

        Raises:
            DeviceError: it fails; what that means and what to do.
        """
        output = self.run(arguments, seconds=seconds)
        if output.code != 0:
            raise DeviceError(self.explain(arguments, output))
        return output.out

    def explain(self, arguments: Sequence[str], output: Output) -> str:
        """What a failure means."""
        text = output.text or f"exit code {output.code}"
        asked = f"`adb {' '.join(arguments[:3])}{' ...' if len(arguments) > 3 else ''}`"
        for mark, meaning, remedy in _MEANINGS:
            if mark in text:
                return f"{meaning} {remedy} ({asked}: {text})"
        if self.serial and is_gone(output):
            return (
                f"The device {self.serial} went away. Plug it in again, keep it awake, and try "
                f"again. ({asked}: {text})"
            )
        return f"{asked} failed: {text}"


def is_gone(output: Output) -> bool:
    """Whether adb's own messages say that the device is no longer there."""
    lines = [line for line in output.err.splitlines() if line.startswith(("adb:", "error:"))]
    return output.code != 0 and any(mark in line for line in lines for mark in _GONE)
