"""Windows in the appliance: its NTFS, and its registry by libguestfs's hivex, which so is confined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from imgbuilder.appliance.connection import Calls
from imgbuilder.errors import GuestCallError
from imgbuilder.guests.registry import RegistryKey, RegistryValue

_MOST_VALUES = 4096
"""Most values of one key that are read."""


class WindowsCalls(Calls):
    """The part of the port about Windows, over libguestfs calls."""

    def inspect_windows(self, root: str) -> dict[str, str]:
        names = ("systemroot", "system_hive", "software_hive", "current_control_set")
        facts = {name: str(self._call(f"inspect_get_windows_{name}", root)) for name in names}
        facts["major"] = str(self._call("inspect_get_major_version", root))
        facts["minor"] = str(self._call("inspect_get_minor_version", root))
        drives = dict(self._call("inspect_get_drive_mappings", root))
        facts["drive"] = next((letter for letter, device in sorted(drives.items()) if device == root), "C")
        return facts

    def probe_ntfs(self, device: str) -> int:
        return int(self._call("ntfs_3g_probe", True, device))  # noqa: FBT003 - libguestfs's signature

    @contextlib.contextmanager
    def _hive(self, path: str, *, write: bool) -> Iterator[int]:
        """Open a hive; yield its root. libguestfs has one open hive at a time."""
        self._call("hivex_open", path, write=write)
        try:
            yield int(self._call("hivex_root"))
            if write:
                self._call("hivex_commit", None)
        finally:
            # A damaged hive may have ended the appliance, and the first error is the one to report.
            with contextlib.suppress(GuestCallError):
                self._call("hivex_close")

    def read_registry(self, hive: str, key: Sequence[str]) -> dict[str, RegistryValue] | None:
        with self._hive(hive, write=False) as node:
            for name in key:
                node = int(self._call("hivex_node_get_child", node, name))
                if node == 0:
                    return None
            found = self._call("hivex_node_values", node)
            if len(found) > _MOST_VALUES:
                raise GuestCallError(f"a key of {hive} has {len(found)} values", errno_name="EFBIG")
            handles = [int(item["hivex_value_h"]) for item in found]
            return {
                str(self._call("hivex_value_key", handle)): RegistryValue(
                    int(self._call("hivex_value_type", handle)),
                    bytes(self._call("hivex_value_value", handle)),
                )
                for handle in handles
            }

    def edit_registry(self, hive: str, keys: Sequence[RegistryKey]) -> None:
        with self._hive(hive, write=True) as root:
            for key in keys:
                node = root
                for name in key.path:
                    child = int(self._call("hivex_node_get_child", node, name))
                    node = child or int(self._call("hivex_node_add_child", node, name))
                for name, value in key.values.items():
                    self._call("hivex_node_set_value", node, name, int(value.kind), value.data)
