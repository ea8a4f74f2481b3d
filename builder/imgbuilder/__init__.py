"""The client: builds a bootable disk image from a template of a signed repository.

``imgbuilder.api`` has the interface for programs (docs/api.md). It is imported when one of its names is first
used: ``pybuilder --list`` needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgbuilder.api import *  # noqa: F403 - its __all__ are our names
else:

    def __getattr__(name: str) -> object:
        if name == "__all__" or not name.startswith("_"):
            from importlib import import_module

            api = import_module("imgbuilder.api")
            if name == "__all__" or name in api.__all__:
                return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
