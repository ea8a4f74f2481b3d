"""Gets the images of a library from their origins: makes, imports, builds.

    LIBRARY/.pybuilder-update/NAME.json     when and of what the image of a template was made
    LIBRARY/.pybuilder-update/NAME/         an image that is being made

An image takes its place, by a rename, when it is complete. One that was complete when the program was killed
is put in place by the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.customize.argforms import Kind
from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.events import Reporter, Step, info
from imgbuilder.host import imagelocks
from imgbuilder.host.hashing import hash_file
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.sparse import copy_sparse
from imgbuilder.host.workspace import explaining, new_file
from imgindex.files import sync_folder
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import FORMATS, SourceImage, scan
from imgrepo.intake.import_image import ImportRequest, import_image
from imgrepo.intake.proof import name_in, prove
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import ImageMark
from imgrepo.publishing.settings import Built, Imported, LibrarySettings, Made, Origin
from imgrepo.recordfile import RecordFile, write_text
from imgrepo.services import Services
from imgrepo.template.bootstrap import check_bootstrap
from imgrepo.template.make import make_template
from imgrepo.updating.plan import Renewal, Situation
from imgrepo.webroot.state import read_state

if TYPE_CHECKING:
    from imgbuilder.api import Recipe

_WORK = ".pybuilder-update"
_DONE = RecordFile(Renewal, "done.json")
_SETTINGS = {"description", "template", "arch", "output", "source", "memsize", "smp", "network"}
"""Settings of recipes that do not contradict a base; only the last three have an effect."""


@dataclass(frozen=True)
class ImageSource:
    """The images of a library, and how to renew those that have an origin."""

    folder: Path
    settings: LibrarySettings
    services: Services
    appliance: ApplianceOptions
    on_event: Reporter

    @property
    def _work(self) -> Path:
        return self.folder / _WORK

    def _record(self, name: str) -> RecordFile[Renewal]:
        return RecordFile(Renewal, f"{name}.json", hint="remove it; the image is then renewed")

    def image(self, name: str) -> SourceImage | None:
        """Return the image of a template; None if there is none."""
        found = [image for image in scan(self._home(name))[0] if image.stem == name]
        if len(found) > 1:
            names = " and ".join(image.name for image in found)
            raise RepositoryError(f"{names} would both be the template {name}", hint="remove one of them")
        return found[0] if found else None

    def _home(self, name: str) -> Path:
        """Return the folder of an image: its entry's, if it has one."""
        entry = EntryFolder(self.folder / name)
        return entry.path if entry.description.is_file() else self.folder

    def situation(self, name: str, origin: Origin) -> Situation:
        """Collect the facts that decide whether an image is renewed; asks servers, changes nothing."""
        last = self._record(name).read(self._work)
        there = self.image(name) is not None
        return Situation(there, last, self._digest(origin), self._source(name, origin))

    def _source(self, name: str, origin: Origin) -> str:
        match origin:
            case Made():
                return ""
            case Imported(address=address):
                trust = origin.trust(self.folder)
                return str(prove(address, name_in(address), trust, self.services, self.on_event).digests)
            case Built(base=base):
                return self._sha512(self._base(name, base))

    def _base(self, name: str, base: str) -> SourceImage:
        image = self.image(base)
        if image is None:
            put = f"put {base}.img there, or give it an origin in library.toml"
            made = f"library.toml says how it is made: see why {base} failed"
            raise RepositoryError(
                f"{base}, the base of {name}, is missing in {self.folder}",
                hint=made if base in self.settings.origins else put,
            )
        return image

    def _sha512(self, image: SourceImage) -> str:
        """Return the digest of an image; one that is published as it is need not be read."""
        published = read_state(self.folder / self.settings.webroot, self.folder).get(image.name)
        if published is not None and published.fingerprint == image.fingerprint:
            return published.sha512
        return hash_image(image, self.on_event)

    def _digest(self, origin: Origin) -> str:
        """Return the digest of all that an origin says, with the local files that it names."""
        said: dict[str, Any] = origin.model_dump(mode="json", exclude={"every", "steps"})
        files = [said[key] for key in ("script", "suite_keyring") if said.get(key) is not None]
        said["files"] = [_digest_of(self.folder / name) for name in files]
        if isinstance(origin, Built):
            said["operations"] = _operations(self.folder / origin.recipe)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def check(self, name: str, origin: Origin) -> None:
        """Check before all work that what makes an image is there."""
        match origin:
            case Made():
                check_bootstrap(
                    origin.request(self.folder, self._staged(name, ".img"), self.appliance).bootstrap
                )
            case Imported(address=address):
                ImportRequest(address, self._home(name), origin.trust(self.folder), name)
            case Built(recipe=recipe):
                _read_recipe(self.folder / recipe)

    def recover(self, name: str) -> None:
        """Put an image in place that a killed run completed, and remove what it did not complete."""
        folder = self._work / name
        if not folder.is_dir():
            return
        done = _DONE.read(folder)
        if done is not None:
            for ending in FORMATS:
                staged = folder / f"{name}{ending}"
                if staged.is_file():
                    self._place(name, staged)
            image = self.image(name)
            if image is not None and done.image.fits(image, self.on_event):
                self._remember_image(name, done.origin, done.source)
        with explaining(folder):
            shutil.rmtree(folder)

    def renew(self, name: str, origin: Origin, now: Situation) -> bool:
        """Renew an image; return whether it is a different one now."""
        if isinstance(origin, Imported):
            trust = origin.trust(self.folder)
            request = ImportRequest(origin.address, self._home(name), trust, name)
            imported = import_image(request, self.services, self.on_event)
            self._remember_image(name, now.origin, str(imported.proof.digests))
            return imported.new
        folder = self._work / name
        with explaining(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            staged = self._make(name, origin)
            if now.last is not None and now.there and self._is_same(name, now.last, now, staged):
                info(self.on_event, f"{name} came out with the same packages: its image stays")
                self._remember(name, replace(now.last, at=self.services.clock()))
                return False
            (image,), _skipped = scan(folder)
            mark = ImageMark.of(image, self.on_event)
            _DONE.write(folder, Renewal(now.origin, now.source, self.services.clock(), mark))
        except BaseException:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self._place(name, staged)
        self._remember_image(name, now.origin, now.source)
        with uninterrupted(), explaining(folder):
            shutil.rmtree(folder)
        return True

    def _staged(self, name: str, ending: str) -> Path:
        return self._work / name / f"{name}{ending}"

    def _make(self, name: str, origin: Made | Built) -> Path:
        if isinstance(origin, Made):
            staged = self._staged(name, ".img")
            make_template(origin.request(self.folder, staged, self.appliance), self.services, self.on_event)
            return staged
        base = self._base(name, origin.base)
        staged = self._staged(name, base.path.suffix)
        self.on_event(Step(f"Building {name} on {base.name}"))
        with imagelocks.held(base.path), new_file(staged) as temporary:
            copy_sparse(base.path, temporary, self.on_event, label=f"copying {base.name}")
        self._customize(Attachment(staged, base.format.value), _read_recipe(self.folder / origin.recipe))
        manifest = {"version": 1, "base": base.stem, "recipe": origin.recipe}
        write_text(staged.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
        return staged

    def _customize(self, disk: Attachment, recipe: Recipe) -> None:
        from imgbuilder.api import Builder, CustomizeRequest, HostsideMode, Services, Settings  # late: slow

        given = {key: value for key, value in recipe.settings.items() if key in ("memsize", "smp")}
        request = CustomizeRequest(
            (disk,),
            operations=recipe.make_operations(),
            appliance=replace(self.appliance, **given),
            network=recipe.settings.get("network", True),
            hostside=HostsideMode.AUTO,
        )
        services = Services(
            Settings(), open_appliance=self.services.open_appliance, clock=self.services.clock
        )
        Builder(on_event=self.on_event, services=services).customize(request)

    def _is_same(self, name: str, last: Renewal, now: Situation, staged: Path) -> bool:
        """Check whether a new image has the packages of the present one, and was made in the same way."""
        if (last.origin, last.source) != (now.origin, now.source):
            return False
        before, after = (_packages(path / f"{name}.json") for path in (self._home(name), staged.parent))
        return after is not None and before == after

    def _place(self, name: str, staged: Path) -> None:
        """Let a new image take its place, and the file that describes it."""
        home, old = self._home(name), self.image(name)
        if old is not None:
            imagelocks.refuse_if_in_use(old.path, changing=True)
        final = home / staged.name
        with uninterrupted(), explaining(final):
            manifest = staged.with_suffix(".json")
            if manifest.is_file():
                manifest.replace(home / manifest.name)
            staged.replace(final)
            if old is not None and old.path != final:  # its base has another format now
                old.path.unlink()
            sync_folder(home)

    def _remember_image(self, name: str, origin: str, source: str) -> None:
        """Record a renewal, with the image that is in place now."""
        image = self.image(name)
        assert image is not None  # it was just put there
        mark = ImageMark.of(image, self.on_event)
        self._remember(name, Renewal(origin, source, self.services.clock(), mark))

    def _remember(self, name: str, renewal: Renewal) -> None:
        with explaining(self._work):
            self._work.mkdir(exist_ok=True)
        self._record(name).write(self._work, renewal)


def _read_recipe(path: Path) -> Recipe:
    """Read the recipe of an image; what its base decides, it cannot."""
    from imgbuilder.api import read_recipe  # late: it loads the whole builder

    recipe = read_recipe(path)
    for key in recipe.settings:
        if key not in _SETTINGS:
            raise UsageError(
                f"{path} sets {key}, which cannot be changed here: the disk is a copy of its base's",
                hint=f"leave {key} out",
            )
    return recipe


def _operations(path: Path) -> list[object]:
    """Return the operations of a recipe, with the digests of the local files that they name."""
    found: list[object] = []
    for written in _read_recipe(path).operations:
        found.append([written.spec.keyword, *written.values])
        for part, value in zip(written.spec.form.parts, written.values, strict=False):
            if part.kind is Kind.PATH and isinstance(value, str):
                found.append(_digest_of(Path(value)))
            elif part.kind is Kind.SELECTOR and isinstance(value, str) and "file:" in value:
                found.append(_digest_of(Path(value.partition("file:")[2])))
    return found


def _digest_of(path: Path) -> list[str]:
    """Return the digests of a local file, or of the files of a tree with their names and modes."""
    try:
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
        return [f"{os.path.relpath(one, path)} {one.lstat().st_mode:o} {_content(one)}" for one in paths]
    except OSError as error:
        raise UsageError(f"{error.filename or path} cannot be read: {error.strerror}") from error


def _content(path: Path) -> str:
    return hash_file(path.resolve()) if path.is_file() else ""


def _packages(manifest: Path) -> object:
    """Return the packages in the file that ``make-template`` writes next to an image; None if unknown."""
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("packages") if isinstance(found, dict) else None
