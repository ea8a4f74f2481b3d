"""Publishes a folder of images: scan, look inside, pack, sign, put in place.

Whatever goes wrong, the folder that is served stays as it was: the last step
replaces the index by one rename.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from imgbuilder.errors import DiskError, PybuilderError, RepositoryError, WrongKeyError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.workspace import explain
from imgbuilder.sizes import counted
from imgindex.model import Index
from imgrepo.library.folder import image_path
from imgrepo.publishing.request import PublishRequest
from imgrepo.publishing.steps import PublishRun
from imgrepo.services import Services
from imgrepo.webroot.entries import read_draft
from imgrepo.webroot.journal import Action
from imgrepo.webroot.retired import retire, served_files
from imgrepo.webroot.signing import (
    PLAIN_INDEX,
    PUBLIC_KEY,
    SIGNED_INDEX,
    IndexSigner,
    PublishedIndex,
    is_premature,
    read_index_file,
    signing_step,
)
from imgrepo.webroot.state import Published, tidy_packed, write_state
from imgrepo.webroot.transaction import PUBLISH_LOCK_NAME, locked, open_session

_PATIENCE = 60.0
"""Seconds to wait for another command that changes the index."""


@dataclass(frozen=True)
class PublishResult:
    """The outcome of a run; of a dry run, what it would be.

    Attributes:
        changed: Names of the templates that are new or changed.
        refused: Why images were not published, by the name of the file.
        has_index: Whether there is an index now; False as long as the first images wait for their day.
    """

    index: Index
    before: Index
    changed: tuple[str, ...]
    refused: dict[str, PybuilderError]
    has_index: bool = True


def publish(request: PublishRequest, services: Services, on_event: Reporter) -> PublishResult:
    """Publish the images of a folder.

    Images that were refused do not keep the others from being published; their old templates, if any, stay.
    After any error the published index is as it was. Packed files are put in place at once, where they do no
    harm, so that a run that is killed loses only the image at hand. The index is locked only while it is
    read and replaced: if it was changed meanwhile, the run is repeated on the new one, without packing.
    """
    output = request.output
    with open_session(output, create=True, lock=PUBLISH_LOCK_NAME, patience=request.wait) as session:
        signer = IndexSigner(services, request.signing, session)
        with locked(output, patience=_PATIENCE):
            old = _read_old(request, signer, on_event)
        run = PublishRun(request, services, session, old.index, on_event)
        changed = run.scan()
        run.check_programs(changed)
        copies = run.pack_in_batches(changed)
        with locked(output, patience=_PATIENCE):
            if read_index_file(output / SIGNED_INDEX) != old.data:
                old = _read_old(request, signer, on_event)
                run = PublishRun(request, services, session, old.index, on_event, facts=run.facts)
                same = {candidate.image for candidate in changed}
                run.pack(run.examine([one for one in run.scan() if one.image in same], copies))
            new = run.new_index()
            if not new.entries and old.text is None:
                return _nothing(request, run, old, new, on_event)
            if not request.dry_run:
                _commit(request, services, signer, run, old, new, on_event)
    changed_entries = (one for one in new.entries if old.index.find(one.os_version, one.arch) != one)
    names = tuple(entry.os_version for entry in changed_entries)
    return PublishResult(new, old.index, names, run.refused)


def _read_old(request: PublishRequest, signer: IndexSigner, on_event: Reporter) -> PublishedIndex:
    """Read the published index; before the first run, an index written by hand."""
    try:
        old = signer.read(request.output, force=request.force, on_event=on_event)
    except WrongKeyError as error:
        raise WrongKeyError(error.message, hint=f"{error.hint}; to build on it as it is: --force") from error
    if old.text is None:
        draft = read_draft(request.output / PLAIN_INDEX)
        if draft is not None:
            number = counted(len(draft.entries), "template")
            info(on_event, f"using the descriptions of {number} in {request.output / PLAIN_INDEX}")
            return PublishedIndex(draft)
    elif signer.was_edited(request.output, old):
        warn(
            on_event,
            f"{PLAIN_INDEX} differs from {SIGNED_INDEX}, and only the signed one counts; change templates "
            "with: pybuilder-repo edit",
        )
    return old


def _nothing(
    request: PublishRequest, run: PublishRun, old: PublishedIndex, new: Index, on_event: Reporter
) -> PublishResult:
    """Return a result without an index if all images wait for their day: a daily timer must not fail then."""
    if run.waiting and not run.refused:
        info(on_event, f"nothing is published yet: {request.output} stays without an index")
        return PublishResult(new, old.index, (), {}, has_index=False)
    reasons = "; ".join([*(error.message for error in run.refused.values()), *run.waiting])
    raise RepositoryError(f"no image can be published: {reasons or 'none was found'}")


def _commit(
    request: PublishRequest,
    services: Services,
    signer: IndexSigner,
    run: PublishRun,
    old: PublishedIndex,
    new: Index,
    on_event: Reporter,
) -> None:
    """Put the signed index in place; then tidy up."""
    for name in run.files:
        if not (request.output / name).is_file():
            raise RepositoryError(f"{name} was removed while others were packed", hint="publish again")
    now = services.clock()
    if new != old.index or old.signed_at is None or _is_due(request, old, now):
        on_event(signing_step(new))
        signer.replace(request.output, old, new, Action.PUBLISH)
    elif not run.files:
        info(on_event, "nothing new to publish")
    write_state(request.output, request.folder, run.state)
    tidy_packed(request.output)
    retire(
        served_files(request.output, on_event),
        new,
        old.index,
        now=now,
        on_event=on_event,
        grace=request.grace if request.prune else None,
    )
    if request.remove_images:
        _remove_images(request, run.state, new, on_event)


def _is_due(request: PublishRequest, old: PublishedIndex, now: datetime) -> bool:
    """Check whether to sign again: half way to the signature's end, or because something else is wrong."""
    premature = old.signed_at is not None and is_premature(old.signed_at, now)
    if premature or not (request.output / PUBLIC_KEY).exists():
        return True
    valid_for = request.signing.valid_for
    if valid_for is None and old.expires_at is not None and old.signed_at is not None:
        valid_for = old.expires_at - old.signed_at
    if not valid_for:  # for ever
        return valid_for is not None and old.expires_at is not None
    return old.expires_at is None or old.expires_at - now < valid_for / 2


def _remove_images(
    request: PublishRequest, state: Mapping[str, Published], new: Index, on_event: Reporter
) -> None:
    """Delete images that are published for certain: the new index is durable by now."""
    kept, files = dict(state), {entry.file for entry in new.entries}
    for name, published in state.items():
        path = image_path(request.folder, name)
        if published.gone_since is not None or published.file not in files or not path.is_file():
            continue
        if Fingerprint.of(path.lstat()) != published.fingerprint:
            warn(on_event, f"{name} is not removed: it was written to after it was read")
            continue
        try:
            imagelocks.refuse_if_in_use(path, changing=True)
            path.unlink()
        except DiskError as error:
            warn(on_event, f"{name} is not removed: {error.message}")
            continue
        except OSError as error:
            raise explain(error, path) from error
        del kept[name]  # so that no later run reports it as gone
    write_state(request.output, request.folder, kept)
