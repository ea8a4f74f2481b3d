"""A bucket of S3, through boto3: the one module that imports it.

An object appears when it is complete. Credentials and region come from boto3's configuration and environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from imgbuilder.errors import ToolError, UploadError
from imgbuilder.events import Progress, ProgressEnd, Reporter, Step, debug
from imgbuilder.fetch.urls import without_secrets
from imgbuilder.host.packages import extra_command
from imgbuilder.outputs.store import Image, Remote

IN_PARTS = 8 << 20
"""Bytes from which an object is sent in parts; its tag is then no MD5."""
_MISSING = ("404", "NoSuchKey", "NotFound")
_PIECE = 1000
"""Most objects that one request deletes."""


class Bucket:
    """A bucket, or what is below a prefix of its names.

    Attributes:
        client: The client of boto3; ask it inside ``failing`` only.
        name: The bucket.
        where: What messages call it.
    """

    def __init__(
        self, name: str, prefix: str = "", *, where: str, endpoint: str | None = None, rate: int | None = None
    ) -> None:
        """Prepare requests; none is sent.

        Args:
            name: The bucket.
            prefix: The start of each object's name: empty, or ending in a slash.
            where: What messages call it.
            endpoint: The URL of a server other than Amazon's.
            rate: Bytes that are sent in a second at most.
        """
        try:
            import boto3  # an extra, and slow to load
            from boto3.exceptions import Boto3Error
            from boto3.s3.transfer import TransferConfig
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ToolError(
                "uploading to S3 needs boto3, which is not installed", hint=extra_command("s3")
            ) from error
        self.name, self.where = name, where
        self._prefix, self._refused = prefix, ClientError
        self._errors: tuple[type[Exception], ...] = (Boto3Error, BotoCoreError, ClientError, ValueError)
        self._config = TransferConfig(multipart_threshold=IN_PARTS, max_bandwidth=rate)
        with self.failing("cannot be used"):
            self.client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint)

    def key(self, name: str) -> str:
        """Return the whole name of an object."""
        return f"{self._prefix}{name}"

    def place(self, name: str) -> dict[str, str]:
        """Return what names an object in a request."""
        return {"Bucket": self.name, "Key": self.key(name)}

    @contextlib.contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Turn the errors of the block into ours; ``what`` says what cannot be done."""
        try:
            yield
        except self._errors as error:
            raise UploadError(
                f"{self.where} {what}: {without_secrets(str(error))}",
                hint="check bucket, credentials and region (see boto3's AWS_PROFILE, AWS_ACCESS_KEY_ID, "
                "AWS_DEFAULT_REGION), and the URL of a server other than Amazon's",
            ) from error

    def listed(self, below: str = "", *, deep: bool = False) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the names and facts of the objects directly below a prefix, or also further below."""
        start = {"Prefix": self.key(below), **({} if deep else {"Delimiter": "/"})}
        with self.failing("cannot be listed"):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, **start):
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._prefix), item

    def head(self, name: str) -> Mapping[str, Any] | None:
        """Return facts about an object; None if it is missing."""
        with self.failing(f"{name} cannot be looked at"):
            try:
                facts: Mapping[str, Any] = self.client.head_object(**self.place(name))
            except self._refused as error:
                if getattr(error, "response", {}).get("Error", {}).get("Code") in _MISSING:
                    return None
                raise
        return facts

    def send(
        self, path: Path, name: str, on_event: Reporter, headers: Mapping[str, Any] | None = None
    ) -> None:
        """Send a file, in place of an earlier object; in parts if it is large."""
        on_event(Step(f"Uploading {name} to {self.where}"))
        total, done = path.stat().st_size, 0

        def moved(count: int) -> None:
            nonlocal done
            done += count
            on_event(Progress(name, done, total))

        try:
            with self.failing(f"{name} cannot be written"):
                self.client.upload_file(
                    str(path), self.name, self.key(name),
                    ExtraArgs=headers, Callback=moved, Config=self._config,
                )  # fmt: skip
        finally:
            on_event(ProgressEnd())

    def forget_parts(self, name: str) -> None:
        """Remove the parts of an object that killed uploads left: they would be kept, and paid for."""
        with self.failing(f"unfinished uploads of {name} cannot be removed"):
            answer = self.client.list_multipart_uploads(Bucket=self.name, Prefix=self.key(name))
            for left in answer.get("Uploads", ()):
                if left["Key"] == self.key(name):
                    self.client.abort_multipart_upload(**self.place(name), UploadId=left["UploadId"])

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, if they exist."""
        for start in range(0, len(names), _PIECE):
            objects = [{"Key": self.key(name)} for name in names[start : start + _PIECE]]
            with self.failing("old files cannot be deleted"):
                answer = self.client.delete_objects(
                    Bucket=self.name, Delete={"Objects": objects, "Quiet": True}
                )
            for refused in answer.get("Errors", ()):
                raise UploadError(
                    f"{self.where}: {refused.get('Key')} cannot be deleted: {refused.get('Code')}"
                )


class S3Store:
    """Implements ``Store`` by a bucket."""

    def __init__(self, remote: Remote) -> None:
        self._bucket = Bucket(remote.holder, where=f"s3://{remote.holder}", endpoint=remote.server or None)

    def found(self, names: Collection[str]) -> set[str]:
        """See ``Store.found``."""
        folders = {name[: name.rfind("/") + 1] for name in names}
        there = {name for folder in folders for name, _facts in self._bucket.listed(folder)}
        return there & set(names)

    def check(self, remote: Remote, *, ours: bool) -> None:
        """See ``Store.check``."""
        if not ours and self._bucket.head(remote.name) is not None:
            raise UploadError(
                f"{remote} is there already, and this fleet has not made it",
                hint="delete it, or choose another output",
            )

    def put(self, image: Image, remote: Remote, on_event: Reporter) -> None:
        """See ``Store.put``."""
        try:
            self._bucket.forget_parts(remote.name)
        except UploadError as error:  # a right that an upload itself does not need
            debug(on_event, error.message)
        self._bucket.send(image.path, remote.name, on_event)
