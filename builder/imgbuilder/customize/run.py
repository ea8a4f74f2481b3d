"""Customizes a guest: checks and applies operations in virt-builder's order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgbuilder.customize import deviceuuids
from imgbuilder.customize.buildnetwork import check_network, seen_from_guest
from imgbuilder.customize.commands import choose_log_file, memory_folder
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import System
from imgbuilder.customize.needs import check_need, check_system
from imgbuilder.customize.operation import Operation, Phase, name_option
from imgbuilder.customize.ops.accounts import PasswordOperation, RootPassword, own_crypto
from imgbuilder.customize.ops.buildoptions import Mirror, PackageCache, PasswordCrypto, Secret
from imgbuilder.customize.ops.identity import Sysprep
from imgbuilder.customize.ops.system import (
    NoSelinuxRelabel,
    SelinuxRelabel,
    SelinuxRelabelExclude,
    has_selinux,
    warn_of_missing_policy,
)
from imgbuilder.customize.ops.windows import WindowsRunner
from imgbuilder.customize.passwords import Crypto, PasswordSelector, PasswordSource, random_password
from imgbuilder.customize.registry import spec_of
from imgbuilder.customize.secrecy import Mask, proxy_passwords
from imgbuilder.customize.sysprep import set_machine_id, set_random_seed
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.events import Reporter, Step, ignore, info
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.windows import DRIVE
from imgbuilder.guests.windowsfiles import WindowsGuest

Rescue = Callable[[Guest, GuestContext, OperationError], None]


@dataclass(frozen=True)
class CustomizeResult:
    """The result of a customization."""

    log_file: str
    root_password: str | None = field(default=None, repr=False)
    """The random password that root got because no operation set one, or None."""


def validate(operations: Sequence[Operation]) -> None:
    """Check the operations together, and the host, before any work."""
    users: set[str] = set()
    for operation in operations:
        operation.check_host()
        if isinstance(operation, PasswordOperation):
            if operation.account in users:
                raise UsageError(
                    f"the password of {operation.account} is set twice",
                    hint="--root-password is the same as --password root:...; check commands files as well",
                )
            users.add(operation.account)
    names = [operation.name for operation in operations if isinstance(operation, Secret)]
    if len(set(names)) != len(names):
        raise UsageError("a secret is given twice", hint="give each --secret a different name")
    secrets = _secrets(operations)
    for operation in operations:
        for selector in operation.passwords:
            if selector.source is PasswordSource.SECRET:
                try:
                    selector.password(secrets)
                except UsageError as error:
                    raise name_option(operation.keyword, error) from error
    if any(isinstance(operation, NoSelinuxRelabel) for operation in operations) and any(
        isinstance(operation, SelinuxRelabel) for operation in operations
    ):
        raise UsageError("--selinux-relabel and --no-selinux-relabel contradict each other")


def _secrets(operations: Sequence[Operation]) -> dict[str, str]:
    return {item.name: item.value for item in operations if isinstance(item, Secret)}


def needs_commands(operations: Sequence[Operation]) -> bool:
    """Tell whether one of the operations runs programs of the guest."""
    return any(spec_of(operation).runs_in_guest for operation in operations)


def needs_appliance(operation: Operation) -> bool:
    """Tell whether an operation needs an appliance, as programs of the guest and of the appliance do."""
    changes_devices = isinstance(operation, Sysprep) and deviceuuids.FILESYSTEMS in operation.tasks
    return (
        spec_of(operation).runs_in_guest
        or operation.keyword in {"scrub", "selinux-relabel"}
        or changes_devices
    )


def sets_root_password(operations: Sequence[Operation]) -> bool:
    """Tell whether one of the operations sets, locks or disables root's password."""
    return any(
        isinstance(operation, PasswordOperation) and operation.account == "root" for operation in operations
    )


