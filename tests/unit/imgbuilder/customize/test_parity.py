"""The operations compared with those in the help of the installed virt-customize."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from imgbuilder.customize.registry import all_operations

NOT_OPERATIONS = {
    "add", "attach", "attach-format", "color", "colors", "colour", "colours", "connect", "domain", "dry-run",
    "dryrun", "echo-keys", "format", "help", "key", "keys-from-stdin", "machine-readable", "memsize",
    "network", "no-network", "quiet", "smp", "verbose", "version", "wrap", "commands-from-file",
}  # fmt: skip
"""Options that are not customizations."""

GONE = {"sm-attach", "sm-credentials", "sm-register", "sm-remove", "sm-unregister"}
"""Removed from virt-customize in 1.56: --run-command does the same."""

LATER = {"chown", "tar-in", "no-selinux-relabel", "selinux-relabel-exclude"}
"""In virt-customize since 1.50, 1.52 and 1.57; the installed one may not have them."""


@pytest.mark.skipif(shutil.which("virt-customize") is None, reason="virt-customize is not installed")
def test_every_operation_of_virt_customize_is_here() -> None:
    shown = subprocess.run(["virt-customize", "--help"], capture_output=True, text=True, check=True).stdout
    theirs = set(re.findall(r"--([a-z][a-z-]*)", shown.split("Options:")[-1])) - NOT_OPERATIONS
    assert len(theirs) > 25, "the help was not understood"
    assert (theirs | LATER) - GONE - set(all_operations()) == set()
