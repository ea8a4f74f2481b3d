"""The lines to copy: how tools build an image of a template.

Names of templates are letters, digits, dots, underscores and hyphens. All else in these lines is quoted
by the rules of the tool.
"""

from __future__ import annotations

import json
import re
import shlex

from imgindex.model import Entry
from imgrepo.catalogue.model import Snippet
from imgrepo.catalogue.text import line
from imgrepo.webroot.signing import PUBLIC_KEY, SIGNED_INDEX

_PLAIN_ARCH = "x86_64"
_IMAGES = "/var/lib/libvirt/images"
"""Folder of libvirt's pool ``default``."""


def command(entry: Entry) -> str:
    """Return the command for those who have the library as a source."""
    return shlex.join(_words(entry))


def snippets(entry: Entry, base_url: str, fingerprint: str) -> tuple[Snippet, ...]:
    """Return the lines for other users and tools; some of them need the address of the library."""
    found = [Snippet("Ansible", _ansible(entry)), Snippet("Terraform with libvirt", _terraform(entry))]
    if not base_url:
        return tuple(found)
    key = f"curl -O {shlex.quote(base_url + PUBLIC_KEY)} && gpg --import {PUBLIC_KEY}"

    def whole(program: str) -> str:
        lines = (
            f"{program} {shlex.quote(entry.os_version)} --arch {shlex.quote(line(entry.arch, 40))}",
            f"--source {shlex.quote(base_url + SIGNED_INDEX)}",
            f"--fingerprint {fingerprint}",
        )
        return f"{key}\n" + " \\\n    ".join(lines)

    return (
        Snippet("pybuilder, without adding the library", whole("pybuilder")),
        Snippet("virt-builder", whole("virt-builder")),
        *found,
    )


def _words(entry: Entry) -> list[str]:
    arch = line(entry.arch, 40)
    return ["pybuilder", entry.os_version, *(() if arch == _PLAIN_ARCH else ("--arch", arch))]


def _ansible(entry: Entry) -> str:
    """Return a task; a text in JSON is one in YAML as well, and ``!unsafe`` keeps its braces."""
    path = f"{_IMAGES}/{entry.os_version}.qcow2"
    words = [*_words(entry), "--format", "qcow2", "--output", path]
    listed = "".join(f"\n      - {_yaml(word)}" for word in words)
    return (
        f"- name: Build an image of {entry.os_version}\n"
        f"  ansible.builtin.command:\n    argv:{listed}\n    creates: {path}"
    )


def _yaml(word: str) -> str:
    plain = re.fullmatch(r"-*[A-Za-z/][A-Za-z0-9._/-]*", word) and word.lower() not in _YAML_WORDS
    return word if plain else f"!unsafe {json.dumps(word, ensure_ascii=False)}"


_YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _terraform(entry: Entry) -> str:
    """Return resources: the image is built again, and its volume replaced, when the revision changes."""
    label = re.sub(r"[^A-Za-z0-9_-]", "_", entry.os_version)
    label = label if label[0].isalpha() else f"image_{label}"
    file = f"{entry.os_version}.qcow2"
    build = shlex.join([*_words(entry), "--format", "qcow2", "--output", file])
    return f"""\
terraform {{
  required_providers {{
    libvirt = {{
      source  = "dmacvicar/libvirt"
      version = "~> 0.8.0"
    }}
  }}
}}

resource "terraform_data" "{label}" {{
  triggers_replace = [{entry.revision}] # the revision

  provisioner "local-exec" {{
    command = {_hcl(build)}
  }}
}}

resource "libvirt_volume" "{label}" {{
  name   = "{file}"
  pool   = "default"
  source = "{file}"

  lifecycle {{
    replace_triggered_by = [terraform_data.{label}]
  }}
}}"""


def _hcl(words: str) -> str:
    return json.dumps(words, ensure_ascii=False).replace("${", "$${").replace("%{", "%%{")