def mask(operations: Sequence[Operation], proxies: Mapping[str, str]) -> Mask:
    """Return the mask for the secrets of commands and the passwords of proxies and mirrors."""
    secrets = [operation.value for operation in operations if isinstance(operation, Secret)]
    mirrors = {str(at): item.url for at, item in enumerate(operations) if isinstance(item, Mirror)}
    return Mask([*secrets, *proxy_passwords({**proxies, **mirrors})])


def customize(
    guest: Guest,
    operations: Sequence[Operation],
    context: GuestContext,
    on_event: Reporter = ignore,
    rescue: Rescue | None = None,
) -> CustomizeResult:
    """Customize a mounted guest.

    Everything is checked as far as possible before the guest is changed. The order is then: random seed,
    machine ID, the operations in the user's order, passwords, SELinux labels, removal of the log.

    Args:
        guest: The guest.
        operations: In the user's order.
        context: Facts about the guest, and options; the rest is set here.
        on_event: Called with steps, the random password and warnings.
        rescue: Called if an operation fails in the guest, before anything is cleaned up.
    """
    validate(operations)
    context = replace(context, windows_runner=_windows_runner(operations))
    check_guest(operations, context)
    if context.windows is not None and operations:
        files = WindowsGuest(guest, context.windows.drive)
        _customize_windows(files, operations, replace(context, log_file="", on_event=on_event), rescue)
        return CustomizeResult("")
    if context.facts.system is not System.LINUX:
        info(on_event, f"the guest is {context.facts.system.value!r} and is not customized")
        return CustomizeResult("")
    context = replace(
        context,
        log_file=choose_log_file(guest),
        password_crypto=_crypto(guest, operations),
        mirror=next(
            (seen_from_guest(item.url) for item in reversed(operations) if isinstance(item, Mirror)), ""
        ),
        package_cache=next(
            (item.folder.absolute() for item in reversed(operations) if isinstance(item, PackageCache)), None
        ),
        secrets=_secrets(operations),
        unlabelled=tuple(item.path for item in operations if isinstance(item, SelinuxRelabelExclude)),
    )
    context = replace(context, on_event=context.mask.reporter(on_event))
    try:
        return _customize(guest, operations, context, rescue)
    except OperationError as error:
        raise context.mask.error(error) from None


def _customize(
    guest: Guest, operations: Sequence[Operation], context: GuestContext, rescue: Rescue | None
) -> CustomizeResult:
    warn_of_missing_policy(guest, context.on_event)
    random_bytes = context.variation.random_bytes
    set_random_seed(guest, context.facts, random_bytes, context.on_event)
    set_machine_id(guest, random_bytes, context.on_event)

    with contextlib.ExitStack() as stack:
        if needs_commands(operations):
            context = stack.enter_context(memory_folder(guest, context))
        try:
            _apply_all(guest, _in_phase(operations, Phase.NORMAL), context)
            root_password = _set_passwords(guest, operations, context)
        except OperationError as error:
            if rescue is not None:
                rescue(guest, context, context.mask.error(error))
            raise

    for operation in _last(guest, operations):
        context.on_event(Step(operation.describe()))
        with _named(operation):
            operation.apply(guest, context)
    return CustomizeResult(context.log_file, root_password)


def finish_devices(
    appliance: Appliance,
    root: str,
    operations: Sequence[Operation],
    context: GuestContext,
    on_event: Reporter,
    *,
    only_system: bool = True,
) -> None:
    """Change the devices of a guest that was customized, as ``--sysprep`` asks; it may be unmounted then."""
    for operation in operations:
        if isinstance(operation, Sysprep) and operation.device_tasks:
            with _named(operation):
                deviceuuids.renew(
                    appliance,
                    root,
                    operation.device_tasks,
                    context.variation.random_bytes,
                    on_event,
                    only_system=only_system,
                )


