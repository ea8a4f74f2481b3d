"""New UUIDs for the filesystems and the LVM of a guest, on its disks and in the files that name them.

A UUID stays, with a warning, if a file that cannot be edited names it, such as an initial RAM filesystem:
the guest would not boot.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from imgbuilder.customize.initramfs import UnreadableError, find_words
from imgbuilder.errors import GuestCallError
from imgbuilder.events import Reporter, Step, debug, ignore, warn
from imgbuilder.guests.mounting import mount_again, mount_root
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.host.paths import temporary_dir
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.host.variation import RandomBytes

FILESYSTEMS = "fs-uuids"
LVM = "lvm-uuids"
TASKS = (FILESYSTEMS, LVM)
"""Tasks of ``--sysprep`` that change devices."""

_CHANGEABLE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "swap"}
"""The kinds of filesystems whose UUIDs libguestfs can set."""
_HOLDERS = {"", "LVM2_member", "crypto_LUKS", "linux_raid_member"}
TEXTS = (
    "/etc/fstab", "/etc/crypttab", "/etc/default/*", "/etc/grub.d/*", "/etc/kernel/cmdline",
    "/etc/kernel/cmdline.d/*", "/etc/dracut.conf", "/etc/dracut.conf.d/*", "/etc/initramfs-tools/*.conf",
    "/etc/initramfs-tools/conf.d/*", "/etc/mkinitcpio.conf", "/etc/mkinitcpio.d/*", "/etc/mkinitfs/*",
    "/etc/sysconfig/*", "/etc/systemd/system/*.mount", "/etc/systemd/system/*.automount",
    "/etc/systemd/system/*.swap", "/etc/lvm/devices/*", "/etc/lvm/backup/*", "/etc/conf.d/*",
    "/boot/grub/*.cfg", "/boot/grub2/*.cfg", "/boot/grub/grubenv", "/boot/grub2/grubenv",
    "/boot/grub/menu.lst", "/boot/grub/grub.conf", "/boot/loader/*.conf", "/boot/loader/entries/*.conf",
    "/boot/extlinux/*", "/boot/*/*.cfg", "/boot/*.conf", "/boot/*.txt", "/boot/firmware/*.txt",
    "/boot/efi/EFI/*/*.cfg", "/boot/efi/EFI/*/grubenv", "/boot/efi/loader/entries/*.conf",
    "/efi/EFI/*/*.cfg", "/efi/loader/entries/*.conf",
)  # fmt: skip
"""Files that name devices and that an edit keeps in order: the new UUID is as long as the old one."""
_ARCHIVES = (
    "/boot/initr*", "/boot/*/initr*", "/boot/*/*/initr*", "/boot/efi/*/*/initr*", "/efi/*/*/initr*",
    "/boot/uInitrd*",
)  # fmt: skip
_PROGRAMS = ("/boot/efi/EFI/*/*.efi", "/boot/efi/EFI/*/*.EFI", "/efi/EFI/*/*.efi", "/boot/bootmap")
"""Loaders, which may have a configuration inside."""
_EMBEDDED = ("/boot/grub/*-pc/load.cfg", "/boot/grub2/*-pc/load.cfg", "/boot/grub*/*-ieee1275/load.cfg")
"""The text of the configuration inside GRUB's compressed core, which grub-install leaves if there is one."""
_CORES = ("/boot/grub/*-pc/core.img", "/boot/grub2/*-pc/core.img", "/boot/grub*/*-ieee1275/core.elf")
_LARGEST = 512 << 20
"""Bytes of a file that is searched."""


def renew(
    appliance: Appliance,
    root: str,
    tasks: Collection[str],
    random_bytes: RandomBytes,
    on_event: Reporter,
    *,
    only_system: bool = True,
) -> None:
    """Give a customized guest new UUIDs; its filesystems are mounted before, and may be unmounted after.

    Args:
        appliance: The appliance.
        root: The root's device.
        tasks: Those of ``TASKS`` that are wanted.
        random_bytes: Makes the UUIDs of filesystems; LVM makes its own.
        on_event: Called with warnings about UUIDs that stay.
        only_system: Whether no other system on the disks may name the devices.
    """
    kinds = {device.kind for device in appliance.block_devices()}
    if not ((FILESYSTEMS in tasks and kinds & _CHANGEABLE) or (LVM in tasks and "LVM2_member" in kinds)):
        return
    on_event(Step("Renewing UUIDs"))
    appliance.unmount_all()
    appliance.hide_attached()
    filesystems = _filesystems(appliance, on_event) if FILESYSTEMS in tasks else {}
    volumes = appliance.lvm_uuids() if LVM in tasks and "LVM2_member" in kinds else {}
    places = mount_root(appliance, root, ignore)
    staying = _find_fixed(appliance, [*filesystems.values(), *volumes.values()])
    if not only_system:
        staying |= dict.fromkeys([*filesystems.values(), *volumes.values()], "another system on the disks")
    if volumes and _core_on_volume(appliance):
        staying |= dict.fromkeys(volumes.values(), "GRUB's core, which lies on a logical volume,")
    appliance.unmount_all()
    names: dict[bytes, bytes] = {}
    for device, old in filesystems.items():
        if old in staying:
            _warn_of_staying(on_event, device, old, staying)
        else:
            names |= _change_filesystem(appliance, device, old, random_bytes, on_event)
    kept = [name for name, old in volumes.items() if old in staying]
    if kept:
        _warn_of_staying(on_event, kept[0], volumes[kept[0]], staying)
    elif volumes:
        names |= _change_volumes(appliance, volumes, on_event)
    if names:
        mount_again(appliance, places, on_event)
        _rename(appliance, names, on_event)


