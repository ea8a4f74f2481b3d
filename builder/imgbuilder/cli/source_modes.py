"""``pybuilder source``: a function for each verb; results go to standard output."""

from __future__ import annotations

from imgbuilder.catalog.addsource import check_new, new_source, write_source
from imgbuilder.catalog.listing import source_list
from imgbuilder.catalog.sources import Source, SourceFormat, trusted_keys
from imgbuilder.catalog.state import SourceStates
from imgbuilder.cli.list_mode import show
from imgbuilder.cli.requests import Call
from imgbuilder.errors import PybuilderError, UsageError, WrongKeyError
from imgbuilder.events import warn
from imgbuilder.fetch.urls import Address, check_uri
from imgbuilder.host import paths
from imgbuilder.services import Settings
from imgindex.accept import show as show_time


def list_sources(call: Call) -> int:
    """Print the sources in their order, and what was last accepted of each.

    Returns:
        1 when a source that was asked cannot be used, else 0.
    """
    call.no_name()
    reporter, services, ask = call.reporter, call.services, call.options["long"]
    found = call.settings.all_sources(reporter)
    answers, failed = [], False
    for source in found.sources if ask else ():
        try:
            loaded = services.loader(reporter, fallback=False).load(source)
        except PybuilderError as error:
            failed = True
            answers.append(f"not usable: {error.in_one_line}")
        else:
            count = len(loaded.index.entries)
            answers.append(f"good, with {count} template{'' if count == 1 else 's'}")
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
        check_uri(wanted)
    forgotten = [uri for uri in uris if states.forget(uri, reporter)]
    if not forgotten:
        raise UsageError(
            f"nothing is remembered of a source {str(Address(wanted))!r}",
            hint="give its name as in its configuration file, or the address of its index",
        )
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


def add_source(call: Call) -> None:
    """Verify a source, write it into the user's configuration, and print who signed it."""
    settings, reporter = call.settings, call.reporter
    if len(call.names) != 2:
        raise UsageError(
            "source add needs a name and an address", hint="pybuilder source add NAME URL --gpgkey FILE"
        )
    name, uri = call.names
    key = call.options["gpgkey"]
    if settings.sources:
        raise UsageError("source add and --source contradict each other", hint="leave --source out")
    if not settings.check_signature:
        raise UsageError(
            "source add adds only sources whose signature was checked",
            hint=f"a source without one is written by hand, with unsigned=yes, into {paths.user_sources()}",
        )
    new = new_source(name, uri, key, settings.fingerprints, paths.user_sources())
    found = Settings().all_sources(reporter)
    check_new(new, [*((item.name, item.origin) for item in found.sources), *found.disabled])
    trusted_keys(new.source, gpg=settings.gpg)  # a mistake in it is said before anything is fetched
    try:
        loaded = call.services.loader(reporter, fallback=False).load(new.source)
    except WrongKeyError as error:
        error.hint = (
            "nothing was added. It may be an old key, or the key of someone else: get it from the publisher "
            "and check its fingerprint against one the publisher gives on another channel"
        )
        raise
    assert loaded.signed is not None
    write_source(new)
    reporter.close()
    count = len(loaded.index.entries)
    show(
        f"Added: {name}, in {new.path}\n"
        f"It offers {count} template{'' if count == 1 else 's'}. Its index was signed at "
        f"{show_time(loaded.signed.signed_at)} by the key\n{loaded.signed.primary_fingerprint}\n"
    )