def _customize_windows(
    guest: WindowsGuest, operations: Sequence[Operation], context: GuestContext, rescue: Rescue | None
) -> None:
    """Customize Windows: no command runs in it, so there is no log, and nothing to seed or to relabel."""
    try:
        _apply_all(guest, _in_phase(operations, Phase.NORMAL), context)
    except OperationError as error:
        if rescue is not None:
            rescue(guest, context, error)
        raise


def _windows_runner(operations: Sequence[Operation]) -> Path | None:
    return next((item.program for item in reversed(operations) if isinstance(item, WindowsRunner)), None)


def _apply_all(guest: Guest, operations: Sequence[Operation], context: GuestContext) -> None:
    network_checked = False
    for operation in operations:
        context.on_event(Step(operation.describe()))
        with _named(operation):
            if spec_of(operation).network and not network_checked:
                check_network(guest, context)
                network_checked = True
            operation.apply(guest, context)


def _set_passwords(guest: Guest, operations: Sequence[Operation], context: GuestContext) -> str | None:
    """Set the passwords; return root's if a random one was made because no operation sets it."""
    late = _in_phase(operations, Phase.LATE)
    root_password = None
    if context.implicit_root_password and not sets_root_password(operations):
        root_password = random_password(context.variation.random_bytes)
        late.append(RootPassword(PasswordSelector(PasswordSource.TEXT, root_password)))
    shown = ""
    for operation in late:
        if operation.describe() != shown:
            shown = operation.describe()
            context.on_event(Step(shown))
        with _named(operation):
            operation.apply(guest, context)
    if root_password is not None:
        info(context.on_event, f"Setting random password of root to {root_password}")
    return root_password


def check_guest(operations: Sequence[Operation], context: GuestContext) -> None:
    """Check that the operations fit a guest, without changing it."""
    if operations and context.facts.system is System.WINDOWS and context.windows is None:
        raise OperationError(
            "the guest looks like Windows, but its registry was not examined",
            hint="customize its disk: pybuilder-customize -a DISK",
        )
    context = replace(context, windows_runner=_windows_runner(operations))
    for operation in operations:
        spec = spec_of(operation)
        check_system(context.facts, spec.systems, operation.keyword)
        drives = [path for path in operation.guest_paths if DRIVE.match(path)]
        if drives and context.windows is None:
            raise OperationError(
                f"--{operation.keyword}: {drives[0]} is a path of Windows, and the guest is not Windows",
                hint="begin the path with /",
            )
        for need in spec.needs:
            check_need(context.facts, need, operation.keyword)
        if spec.runs_in_guest and not context.runs_commands:
            raise OperationError(
                f"--{operation.keyword} cannot run programs of a guest for {context.arch} on this host",
                hint="use --firstboot, --firstboot-command or --firstboot-install",
            )
        with _named(operation):
            operation.check_guest(context)


def _in_phase(operations: Sequence[Operation], phase: Phase) -> list[Operation]:
    return [operation for operation in operations if spec_of(operation).phase is phase]


def _last(guest: Guest, operations: Sequence[Operation]) -> list[Operation]:
    """Return the last operations, each once; a guest with SELinux is relabelled by default."""
    unique: list[Operation] = []
    if has_selinux(guest) and not any(isinstance(operation, NoSelinuxRelabel) for operation in operations):
        unique.append(SelinuxRelabel())
    for operation in _in_phase(operations, Phase.LAST):
        if operation not in unique and not isinstance(operation, SelinuxRelabel):
            unique.append(operation)
    return unique


def _crypto(guest: Guest, operations: Sequence[Operation]) -> Crypto:
    chosen = [operation.crypto for operation in operations if isinstance(operation, PasswordCrypto)]
    return chosen[-1] if chosen else own_crypto(guest)


@contextlib.contextmanager
def _named(operation: Operation) -> Iterator[None]:
    """Put the operation's name in front of an error of the appliance."""
    try:
        yield
    except GuestCallError as error:
        raise OperationError(f"--{operation.keyword} failed: {error.message}", hint=error.hint) from error
