"""Settings of saved appliances: when to use them, and their folder."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path

from imgbuilder.appliance.instant.store import FOLDER
from imgbuilder.errors import UsageError
from imgbuilder.host import paths

VARIABLE = "PYBUILDER_INSTANT"
"""Environment variable that sets the mode."""


class InstantMode(enum.Enum):
    """When appliances are resumed."""

    NEVER = "no"
    EMULATED = "auto"
    """Only under emulation, where a boot is slow; long tests were run there."""
    ALWAYS = "yes"
    """Also with KVM."""


def instant_mode(environ: Mapping[str, str] = os.environ) -> InstantMode:
    """Return the mode that the environment sets; by default, emulated appliances are resumed.

    Raises:
        UsageError: The value is not yes, no or auto.
    """
    text = environ.get(VARIABLE, "") or InstantMode.EMULATED.value
    try:
        return InstantMode(text)
    except ValueError as error:
        raise UsageError(
            f"{VARIABLE}={text} is not a valid value", hint="set it to yes, no or auto"
        ) from error


def state_folder(cache: Path | None) -> Path:
    """Return the folder of the states.

    Args:
        cache: The private cache; None for the usual one. Shared caches are not used.

    Raises:
        UsageError: The usual cache has no known folder.
    """
    return (cache if cache is not None else paths.cache_dir()) / FOLDER
