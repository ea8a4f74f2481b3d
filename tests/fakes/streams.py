"""Simplestreams trees, in the shapes of cloud-images.ubuntu.com and of LXD image servers."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes.keys import KeyMaker

_SECONDS = itertools.count()


def digests(content: bytes, *names: str) -> dict[str, str]:
    return {name: hashlib.new(name, content).hexdigest() for name in names}


@dataclass
class StreamTree:
    """A tree in a folder, signed file by file.

    Attributes:
        folder: The base of the tree.
        keys: Who signs.
        key: The signing key.
        products: Products by content id.
    """

    folder: Path
    keys: KeyMaker
    key: str
    products: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_image(self, path: str, content: bytes) -> dict[str, Any]:
        """Write an image file, and return path and size for its item."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return {"path": path, "size": len(content)}

    def publish(self, *, only: str | None = None) -> None:
        """Write and sign the index and the files of products, or only one of them, each a second later."""
        members = {}
        for content_id, products in self.products.items():
            stem = f"streams/v1/{content_id}"
            members[content_id] = {
                "format": "products:1.0",
                "datatype": "image-downloads",
                "path": f"{stem}.sjson",
                "updated": "Tue, 02 Jan 2024 10:11:12 +0000",
                "products": list(products),
            }
            if only in (None, content_id):
                document = {
                    "content_id": content_id,
                    "datatype": "image-downloads",
                    "format": "products:1.0",
                    "updated": "Tue, 02 Jan 2024 10:11:12 +0000",
                    "products": products,
                }
                self.write(stem, document)
        if only in (None, "index"):
            elsewhere = {
                "com.ubuntu.cloud:released:aws": {
                    "format": "products:1.0",
                    "datatype": "image-ids",
                    "path": "streams/v1/com.ubuntu.cloud:released:aws.sjson",
                    "products": [],
                }
            }
            self.write("streams/v1/index", {"format": "index:1.0", "index": {**elsewhere, **members}})

    def write(self, stem: str, document: dict[str, Any], *, indent: int | None = 1) -> None:
        """Write a document unsigned and signed; those who read unsigned ones are led to unsigned ones."""
        text = json.dumps(document, indent=indent) + "\n"
        path = self.folder / f"{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace('.sjson"', '.json"'))
        moment = f"{datetime.now(UTC) + timedelta(seconds=next(_SECONDS)):%Y%m%dT%H%M%S}!"
        path.with_suffix(".sjson").write_bytes(self.keys.sign(text, self.key, at=moment))


def ubuntu_tree(folder: Path, keys: KeyMaker, image: bytes) -> StreamTree:
    """A tree like that of cloud-images.ubuntu.com: SHA-256 and MD5 only, many kinds of items.

    Its one image of use is ``image``, as the newest version of 24.04 for amd64.
    """
    tree = StreamTree(folder, keys, keys.make("UEC Image Automatic Signing Key <cdimage@example.org>"))
    old, other = b"old" * 512, b"arm" * 512

    def version(serial: str, arch: str, content: bytes) -> dict[str, Any]:
        name = f"ubuntu-noble-24.04-{arch}-server-{serial}"
        base = f"server/releases/noble/release-{serial}/ubuntu-24.04-server-cloudimg-{arch}"
        disk = tree.add_image(f"{base}.img", content)
        return {
            "label": "release",
            "pubname": name,
            "items": {
                "root.tar.xz": {
                    "ftype": "root.tar.xz",
                    "path": f"{base}-root.tar.xz",
                    "size": 3,
                    "sha256": "0" * 64,
                },
                "disk1.img": {"ftype": "disk1.img", **disk, **digests(content, "md5", "sha256")},
                "lxd.tar.xz": {
                    "ftype": "lxd.tar.xz",
                    "path": f"{base}-lxd.tar.xz",
                    "size": 420,
                    "sha256": "1" * 64,
                },
                "vmdk": {"ftype": "vmdk", "path": f"{base}.vmdk", "size": 9, "sha256": "2" * 64},
            },
        }

    def product(arch: str, versions: dict[str, Any]) -> dict[str, Any]:
        return {
            "aliases": "24.04,lts,n,noble",
            "arch": arch,
            "os": "ubuntu",
            "release": "noble",
            "release_codename": "Noble Numbat",
            "release_title": "24.04 LTS",
            "supported": True,
            "support_eol": "2029-05-31",
            "version": "24.04",
            "versions": versions,
        }

    no_disk = {"20120328": {"label": "release", "pubname": "x", "items": {"vmdk": {"ftype": "vmdk"}}}}
    tree.products["com.ubuntu.cloud:released:download"] = {
        "com.ubuntu.cloud:server:24.04:arm64": product(
            "arm64", {"20240423": version("20240423", "arm64", other)}
        ),
        "com.ubuntu.cloud:server:24.04:amd64": product(
            "amd64",
            {
                "20240423": version("20240423", "amd64", old),
                "20240423.10": version("20240423.10", "amd64", image),
                "20240423.9": version("20240423.9", "amd64", old),
            },
        ),
        "com.ubuntu.cloud:server:6.06:amd64": product("amd64", no_disk) | {"aliases": "6.06,dapper"},
    }
    tree.publish()
    return tree


def lxd_tree(folder: Path, keys: KeyMaker, image: bytes) -> StreamTree:
    """A tree like that of an LXD image server: one file of products, no published names."""
    tree = StreamTree(folder, keys, keys.make("Image server <images@example.org>"))

    def version(serial: str, content: bytes) -> dict[str, Any]:
        base = f"images/debian/bookworm/amd64/default/{serial}"
        disk = tree.add_image(f"{base}/disk.qcow2", content)
        return {
            "items": {
                "incus.tar.xz": {
                    "ftype": "incus.tar.xz",
                    "path": f"{base}/incus.tar.xz",
                    "size": 1,
                    "sha256": "3" * 64,
                    "combined_disk-kvm-img_sha256": "4" * 64,
                    "combined_squashfs_sha256": "5" * 64,
                },
                "disk.qcow2": {"ftype": "disk-kvm.img", **disk, **digests(content, "sha256")},
                "disk.20240101_07:42.qcow2.vcdiff": {
                    "ftype": "disk-kvm.img.vcdiff",
                    "path": f"{base}/d.vcdiff",
                    "size": 1,
                    "sha256": "6" * 64,
                    "delta_base": "20240101_07:42",
                },
                "root.squashfs": {"ftype": "squashfs", "path": f"{base}/rootfs.squashfs", "size": 1},
            }
        }

    tree.products["images"] = {
        "debian:bookworm:amd64:default": {
            "aliases": "debian/bookworm/default,debian/bookworm,debian/12",
            "arch": "amd64",
            "os": "Debian",
            "release": "bookworm",
            "release_title": "bookworm",
            "variant": "default",
            "requirements": {},
            "versions": {
                "20240102_07:42": version("20240102_07:42", image),
                "20240101_07:42": version("20240101_07:42", b"x" * 512),
            },
        }
    }
    tree.publish()
    return tree
