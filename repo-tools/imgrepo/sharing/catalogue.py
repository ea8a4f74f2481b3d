"""Bringing the catalogue along when a published folder is uploaded.

Pages come after what they link to, the list comes last. What the former catalogue there had and this one
has not is deleted: a withdrawn template must not stay on show.
"""

from __future__ import annotations

from pathlib import Path

from imgbuilder.events import Reporter
from imgrepo.catalogue.memory import LARGEST, MEMORY_NAME, files_named
from imgrepo.sharing.target import Target, UploadError

FOLDER = "catalogue"
"""Where ``pybuilder-repo catalogue`` puts the site in the served folder."""
_LAST = ("atom.xml", "index.html", MEMORY_NAME)


def bring_catalogue(
    folder: Path, target: Target, on_event: Reporter
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Bring the catalogue of a served folder to its target, if there is one.

    Args:
        folder: The served folder.
        target: Where it goes.
        on_event: Called with each event.

    Returns:
        What was sent and what was deleted there.

    Raises:
        UploadError: A file did not arrive; those that did are whole.
    """
    memory = folder / FOLDER / MEMORY_NAME
    if not memory.is_file():
        return (), ()
    names = files_named(memory.read_bytes())
    there = _there(target)
    first = [name for name in names if name not in _LAST]
    parts = [name for name in first if not name.endswith(".html")]
    pages = [name for name in first if name.endswith(".html")]
    sent: list[str] = []
    for group in (parts, pages, *([name] for name in _LAST if name in names)):
        sent += target.put(folder, [f"{FOLDER}/{name}" for name in group], on_event)
    gone = tuple(f"{FOLDER}/{name}" for name in there if name not in set(names))
    target.delete(gone)
    return tuple(sent), gone


def _there(target: Target) -> tuple[str, ...]:
    """Return the files of the catalogue there; none if there is none yet."""
    try:
        return files_named(target.read(f"{FOLDER}/{MEMORY_NAME}", LARGEST))
    except UploadError:
        # The target has answered before: the file is not there. Were it broken, old pages would only stay.
        return ()
