"""Two operators of one library, with simulated clocks, and the servers that their images come from."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.keys import KeyMaker
from tests.guest.person import Person
from tests.guest.smallguest import small_disk, small_system
from tests.guest.tinyarchive import BOOTS

WEEK = 7
_NUMBER = os.getpid()
GROUP = f"pybuilder-ops{_NUMBER}"
_STATUS = "Package: word\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
_SSH = """\
#!/bin/sh
[ "$1" = -l ] && shift 2
shift
exec /bin/sh -c "$*"
"""
_XZ = """\
#!/bin/sh
case "$*" in *--compress*) echo packed >>{log} ;; esac
exec /usr/bin/xz "$@"
"""
# A new system has no library that simulates clocks, and the appliance's perl does not need it.
_UNCHANGED = """\
#!/bin/sh
unset LD_PRELOAD
exec /usr/bin/{name} "$@"
"""


# libfaketime 0.9.10 lets Python's sleep fail, or its threads wait for the days in between.
_CLOCK = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long later(void) {
    const char *days = getenv("TEST_DAYS");
    return days ? 86400 * atol(days) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += later();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""


@dataclass(frozen=True)
class Clock:
    """A library for programs that makes the clock of this machine go ahead; times of files stay true."""

    library: Path

    @classmethod
    def make(cls, folder: Path) -> Clock:
        """Compile it."""
        library = folder / "clock.so"
        compiler = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-o", str(library), "-"]
        subprocess.run(compiler, input=_CLOCK, text=True, check=True)
        return cls(library)

    def after(self, days: int) -> dict[str, str]:
        """Return the environment in which it is some days later."""
        return {"LD_PRELOAD": str(self.library), "TEST_DAYS": str(days)}


def tools(folder: Path) -> Path:
    """Make a folder of programs for operators; in its file ``packed``, xz writes a line for each image."""
    folder.mkdir()
    log = folder / "packed"
    log.touch()
    log.chmod(0o666)
    unchanged = {name: _UNCHANGED.format(name=name) for name in ("ldd", "mmdebstrap")}
    for name, text in {"ssh": _SSH, "xz": _XZ.format(log=log), **unchanged}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@dataclass(frozen=True)
class Operator:
    """A person who signs, with a keyring of their own."""

    person: Person
    gnupg: Path
    tools: Path
    clock: Clock

    def run(self, days: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Type a command some days from now."""
        env = {
            **self.clock.after(days),
            "GNUPGHOME": str(self.gnupg),
            "RSYNC_RSH": str(self.tools / "ssh"),
            "PATH": f"{self.tools}:{self.person.bin}:/usr/local/bin:/usr/bin:/bin",
        }
        return self.person.run(*words, env=env, check=False, timeout=5400)

    def update(self, days: int, library: Path, code: int, *words: str) -> dict[str, Any]:
        """Bring the library up to date, and return the report."""
        done = self.run(days, "pybuilder-repo", "update", library, "--json", *words)
        print(done.stdout, done.stderr)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def owns(self, folder: Path) -> None:
        """Give a folder to the operator, for the group to write to."""
        if self.person.prefix:
            subprocess.run(["chown", "-R", f"{self.person.name}:{GROUP}", folder], check=True)
        subprocess.run(["find", folder, "-type", "d", "-exec", "chmod", "2775", "{}", "+"], check=True)
        subprocess.run(["find", folder, "-type", "f", "-exec", "chmod", "g+w,o+r", "{}", "+"], check=True)


@contextmanager
def two_persons(folder: Path, commands: Path) -> Iterator[tuple[Person, Person]]:
    """Make two users of one group; without root, one user has two homes."""
    homes = [folder / name for name in ("anna", "bert")]
    for home in homes:
        home.mkdir()
    umask = ("sh", "-c", 'umask 002; exec "$@"', "sh")
    if os.geteuid() != 0:
        name = pwd.getpwuid(os.geteuid()).pw_name
        first, second = (Person(name, home, commands, umask) for home in homes)
        yield first, second
        return
    users = [f"pybuilder-{home.name}{_NUMBER}" for home in homes]
    subprocess.run(["groupadd", GROUP], check=True)
    try:
        for user, home in zip(users, homes, strict=True):
            subprocess.run(
                [
                    "useradd",
                    "--no-user-group",
                    "--gid",
                    GROUP,
                    "--home-dir",
                    home,
                    "--shell",
                    "/bin/sh",
                    user,
                ],
                check=True,
            )
            shutil.chown(home, user, GROUP)
        number = grp.getgrnam(GROUP).gr_gid
        first, second = (
            Person(user, home, commands,
                   ("setpriv", f"--reuid={user}", f"--regid={number}", "--init-groups", *umask))
            for user, home in zip(users, homes, strict=True)
        )  # fmt: skip
        yield first, second
    finally:
        for user in users:
            subprocess.run(["pkill", "-KILL", "-u", user], check=False, capture_output=True)
            subprocess.run(["userdel", user], check=False, capture_output=True)
        subprocess.run(["groupdel", GROUP], check=False, capture_output=True)


def bootable(image: Path, work: Path, version: int, *, boot: bytes = BOOTS) -> Path:
    """Make a small image with the package ``word``, which gets as far as ``boot`` when it is started."""
    work.mkdir()
    root = small_system(work)
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(_STATUS.format(version=version))
    (root / "srv/version").write_text(f"{version}\n")
    small_disk(image, root)
    with image.open("r+b") as file:
        file.write(boot)
    shutil.rmtree(work)
    return image


@dataclass
class Distribution:
    """A distribution's server of cloud images, and its key."""

    folder: Path
    keys: KeyMaker
    key: str
    made: int = field(default=0)

    def offer(self, *names: str, boot: bytes = BOOTS) -> None:
        """Offer new images, and sign the list of all."""
        for name in names:
            self.made += 1
            raw = self.folder.parent / "offered.img"
            bootable(raw, self.folder.parent / "offered", self.made, boot=boot)
            if name.endswith(".qcow2"):
                qcow2 = self.folder / name
                subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
                raw.unlink()
            else:
                raw.replace(self.folder / name)
        lines = [
            f"{hashlib.sha512(path.read_bytes()).hexdigest()}  {path.name}\n"
            for path in sorted(self.folder.iterdir())
            if not path.name.startswith("SHA512SUMS")
        ]
        data = "".join(lines).encode()
        (self.folder / "SHA512SUMS").write_bytes(data)
        signature = self.keys.gpg("--local-user", f"{self.key}!", "--detach-sign", data=data)
        (self.folder / "SHA512SUMS.sign").write_bytes(signature)
