"""Secrets: reading their values, and hiding them in logs, events and errors (docs/threat-model.md, T19, Z18).

A secret that a command prints, whole or a line of it, is replaced by ``***`` in the log, in events and in
errors. What a command derives from it, such as its base64, is not recognised; the manual says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from imgbuilder.customize.values import read_given
from imgbuilder.errors import OperationError, UsageError
from imgbuilder.events import Event, Notice, Reporter, Step
from imgindex.environment import withhold

SHORTEST = 4
"""Shortest secret in characters: hiding every ``a`` would make logs unreadable."""
_MASK = "***"


class Mask:
    """Replaces secrets by ``***``.

    Args:
        secrets: The secrets. Each line of a value of several lines is hidden as well, unless it is too short.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        pieces = {line.strip() for secret in secrets for line in [secret, *secret.splitlines()]}
        texts = sorted((piece for piece in pieces if len(piece) >= SHORTEST), key=len, reverse=True)
        self._text = re.compile("|".join(map(re.escape, texts))) if texts else None
        raw = [text.encode(errors="surrogateescape") for text in texts]
        self._bytes = re.compile(b"|".join(map(re.escape, raw))) if raw else None

    def __bool__(self) -> bool:
        """Tell whether there are secrets to hide."""
        return self._text is not None

    def text(self, text: str) -> str:
        """Hide secrets in a text."""
        return text if self._text is None else self._text.sub(_MASK, text)

    def content(self, content: bytes) -> bytes:
        """Hide secrets in bytes."""
        return content if self._bytes is None else self._bytes.sub(_MASK.encode(), content)

    def reporter(self, on_event: Reporter) -> Reporter:
        """Return a reporter that hides secrets in the events that it passes on."""
        if not self:
            return on_event

        def masked(event: Event) -> None:
            if isinstance(event, Step | Notice):
                event = replace(event, text=self.text(event.text))
            on_event(event)

        return masked

    def error(self, error: OperationError) -> OperationError:
        """Return the error without secrets."""
        return OperationError(
            self.text(error.message),
            log_tail=self.text(error.log_tail),
            log_file=error.log_file,
            hint=None if error.hint is None else self.text(error.hint),
        )


def proxy_passwords(proxies: Mapping[str, str]) -> tuple[str, ...]:
    """Return the passwords in addresses of proxies, as written and decoded."""
    found = []
    for value in proxies.values():
        try:
            password = urlsplit(value if "://" in value else f"http://{value}").password
        except ValueError:
            continue
        if password:
            found += [password, unquote(password)]
    return tuple(found)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = {"PATH", "HOME", "IFS", "ENV", "LC_ALL", "TERM", "PWD", "SHELL"}
"""Variables that commands need for other purposes."""
_LARGEST = 64 * 1024
"""Bytes; the kernel allows 128 KiB per variable."""


def variable_name(name: str) -> str:
    """Accept the name of an environment variable that can be used for a secret."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a variable", hint="use letters, digits and '_'")
    if name in _TAKEN or name.startswith("LD_"):
        raise UsageError(f"the variable {name} cannot be used for a secret", hint="choose another name")
    return name


def secret_value(value: str) -> str:
    """Accept the value of a secret, which is never quoted."""
    if len(value.strip()) < SHORTEST:
        raise UsageError(f"a secret needs at least {SHORTEST} characters so that it can be hidden in logs")
    if len(value.encode(errors="surrogateescape")) > _LARGEST:
        raise UsageError(f"the secret is longer than {_LARGEST} bytes")
    return value


def parse_source(text: str) -> str:
    """Read the value from ``env:VARIABLE`` or ``file:PATH`` at once, before any work."""
    kind, colon, name = text.partition(":")
    if kind == "env" and colon:
        value = os.environ.get(name)
        if value is None:
            raise UsageError(f"the variable {name!r} is not set", hint=f"export {name} first")
        withhold(name)
        return value
    if kind == "file" and colon:
        content = read_given(Path(name), "the secret file", lambda file: file.read(_LARGEST + 3))
        return content.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")
    raise UsageError(
        "the source of the secret is not valid",
        hint="give NAME=env:VARIABLE or NAME=file:PATH, not the value",
    )
