"""Runs commands in the guest."""

from __future__ import annotations

import math
import posixpath
import shlex
import uuid

from imgbuilder.appliance.guestfiles import GuestFiles
from imgbuilder.errors import GuestCallError
from imgbuilder.guests.ports import CommandResult
from imgbuilder.sizes import whole_number

_INLINE_SCRIPT = 64 * 1024
"""Bytes of a script that are passed as an argument; the kernel's limit is 128 KiB with quoting."""
_OUTPUT_TAIL = 64 * 1024
"""Bytes of output that are kept."""

_FOLLOW = """\
followed=FILE
: >>"$followed"
start=$(($(wc -c <"$followed") + 1))
sleep 2147483647 & beat=$!
tail -c "+$start" -s 0.3 -f --pid="$beat" "$followed" >/dev/console 2>/dev/null </dev/null & reader=$!
"""
"""While a request runs, only the appliance's console can carry output; its lines are reported."""

_FOLLOW_END = """\
kill "$beat"
( trap 'kill $!; exit' TERM; sleep 10 & wait $!; kill "$reader" ) >/dev/null 2>&1 & limit=$!
wait "$reader"
[ "$?" != 1 ] || tail -c "+$start" "$followed" >/dev/console
kill "$limit" 2>/dev/null
wait "$limit"
"""
"""Let the reader catch up, for some seconds at most; status 1 means that tail does not support --pid.

No process may be left, because it would keep the guest's filesystems busy.
"""

_LIMIT = "limited=; ! command -v timeout >/dev/null 2>&1 || limited='timeout -k 10 {seconds}'\n"
"""The guest's timeout(1) ends a command and its children; without it, the request's limit applies."""
_RESOLVER = "/etc/resolv.conf"
_RESOLVER_BYTES = 64 * 1024
_RESOLVER_BEFORE = """\
resolver() { if [ -L RESOLVER ]; then echo link; ls -l RESOLVER; fi; head -c BYTES RESOLVER; }
before=$(resolver 2>/dev/null)
"""
_RESOLVER_AFTER = """\
change=none
if [ "$(resolver 2>/dev/null)" != "$before" ]; then
    change=removed
    if [ -L RESOLVER ] || [ -e RESOLVER ]; then
        cp -p -P RESOLVER KEPT && printf '%s' "$before" >KEPT.before && change=changed
    fi
fi
"""
"""libguestfs replaces the file while commands run, and restores it afterwards without their changes."""
_GRACE = 60.0
"""Extra seconds for the request, to end the command and read its output."""


class GuestCommands(GuestFiles):
    """Runs scripts in the guest, and reports their output while they run."""

    def sh(
        self,
        script: str,
        *,
        follow: str | None = None,
        limit: float | None = None,
        patience: float | None = 600.0,
    ) -> CommandResult:
        body = script.encode()
        inside: str | None = None
        if len(body) <= _INLINE_SCRIPT:
            run = f"/bin/sh -c {shlex.quote(script)}"
        else:
            inside = str(self._call("mktemp", "/tmp/.pybuilderXXXXXX"))  # noqa: S108 - in the guest
            self.write(inside, body)
            run = f"/bin/sh {shlex.quote(inside)}"
        kept = posixpath.join(posixpath.dirname(_RESOLVER), f".pybuilder-{uuid.uuid4().hex}")
        # libguestfs itself returns no exit status, and no output of a failed command.
        wrapper = (
            "out=$(mktemp /tmp/.pybuilderXXXXXX) || exit 1\n"
            + ("" if follow is None else _FOLLOW.replace("FILE", shlex.quote(follow)))
            + ("" if limit is None else _LIMIT.format(seconds=math.ceil(limit)))
            + _resolver(_RESOLVER_BEFORE, kept)
            + f'{"" if limit is None else "$limited "}{run} >"$out" 2>&1 </dev/null\n'
            "status=$?\n"
            + _resolver(_RESOLVER_AFTER, kept)
            + ("" if follow is None else _FOLLOW_END)
            + f'[ ! -s "$out" ] || tail -c {_OUTPUT_TAIL} "$out"\nrm -f "$out"\n'
            'printf "\\n%s %s" "$status" "$change"\n'
        )
        try:
            answer = str(self._call("sh", wrapper, limit=patience if limit is None else limit + _GRACE))
        finally:
            if inside is not None:
                self._call("rm_f", inside)
        output, _, ending = answer.rpartition("\n")
        word, _, change = ending.partition(" ")
        status = whole_number(word, 255)
        if status is None:  # this comes from the guest's own shell
            raise GuestCallError(
                f"unexpected answer of the guest's shell: {ending[-100:]!r}",
                hint="check that /bin/sh in the guest is a shell",
            )
        if change == "removed":
            self._call("rm_f", _RESOLVER)
        elif change == "changed":
            self._keep_resolver(kept)
        return CommandResult(status=status, output=output[-_OUTPUT_TAIL:])

    def _keep_resolver(self, kept: str) -> None:
        """Keep a command's changes of ``/etc/resolv.conf``."""
        if not self.is_symlink(kept):
            content = self.start_of(kept, _RESOLVER_BYTES)
            before = self.start_of(f"{kept}.before", _RESOLVER_BYTES)
            own = self.start_of(_RESOLVER, _RESOLVER_BYTES) if self.is_file(_RESOLVER) else b""
            if before and content.startswith(before + b"\n") and own != content:
                # Lines were added: append them to the guest's file.
                ended = own if own.endswith(b"\n") or not own else own + b"\n"
                self.write(kept, ended + content[len(before) + 1 :])
        self._call("rename", kept, _RESOLVER)
        self._call("rm_f", f"{kept}.before")


def _resolver(template: str, kept: str) -> str:
    words = {"RESOLVER": _RESOLVER, "KEPT": kept, "BYTES": str(_RESOLVER_BYTES)}
    for name, value in words.items():
        template = template.replace(name, shlex.quote(value))
    return template
