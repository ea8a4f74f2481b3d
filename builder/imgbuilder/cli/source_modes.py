"""``pybuilder source``: a function for each verb; results go to standard output."""

from __future__ import annotations

from imgbuilder.catalog.addsource import NewSource, check_new, new_source, write_source
from imgbuilder.catalog.known import KnownSource, known_list, known_source
from imgbuilder.catalog.listing import source_list
from imgbuilder.catalog.sources import Source, SourceFormat, trusted_keys
from imgbuilder.catalog.state import SourceStates
from imgbuilder.cli.requests import Call
from imgbuilder.errors import PybuilderError, UsageError, WrongKeyError
from imgbuilder.events import warn
from imgbuilder.fetch.urls import Address, check_uri
from imgbuilder.host import paths
from imgbuilder.services import Settings
from imgbuilder.sizes import counted
from imgbuilder.terminal.reporter import show
from imgindex.accept import show as show_time


def list_sources(call: Call) -> int:
    """Print the sources and what was last accepted of each; return 1 if one that was asked is not usable."""
    call.no_name()
    reporter, services, ask = call.reporter, call.services, call.options["long"]
    found = call.settings.all_sources(reporter)
    answers, failed = [], False
    asked = found.sources if ask else ()
    loader = services.loader(reporter, fallback=False).side_by_side(asked)
    for source in asked:
        try:
            loaded = loader.load(source)
        except PybuilderError as error:
            failed = True
            answers.append(f"not usable: {error.in_one_line}")
        else:
            answers.append(f"good, with {counted(len(loaded.index.entries), 'template')}")
    text = source_list(found, services.states(), answers)
    reporter.close()
    if not text:
        warn(
            reporter,
            "no sources of templates are configured; to add one: pybuilder source add NAME URL --gpgkey FILE",
        )
    show(text)
    return 1 if failed else 0


def forget_source(call: Call) -> None:
    """Forget what was accepted of a source, and say what that gives up."""
    wanted = call.one_name("NAME or URL", "see which there are: pybuilder source list")
    reporter, states = call.reporter, call.services.states()
    named = [source for source in call.settings.configured_sources(reporter) if source.name == wanted]
    uris = [uri for source in named for uri in _remembered(source, states)] or [wanted]
    if not named:
        if "/" not in wanted:
            raise UsageError(f"there is no source {wanted!r}", hint="see: pybuilder source list")
        check_uri(wanted)
    forgotten = [uri for uri in uris if states.forget(uri, reporter)]
    if not forgotten:
        raise UsageError(f"nothing is remembered about {Address(wanted)}; there is nothing to forget")
    reporter.close()
    for uri in forgotten:
        show(
            f"Forgotten: {Address(uri)}\n"
            "The next index of this source is accepted by its signature alone: that it is older than the\n"
            "last, or unsigned where the configuration says unsigned=yes, will not be noticed.\n"
        )


def _remembered(source: Source, states: SourceStates) -> list[str]:
    """Return the addresses under which something may be remembered of a source."""
    uris = list(source.index_addresses)
    if source.format is SourceFormat.SIMPLESTREAMS:  # and of the files that its index named
        uris += [uri for base in source.addresses for uri in states.below(base) if uri not in uris]
    return uris


def available_sources(call: Call) -> None:
    """Print the public libraries that can be added by name."""
    call.no_name()
    found = Settings().all_sources(call.reporter)
    text = known_list(dict([*found.disabled, *((item.name, item.origin) for item in found.sources)]))
    call.reporter.close()
    show(text)


def add_source(call: Call) -> None:
    """Verify a source, write it into the user's configuration, and print who signed it."""
    reporter = call.reporter
    found = Settings().all_sources(reporter)
    known = known_source(call.names[0]) if len(call.names) == 1 and "/" not in call.names[0] else None
    if known is not None:
        origin = next((item.origin for item in found.sources if item.name == known.name), None)
        if origin is not None:
            show(f"{known.name} is configured already, in {origin}\nIts templates: pybuilder list\n")
            return
    new = _given(call) if known is None else _of_known(known, call)
    check_new(new, [*((item.name, item.origin) for item in found.sources), *found.disabled])
    if new.source.check:
        trusted_keys(new.source, gpg=call.settings.gpg)  # a mistake in it is said before anything is fetched
    try:
        loaded = call.services.loader(reporter, fallback=False).load(new.source)
    except WrongKeyError as error:
        error.hint = (
            "nothing was added. It may be an old key, or the key of someone else: get it from the publisher "
            "and check its fingerprint against one the publisher gives on another channel"
        )
        raise
    write_source(new)
    reporter.close()
    offer = f"It offers {counted(len(loaded.index.entries), 'template')}. Its index"
    lines = [f"Added: {new.source.name}, in {new.path}"]
    if loaded.signed is None:
        lines.append(f"{offer} is not signed: only its server vouches for them.")
    else:
        lines.append(f"{offer} was signed at {show_time(loaded.signed.signed_at)} by the key")
        lines.append(loaded.signed.primary_fingerprint)
    if known is not None:
        lines.append(f"Licence: {known.licence}")
    show("\n".join([*lines, ""]))


def _given(call: Call) -> NewSource:
    """Return the new source for a name and an address."""
    if len(call.names) != 2:
        raise UsageError(
            "source add needs the name of a public library, or a name and an address",
            hint="see: pybuilder source available; or: pybuilder source add NAME URL --gpgkey FILE",
        )
    if not call.settings.check_signature:
        raise UsageError(
            "source add adds only sources whose signature was checked",
            hint=f"a source without one is written by hand, with unsigned=yes, into {paths.user_sources()}",
        )
    name, uri = call.names
    return new_source(name, uri, call.options["gpgkey"], call.settings.fingerprints, paths.user_sources())


def _of_known(known: KnownSource, call: Call) -> NewSource:
    """Return the new source for a public library; one without a signature must be asked for as such."""
    again = f"pybuilder source add {known.name}"
    if call.options["gpgkey"] is not None or call.settings.fingerprints:
        raise UsageError(
            f"the key of {known.name} is known: --gpgkey and --fingerprint have no meaning", hint=again
        )
    if known.unsigned and call.settings.check_signature:
        raise UsageError(
            f"{known.name} is not signed: {known.unsigned}",
            hint=f"to trust its server alone: {again} --no-check-signature",
        )
    if not known.unsigned and not call.settings.check_signature:
        raise UsageError(f"{known.name} is signed, and is added only with its signature checked", hint=again)
    only = [known.fingerprint] if known.fingerprint else []
    key = None if known.key is None else str(known.key)
    return new_source(known.name, known.uri, key, only, paths.user_sources(), unsigned=bool(known.unsigned))
