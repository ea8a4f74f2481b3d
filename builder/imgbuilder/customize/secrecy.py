"""Hiding secrets in whatever is shown or kept (``docs/threat-model.md`` T19, Z18).

A secret that a command prints, whole or a line of it, is replaced by ``***``
in the log, in events and in errors. What a command derives from it, such as
base64 of it, is not recognised; the manual says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice, Reporter, Step

SHORTEST = 4
"""Characters that a secret must have: hiding every ``a`` would leave no log to read."""
_MASK = "***"


class Mask:
    """Replaces secrets.

    Args:
        secrets: What to hide. Each line of a value of several lines is hidden on its own, if it is not
            too short.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        pieces = {line.strip() for secret in secrets for line in [secret, *secret.splitlines()]}
        texts = sorted((piece for piece in pieces if len(piece) >= SHORTEST), key=len, reverse=True)
        self._text = re.compile("|".join(map(re.escape, texts))) if texts else None
        raw = [text.encode(errors="surrogateescape") for text in texts]
        self._bytes = re.compile(b"|".join(map(re.escape, raw))) if raw else None

    def __bool__(self) -> bool:
        """Tell whether there is anything to hide."""
        return self._text is not None

    def text(self, text: str) -> str:
        """Hide secrets in a text."""
        return text if self._text is None else self._text.sub(_MASK, text)

    def content(self, content: bytes) -> bytes:
        """Hide secrets in bytes."""
        return content if self._bytes is None else self._bytes.sub(_MASK.encode(), content)

    def reporter(self, on_event: Reporter) -> Reporter:
        """Return a reporter that hides secrets in what it passes on."""
        if not self:
            return on_event

        def masked(event: Event) -> None:
            if isinstance(event, Step | Notice):
                event = replace(event, text=self.text(event.text))
            on_event(event)

        return masked

    def error(self, error: OperationError) -> OperationError:
        """Return the same error without secrets."""
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