def _warn_of_staying(on_event: Reporter, device: str, old: str, staying: Mapping[str, str]) -> None:
    warn(on_event, f"--sysprep: {device} keeps its UUID {old}: {staying[old]} may name it")


def _filesystems(appliance: Appliance, on_event: Reporter) -> dict[str, str]:
    """Return the UUIDs of filesystems that can be changed, by their devices."""
    found: dict[str, str] = {}
    parts: dict[str, int] = {}
    devices = appliance.block_devices()
    for device in devices:
        parts[device.uuid] = parts.get(device.uuid, 0) + 1
    for device in devices:
        if device.kind in _CHANGEABLE and device.uuid and parts[device.uuid] == 1:
            found[device.name] = device.uuid
        elif device.kind not in _HOLDERS and device.uuid:
            why = "it is on several devices" if parts[device.uuid] > 1 else f"that of {device.kind} is fixed"
            warn(on_event, f"--sysprep: {device.name} keeps its UUID {device.uuid}: {why}")
    return found


def _forms(name: str) -> tuple[str, ...]:
    """Return the ways in which files write a UUID: as it is, as a unit of systemd, as LVM in one word."""
    return name, name.replace("-", "\\x2d"), name.replace("-", "") if len(name) > 36 else name


def _pattern(names: Iterable[bytes]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, names)) or rb"(?!)", re.IGNORECASE)


def _find_fixed(guest: Guest, old: Sequence[str]) -> dict[str, str]:
    """Find the UUIDs that files which cannot be edited name; return the path of the file for each."""
    forms = {form.lower().encode(): name for name in old for form in _forms(name)}
    words = _pattern(forms)
    found: dict[str, str] = {}
    with private_folder(temporary_dir()) as folder:
        copy = folder / "file"
        archives = _files(guest, _ARCHIVES)
        for path in [*archives, *_files(guest, (*_PROGRAMS, *_EMBEDDED))]:
            try:
                guest.download(path, copy, limit=_LARGEST)
                named = _words_of(copy, words, archive=path in archives)
            except (UnreadableError, GuestCallError) as error:
                found |= dict.fromkeys(old, f"{path}, which cannot be searched ({error}),")
            else:
                found |= {forms[word]: path for word in named}
            copy.unlink(missing_ok=True)
    return found


def _words_of(copy: Path, words: re.Pattern[bytes], *, archive: bool) -> set[bytes]:
    if archive:
        return find_words(copy, words)
    return {match.lower() for match in words.findall(copy.read_bytes())}


def _core_on_volume(appliance: Appliance) -> bool:
    """Tell whether GRUB for BIOS finds its files by the UUID of a volume group."""
    if not any(appliance.glob(pattern) for pattern in _CORES):
        return False
    mounted = {path: device for device, path in appliance.mounted().items()}
    device = mounted.get("/boot", mounted["/"])
    try:
        appliance.canonical_volume(device)
    except GuestCallError:
        return False
    return True


def _change_filesystem(
    appliance: Appliance, device: str, old: str, random_bytes: RandomBytes, on_event: Reporter
) -> dict[bytes, bytes]:
    new = str(uuid.UUID(bytes=random_bytes(16), version=4))
    try:
        appliance.set_filesystem_uuid(device, new)
    except GuestCallError as error:
        warn(on_event, f"--sysprep: {device} keeps its UUID {old}: {error.message}")
        return {}
    debug(on_event, f"--sysprep: {FILESYSTEMS}: {device}: {old} is now {new}")
    return _renamed(old, new)


def _change_volumes(
    appliance: Appliance, volumes: Mapping[str, str], on_event: Reporter
) -> dict[bytes, bytes]:
    try:
        appliance.renew_lvm_uuids()
    except GuestCallError as error:
        warn(on_event, f"--sysprep: not all UUIDs of LVM could be changed: {error.message}")
    names: dict[bytes, bytes] = {}
    for name, new in appliance.lvm_uuids().items():
        if new != volumes[name]:
            debug(on_event, f"--sysprep: {LVM}: {name}: {volumes[name]} is now {new}")
            names |= _renamed(volumes[name], new)
    return names


def _renamed(old: str, new: str) -> dict[bytes, bytes]:
    pairs = zip(_forms(old), _forms(new), strict=True)
    return {before.lower().encode(): after.encode() for before, after in pairs}


def _rename(guest: Guest, names: Mapping[bytes, bytes], on_event: Reporter) -> None:
    """Replace UUIDs in the files of the guest that name devices."""
    words = _pattern(names)
    for path in _files(guest, TEXTS):
        before = guest.read(path)
        after = words.sub(lambda match: names[match[0].lower()], before)
        if after != before:
            debug(on_event, f"--sysprep: new UUIDs in {path}")
            guest.replace(path, after)


def _files(guest: Guest, patterns: Sequence[str]) -> list[str]:
    """Return the regular files that patterns match, links followed, each once."""
    paths = [path for pattern in patterns for path in guest.glob(pattern)]
    found = [guest.realpath(path) for path in paths if guest.is_file(path)]
    return list(dict.fromkeys(found))
