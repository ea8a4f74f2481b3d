"""Publishing a folder of images: from scan to signed index.

``publish`` is the table of contents. Whatever goes wrong, the folder that is
served stays as it was: the last step replaces the index by one rename.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from imgbuilder.errors import DiskError, PybuilderError, RepositoryError
from imgbuilder.events import Reporter, Step, info, warn
from imgbuilder.host import imagelocks
from imgbuilder.host.workspace import explain
from imgbuilder.sizes import counted
from imgindex.model import Index
from imgrepo.images.scan import Fingerprint
from imgrepo.library.publishing import image_path
from imgrepo.publishing.request import PublishRequest
from imgrepo.publishing.run import Run
from imgrepo.services import Services
from imgrepo.webroot import retired
from imgrepo.webroot.draft import read_draft
from imgrepo.webroot.signing import PLAIN_INDEX, SIGNED_INDEX, IndexSigner, PublishedIndex
from imgrepo.webroot.state import Published, write_state
from imgrepo.webroot.transaction import stage


@dataclass(frozen=True)
class PublishResult:
    """What was done, or in a dry run would be.

    Attributes:
        index: The index that is published now.
        before: The index that was published before.
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

    Args:
        request: What to publish.
        services: Keys, verifier and appliance.
        on_event: Called with each event.

    Returns:
        What was done. Images that were refused do not keep the others from being published (T24); their
        old templates, if any, stay.

    Raises:
        SigningError: The key cannot sign; nothing was compressed (R3).
        TrustError: The published index is not by this key; nothing was built on it (R17).
        PybuilderError: Anything else; the published index is as it was.
    """
    with stage(request.output) as work:
        signer = IndexSigner(services, request.signing, work)
        old = _read_old(request, signer, on_event)
        run = Run(request, services, work, old.index, on_event)
        run.find_changed()
        run.go_on()
        new = run.merge()
        if not new.entries and old.text is None:
            if (
                run.held and not run.refused
            ):  # a daily timer waits for their day, and must not fail until then
                info(on_event, f"nothing is published yet: {request.output} stays without an index")
                return PublishResult(new, old.index, (), {}, has_index=False)
            reasons = "; ".join([*(error.message for error in run.refused.values()), *run.held])
            raise RepositoryError(f"no image can be published: {reasons or 'there is none'}")
        changed = tuple(entry.os_version for entry in new.entries if entry not in old.index.entries)
        result = PublishResult(new, old.index, changed, run.refused)
        if request.dry_run:
            return result
        for name in run.files:
            work.publish(name)
        if new != old.index or old.signed_at is None or _is_due(request, old, services.clock()):
            on_event(Step(f"Signing the index of {counted(len(new.entries), 'template')}"))
            signer.replace(request.output, old, new)
        elif not run.files:
            info(on_event, "nothing new to publish")
        write_state(request.folder, run.state)
        _retire(request, new, old.index, services.clock(), on_event)
        if request.remove_images:
            _remove_images(request, run.state, new, on_event)
    return result


def _read_old(request: PublishRequest, signer: IndexSigner, on_event: Reporter) -> PublishedIndex:
    """Read what is published; before the first time, what somebody wrote by hand."""
    old = signer.read(request.output, force=request.force, on_event=on_event)
    if old.text is None:
        draft = read_draft(request.output / PLAIN_INDEX)
        if draft is not None:
            number = counted(len(draft.entries), "template")
            info(on_event, f"taking what {request.output / PLAIN_INDEX} says of {number}")
            return PublishedIndex(draft)
    elif signer.was_edited(request.output, old):
        warn(
            on_event,
            f"{PLAIN_INDEX} differs from {SIGNED_INDEX}, and only the signed one counts; to publish what "
            f"you wrote: gpg --yes --clearsign -o {SIGNED_INDEX} {PLAIN_INDEX}",
        )
    return old


def _is_due(request: PublishRequest, old: PublishedIndex, now: datetime) -> bool:
    """Tell whether a signature with an end is half way to it, or has none and shall have one (R7)."""
    valid_for = request.signing.valid_for
    if valid_for is None and old.expires_at is not None and old.signed_at is not None:
        valid_for = old.expires_at - old.signed_at
    if not valid_for:  # for ever
        return valid_for is not None and old.expires_at is not None
    return old.expires_at is None or old.expires_at - now < valid_for / 2


def _retire(request: PublishRequest, new: Index, old: Index, now: datetime, on_event: Reporter) -> None:
    """Note which files nothing names any more, and delete them when their time has come."""
    found = retired.find_retired(request.output, new, old, now=now)
    chosen = retired.choose(found, now=now, grace=request.grace, keep=0) if request.prune else ()
    retired.delete(request.output, chosen)
    for item in chosen:
        info(on_event, f"deleted: {item.name}")
    retired.remember(request.output, [item for item in found if item not in chosen])


def _remove_images(
    request: PublishRequest, state: dict[str, Published], new: Index, on_event: Reporter
) -> None:
    """Delete images that are published for certain: the new index is durable by now (R13)."""
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
        del kept[name]  # so that nobody misses the image later
    write_state(request.folder, kept)
