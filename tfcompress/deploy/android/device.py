"""One Android device: choosing it, what it is, files there and back, commands."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Final

from tfcompress.deploy.android.adb import SECONDS, Adb, Output, is_gone
from tfcompress.errors import DeviceError

ROOT: Final = "/data/local/tmp"
"""The folder that adb's shell may write to and run programs from."""

_UNUSABLE: Final = {
    "unauthorized": "does not trust this computer: unlock it and allow USB debugging in the dialog "
    "that it shows",
    "authorizing": "is still being authorized: wait, and try again",
    "connecting": "is still connecting: wait, and try again",
    "offline": "is offline: plug it in again, or run: adb reconnect",
    "no": "may not be used by this user: install the udev rules for Android devices, and plug it "
    "in again",
    "recovery": "is in recovery mode: start Android on it",
    "sideload": "is in sideload mode: start Android on it",
    "bootloader": "is in its bootloader: start Android on it",
}
_PROPERTIES: Final = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.soc.model",
    "ro.hardware",
    "ro.build.version.release",
    "ro.product.cpu.abilist",
    "ro.product.cpu.abi",
)
DESCRIBE: Final = (
    "; ".join(f"getprop {name}" for name in _PROPERTIES)
    + "; grep -m1 -i '^Features' /proc/cpuinfo; true"
)
"""The command that tells what the device is."""


@dataclass(frozen=True)
class Listed:
    """A line of `adb devices`."""

    serial: str
    state: str


def list_devices(adb: Adb) -> list[Listed]:
    """All devices that adb sees.

    Raises:
        DeviceError: adb's server does not start.
    """
    found = []
    for line in adb.check(["devices"]).splitlines():
        parts = line.split()
        if len(parts) >= 2 and not line.startswith(("List of", "*", "adb server")):
            found.append(Listed(parts[0], parts[1]))
    return found


def choose(adb: Adb, serial: str | None) -> Device:
    """The device to use.

    Args:
        adb: without a serial.
        serial: the device's; None for the only one, or what ANDROID_SERIAL names.

    Raises:
        DeviceError: none, several without `serial`, an unknown serial, or one that cannot be used.
    """
    devices = list_devices(adb)
    names = ", ".join(f"{d.serial} ({d.state})" for d in devices)
    if not devices:
        raise DeviceError(
            "No device is connected. Plug one in, switch on USB debugging in its developer options "
            "and allow this computer; `adb devices` must list it."
        )
    if serial is None:
        usable = [d for d in devices if d.state == "device"]
        candidates = usable or devices
        if len(candidates) > 1:
            raise DeviceError(
                f"Several devices are connected: {names}. Name one with `serial` (--serial)."
            )
        chosen = candidates[0]
    else:
        matching = [d for d in devices if d.serial == serial]
        if not matching:
            raise DeviceError(f"No device has the serial {serial!r}. Connected: {names}.")
        chosen = matching[0]
    if chosen.state != "device":
        reason = _UNUSABLE.get(chosen.state, f"is in the state {chosen.state!r}")
        raise DeviceError(f"The device {chosen.serial} {reason}.")
    return Device(Adb(adb.program, chosen.serial))


class Device:
    """A connected device.

    Args:
        adb: with the device's serial.
    """

    def __init__(self, adb: Adb) -> None:
        self.adb = adb
        self.serial = adb.serial or ""

    def shell(self, command: str, *, seconds: float = SECONDS) -> Output:
        """Runs a command in the device's shell, whatever its exit code.

        Raises:
            DeviceError: the device went away, or the command takes longer than `seconds`.
        """
        output = self.adb.run(["shell", command], seconds=seconds)
        if is_gone(output):
            raise DeviceError(self.adb.explain(["shell", command.split()[0]], output))
        return output

    def push(self, source: str, target: str, size: int) -> None:
        """Copies a file to the device.

        Raises:
            DeviceError: no space, no permission, the device went away, or it takes too long.
        """
        self.adb.check(["push", source, target], seconds=SECONDS + size / 1e6)

    def pull(self, source: str, target: str) -> Output:
        """Copies a file from the device, whatever the exit code."""
        return self.adb.run(["pull", source, target])

    def describe(self) -> dict[str, Any]:
        """What the device is: name, processor and its features, Android's version, ABIs.

        Raises:
            DeviceError: it does not answer.
        """
        output = self.shell(DESCRIBE)
        lines = [line.strip() for line in output.out.splitlines()]
        if output.code != 0 or len(lines) < len(_PROPERTIES):
            raise DeviceError(
                f"The device {self.serial} does not tell what it is: "
                f"{output.text or 'it printed nothing'}"
            )
        values = dict(zip(_PROPERTIES, lines, strict=False))
        abis = values["ro.product.cpu.abilist"] or values["ro.product.cpu.abi"]
        features = lines[len(_PROPERTIES)].lower() if len(lines) > len(_PROPERTIES) else ""
        return {
            "device": f"{values['ro.product.manufacturer']} {values['ro.product.model']}".strip(),
            "processor": values["ro.soc.model"] or values["ro.hardware"],
            "system": f"Android {values['ro.build.version.release']}",
            "serial": self.serial,
            "abis": [abi for abi in abis.split(",") if abi],
            "features": frozenset(features.split()),
        }

    def clean(self, folder: str) -> None:
        """Ends what still runs from a folder of ours, and removes it.

        Raises:
            DeviceError: the device went away; the message names the folder.
        """
        output = self.shell(cleaning(folder))
        if output.code != 0:
            raise DeviceError(f"{folder} could not be removed from the device: {output.text}")


def ending(folder: str) -> str:
    """The command that ends what runs from a folder of ours."""
    # The brackets keep pkill from matching the shell that it is run by.
    name = folder.rsplit("/", 1)[1]
    return f"pkill -9 -f {shlex.quote(f'[{name[0]}]{name[1:]}/benchmark_model')}"


def cleaning(folder: str) -> str:
    """The command that ends what runs from a folder of ours, and removes it."""
    return f"{ending(folder)}; rm -rf {shlex.quote(folder)}"
