"""Modes of ``pybuilder`` about templates, images and sources: a function each, which prints its results."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import click

from imgbuilder.catalog import listing
from imgbuilder.cli.customizing import has_recipe, refuse_operations, shell_with
from imgbuilder.cli.entry import TemplateQuery, list_templates, message_locale
from imgbuilder.cli.meant import comma_meant, refuse_mistyped, verb_meant
from imgbuilder.cli.requests import Call, appliance_options, build_request, kernel_request
from imgbuilder.disk.diskimage import parse_format
from imgbuilder.errors import ToolError, UsageError
from imgbuilder.host.text import printable
from imgbuilder.terminal.reporter import show

_PAGES = ("pybuilder", "pybuilder-customize", "pybuilder-repo")
"""The manual pages."""


def build_image(call: Call) -> None:
    """Build an image, or show how it would be built."""
    from imgbuilder.building.build import build, summary  # late: lists stay quick
    from imgbuilder.building.preflight import prepare

    if has_recipe(call.ctx) and not call.names:
        raise UsageError(
            "the recipe names no template",
            hint='begin it with template = "debian-12", or name one as OS-VERSION',
        )
    if not call.names:
        raise UsageError("name the template to build", hint="see which there are: pybuilder list")
    verb = verb_meant(call)
    name = call.one_name(hint=verb or comma_meant(call) or "see which there are: pybuilder list")
    refuse_mistyped(call, name, verb)
    request = build_request(name, call.arch, call.options, call.values)
    services = call.services_with(guest_shell=shell_with(call.reporter))
    if call.options["dry_run"]:
        plan = prepare(request, services, call.reporter, for_show=True).plan
        call.reporter.close()
        show(plan.describe() + "\n")
        return
    result = build(request, services, call.reporter)
    call.reporter.close()
    if not call.options["quiet"]:
        show(summary(result) + "\n")


def plan_image(call: Call) -> None:
    """Show how an image would be built."""
    call.options["dry_run"] = True
    build_image(call)


def list_or_search(call: Call) -> None:
    """List all templates, those of a name or pattern, or with ``search`` those that have a word."""
    options = call.options
    word = call.one_name("WORD", "pybuilder search cloud-init") if call.label == "search" else None
    names = () if word is not None else call.names
    if len(names) > 1:
        raise UsageError(
            f"{call.label} takes one OS-VERSION at most, but {len(names)} were given",
            hint=f"to list several, give a pattern in quotes: pybuilder {call.label} 'debian*'",
        )
    if options["format_"] is not None:
        raise UsageError("--format is the format of an image", hint="for the list, use --list-format")
    style = options["list_format"] or ("long" if options["long"] else "short")
    request = TemplateQuery(names[0] if names else None, call.arch, style, word)
    list_templates(call.services, call.reporter, request)


def print_notes(call: Call) -> None:
    """Print a template's notes in the user's language."""
    name = call.one_name()
    refuse_mistyped(call, name)
    chosen = call.services.select(name, call.arch, call.reporter, only_shown=True)
    text = listing.notes_text(chosen.entry, listing.preferred_languages(message_locale()))
    call.reporter.close()
    show(f"There are no notes for {chosen.entry.os_version}\n" if text is None else f"{text}\n")


def firstboot_log(call: Call) -> int:
    """Print how the first-boot scripts of an image fared; return 1 unless all ended with 0."""
    from imgbuilder.appliance import Attachment
    from imgbuilder.building.customize_image import firstboot_report
    from imgbuilder.building.request import CustomizeRequest

    image = Path(call.one_name("IMAGE", "pybuilder firstboot-log debian-12.img"))
    wanted = call.values.format
    disk = Attachment(image, None if wanted is None else parse_format(wanted))
    request = CustomizeRequest((disk,), keys=call.values.keys, appliance=appliance_options(call.options))
    found = firstboot_report(request, call.services, call.reporter)
    call.reporter.close()
    lines = [
        f"{script.name}: {script.state}"
        + (f", from {script.started} to {script.finished or '?'}" if script.started else "")
        for script in found.scripts
    ]
    if not lines:
        lines = ["no first-boot scripts"]
    show("\n".join([*lines, *(["", found.log.rstrip("\n")] if found.log else [])]) + "\n")
    return 0 if all(script.succeeded for script in found.scripts) else 1


def copy_kernel(call: Call) -> None:
    """Copy the kernel and the initrd of an image into a folder, and print them as virt-get-kernel does."""
    from imgbuilder.building.getkernel import get_kernel

    refuse_operations(call.ctx, call.label)
    image = call.one_name("disk image", f"pybuilder {call.label} IMAGE -o FOLDER")
    request = kernel_request(image, call.options, call.values)
    copied = get_kernel(request, call.services, call.reporter)
    call.reporter.close()
    if not call.options["quiet"]:
        folder = str(request.folder)  # "./vmlinuz", not "vmlinuz"
        show("".join(f"download: {source} -> {folder}/{target.name}\n" for source, target in copied.items()))


def show_help(call: Call) -> None:
    """Show the manual page of a program of ours, or the help of a verb."""
    names = call.names or ("pybuilder",)
    if names[0] not in _PAGES:
        ctx = call.ctx.find_root()
        for name in names:
            found = ctx.command.get_command(ctx, name) if isinstance(ctx.command, click.Group) else None
            if found is None:
                raise UsageError(f"pybuilder has no verb {' '.join(names)!r}", hint="see: pybuilder --help")
            ctx = click.Context(found, info_name=name, parent=ctx)
        show(f"{ctx.get_help()}\n")
        return
    if len(names) > 1:
        raise UsageError("help takes one manual page", hint=f"pybuilder help {names[0]}")
    from imgbuilder.host.packages import install_hint  # late: lists stay quick
    from imgbuilder.host.process import find_program

    # A virtual environment, also that of pipx or uv, has its pages where `man` does not look.
    page = Path(sys.prefix, "share", "man", "man1", f"{names[0]}.1")
    if find_program("man") is None:
        hint = f"{install_hint('man')}; or type: {names[0]} --help"
        raise ToolError("the program man is not installed", hint=hint)
    call.reporter.close()
    words = ["man", "-l", str(page)] if page.exists() else ["man", names[0]]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; man would complain about "| head"
    os.execvp("man", words)  # noqa: S606 - there is no shell to start


def doctor(call: Call) -> int:
    """Print what was found about this machine; return 1 when a build would not work."""
    from imgbuilder.doctor import Health, examine, installation

    call.no_name()
    findings = []
    try:
        folder = call.settings.cache_folder()
    except UsageError:
        folder = None
    sources = [source.uri for source in call.settings.configured_sources(call.reporter)]
    for finding in examine(sources, folder, call.services.open_appliance, call.reporter):
        findings.append(finding)
        call.reporter.close()
        click.echo(printable(str(finding)))
    command = installation(findings)
    if command:
        click.echo(f"\nTo install what is missing:\n{printable(command)}")
    return 1 if any(finding.health is Health.BAD for finding in findings) else 0
