"""The script that runs an image with QEMU, on any machine that has QEMU and a shell."""

from __future__ import annotations

import re
import shlex

from imgbuilder.host.packages import packages_elsewhere
from imgbuilder.host.text import printable
from imgbuilder.machine.model import Firmware, Machine, board
from imgbuilder.machine.qemu import network_card, screen
from imgindex import __version__

OLDEST_QEMU = "4.2"
"""The oldest QEMU that knows all options that are used."""

_SCRIPT = """\
#!/bin/sh
# Runs @COMMENT@ with QEMU; made by pybuilder @VERSION@.
# The image is only read, unless --write is given. Its path is in the lines below.
set -eu

name=@NAME@
image=@IMAGE@
image_format=@FORMAT@
memory=@MEMORY@
processors=@PROCESSORS@
graphic=@GRAPHIC@
tested=@TESTED@
qemu=${QEMU:-@PROGRAM@}

write=no
dry_run=no

fail() {
    printf '%s: %s\\n' "$0" "$1" >&2
    exit 1
}

usage() {
    cat <<END
Usage: $0 [OPTION]... [-- OPTION-OF-QEMU...]
  --write        keep the guest's changes to the disk [default: discard them]
  --graphic      give the guest a screen in a window
  --console      give the guest this terminal
  --memory MIB   memory of the guest [default: $memory]
  --dry-run      show the command, and stop
The variable QEMU names another QEMU.
END
}

while [ $# -gt 0 ]; do
    case $1 in
        --write) write=yes ;;
        --graphic) graphic=yes ;;
        --console) graphic=no ;;
        --memory)
            [ $# -gt 1 ] || fail "--memory needs a number of MiB"
            memory=$2
            shift
            ;;
        --dry-run) dry_run=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        --)
            shift
            break
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
case $memory in '' | *[!0-9]*) fail "--memory $memory is not a number of MiB" ;; esac

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
case $image in /*) ;; *) image=$here/$image ;; esac
[ -f "$image" ] || [ -b "$image" ] ||
    fail "the image $image is missing; if it was moved, write this script again: \\
pybuilder machine script IMAGE -o run"
[ -r "$image" ] || fail "$image cannot be read"
command -v "$qemu" >/dev/null 2>&1 || fail "$qemu is not installed; its package: @PACKAGE@"

version=$("$qemu" --version | sed -n '1s/.*version \\([0-9][0-9.]*\\).*/\\1/p')
older=$(printf '%s\\n%s\\n' "$version" "$tested" | sort -t . -k 1,1n -k 2,2n | head -n 1)
if [ "$older" != "$tested" ]; then
    printf '%s: warning: QEMU %s is older than %s, as tested\\n' "$0" "$version" "$tested" >&2
fi

temporary=
trap '[ -z "$temporary" ] || rm -rf "$temporary"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# For QEMU a comma ends a name, unless it is doubled.
file=$(printf '%s' "$image" | sed 's/,/,,/g')
if [ "$write" = yes ]; then snapshot=off; else snapshot=on; fi
set -- -drive "if=none,id=disk0,file=$file,format=$image_format,snapshot=$snapshot" \\
    -device virtio-blk-pci,drive=disk0,werror=report \\
    -nic @NIC@ \\
    -device virtio-rng-pci "$@"
@FIRMWARE@if [ "$graphic" = yes ]; then
    set -- -device @SCREEN@ -device qemu-xhci -device usb-tablet -device usb-kbd "$@"
else
    set -- -display none -serial mon:stdio "$@"
fi
# On some hosts, mostly virtual machines, KVM exists but fails.
accelerator=tcg
# Where QEMU aborts, the shell that started it says so: not on this terminal.
if [ -w /dev/kvm ] && (echo quit | timeout 10 "$qemu" -machine @MACHINE@ -accel kvm -cpu max -m 64 \\
    -nodefaults -display none -monitor stdio; exit $?) >/dev/null 2>&1; then
    accelerator=kvm
fi
set -- -name "$(printf '%s' "$name" | sed 's/,/,,/g')" -machine @MACHINE@ -accel "$accelerator" -cpu max \\
    -smp "$processors" -m "$memory" "$@"

if [ "$dry_run" = yes ]; then
    printf '%s' "$qemu"
    for word; do
        printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\\\\\''/g")"
    done
    echo
    exit 0
fi

printf '%s\\n' "$name"
@HINTS@[ "$graphic" = yes ] || echo "(Ctrl-A, then X ends it.)"
[ "$accelerator" = kvm ] || echo "(Without KVM, the guest is slow.)"
status=0
"$qemu" "$@" || status=$?
exit "$status"
"""

_UEFI = """\
code=
for pair in @PAIRS@; do
    if [ -r "${pair%%:*}" ] && [ -r "${pair#*:}" ]; then
        code=${pair%%:*}
        variables=${pair#*:}
        break
    fi
done
[ -n "$code" ] || fail "the UEFI firmware for the guest is not installed; its package: @UEFI_PACKAGE@"
temporary=$(mktemp -d)
cp "$variables" "$temporary/variables"
chmod u+w "$temporary/variables"
set -- -drive "if=pflash,format=raw,readonly=on,file=$code" \\
    -drive "if=pflash,format=raw,file=$(printf '%s' "$temporary" | sed 's/,/,,/g')/variables" "$@"
"""

_PLACEHOLDER = re.compile("@([A-Z_]+)@")


def run_script(machine: Machine) -> str:
    """Write the script. A relative image is next to the script, wherever that is moved."""
    facts = board(machine.arch)
    lines = [*machine.hints, *(item.describe() for item in machine.forwards)]
    values = {
        "COMMENT": _one_line(machine.name),
        "VERSION": __version__,
        "NAME": shlex.quote(_one_line(machine.name)),
        "IMAGE": shlex.quote(str(machine.image)),
        "FORMAT": machine.format.value,
        "MEMORY": str(machine.memory),
        "PROCESSORS": str(machine.processors),
        "GRAPHIC": "yes" if machine.graphic else "no",
        "TESTED": shlex.quote(machine.tested or OLDEST_QEMU),
        "PROGRAM": facts.program,
        "PACKAGE": packages_elsewhere(facts.program),
        "NIC": network_card(machine),
        "SCREEN": screen(machine),
        "MACHINE": facts.machine,
        "FIRMWARE": "",
        "HINTS": "".join(f"printf '%s\\n' {shlex.quote(_one_line(line))}\n" for line in lines),
    }
    text = _SCRIPT
    if machine.firmware is Firmware.UEFI:
        text = text.replace("@FIRMWARE@", _UEFI)
        values["PAIRS"] = " ".join(f"{code}:{variables}" for code, variables in facts.firmware)
        values["UEFI_PACKAGE"] = packages_elsewhere(facts.uefi)
    # One pass: text of users is never searched for placeholders.
    return _PLACEHOLDER.sub(lambda found: values[found.group(1)], text)


def _one_line(text: str) -> str:
    """Return text that neither ends a comment nor controls a terminal."""
    return printable(text).replace("\n", " ").replace("\r", " ")
