"""Whether appliances are resumed from saved states, and where those are."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from pathlib import Path

from imgbuilder.appliance.instant.store import FOLDER
from imgbuilder.errors import UsageError
from imgbuilder.host import paths

VARIABLE = "PYBUILDER_INSTANT"
"""Environment variable that turns it off, or on where it is off."""


class InstantMode(enum.Enum):
    """When appliances are resumed."""

    NEVER = "no"
    EMULATED = "auto"
    """Where the appliance is emulated: its boot is slow there, and resuming it was proved in long runs."""
    ALWAYS = "yes"
    """With KVM, too."""


def instant_mode(environ: Mapping[str, str] = os.environ) -> InstantMode:
    """Return what the environment says; by default, emulated appliances are resumed.

    Raises:
        UsageError: It says something else than yes, no or auto.
    """
    text = environ.get(VARIABLE, "") or InstantMode.EMULATED.value
    try:
        return InstantMode(text)
    except ValueError as error:
        raise UsageError(f"{VARIABLE}={text} is not known", hint="set it to yes, no or auto") from error


def state_folder(cache: Path | None) -> Path:
    """Return the folder of the states.

    Args:
        cache: The private cache; None for the usual one. A shared cache is never asked.

    Raises:
        UsageError: Nothing says where the usual one is.
    """
    return (cache if cache is not None else paths.cache_dir()) / FOLDER
