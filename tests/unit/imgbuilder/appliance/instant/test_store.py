"""The store of saved appliances."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbuilder.appliance.instant.commandline import UnusableStateError
from imgbuilder.appliance.instant.program import GIVEN_UP, RECORD
from imgbuilder.appliance.instant.store import MOST_STATES, StateStore


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    store = StateStore(tmp_path / "cache" / "instant")
    store.open()
    return store


def add(store: StateStore, key: str, *, age: int = 0) -> None:
    with store.making() as new:
        assert new is not None
        (new / "memory").write_bytes(b"m" * 10_000)
        (new / RECORD).write_text("{}")
        store.publish(new, key)
    moment = time.time() - age
    os.utime(store.root / key / RECORD, (moment, moment))


def name(number: int) -> str:
    return f"{number:040x}"


def test_folder_is_private(store: StateStore) -> None:
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    store.open()


def test_folder_that_is_not_private_is_refused(store: StateStore) -> None:
    store.root.chmod(0o770)
    with pytest.raises(UnusableStateError, match="private"):
        store.open()


def test_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "instant").symlink_to(real)
    store = StateStore(tmp_path / "instant")
    with pytest.raises(UnusableStateError, match="private"):
        store.open()
    (real / name(1)).mkdir()
    store.delete()
    assert (real / name(1)).exists(), "nothing behind a link is ours"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(store: StateStore) -> None:
    os.chown(store.root, 12345, -1)
    with pytest.raises(UnusableStateError, match="private"):
        store.open()
    assert store.states() == []


@pytest.mark.parametrize("above", ["cache", "cache/.."])
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o777), (12345, 0o755)])
def test_folder_that_others_can_replace_is_refused(
    store: StateStore, tmp_path: Path, above: str, owner: int, mode: int
) -> None:
    """They could replace it while QEMU opens a file in it by name."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / above
    os.chown(folder, owner, -1)
    folder.chmod(mode)
    with pytest.raises(UnusableStateError, match=f"other users can replace {store.root}"):
        store.open()
    os.chown(folder, 0, -1)
    folder.chmod(0o1777)
    store.open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
def test_folder_behind_the_link_of_another_user_is_refused(store: StateStore, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(store.root.parent)
    os.lchown(tmp_path / "way", 12345, -1)
    with pytest.raises(UnusableStateError, match="replace"):
        StateStore(tmp_path / "way" / store.root.name).open()


def test_state_appears_whole(store: StateStore) -> None:
    with store.making() as new:
        assert new is not None
        assert stat.S_IMODE(new.stat().st_mode) == 0o700
        (new / RECORD).write_text("{}")
        assert store.states() == []
        store.publish(new, name(1))
    assert [state.path.name for state in store.states()] == [name(1)]
    assert store.used_bytes() > 0


def test_failed_making_leaves_nothing(store: StateStore) -> None:
    with pytest.raises(RuntimeError), store.making() as new:
        assert new is not None
        (new / "memory").write_text("m")
        raise RuntimeError
    assert [path.name for path in store.root.iterdir()] == ["lock"]


def test_state_of_the_same_name_is_replaced(store: StateStore) -> None:
    add(store, name(1))
    first = (store.root / name(1) / "memory").stat().st_ino
    add(store, name(1))
    assert (store.root / name(1) / "memory").stat().st_ino != first
    assert len(list(store.root.iterdir())) == 2


def test_number_of_states_is_bounded_and_the_oldest_goes(store: StateStore) -> None:
    for number in range(MOST_STATES):
        add(store, name(number), age=100 - number)
    store.touch(name(0))
    add(store, name(MOST_STATES))
    left = {state.path.name for state in store.states()}
    assert left == {name(number) for number in range(MOST_STATES + 1)} - {name(1)}


def test_one_maker_at_a_time(store: StateStore) -> None:
    with store.making() as first:
        assert first is not None
        with store.making() as second:
            assert second is None
        assert first.exists(), "the second one did not sweep"
    with store.making() as third:
        assert third is not None


def test_leftovers_of_a_killed_writer_are_removed(store: StateStore, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from imgbuilder.appliance.instant.store import StateStore\n"
        "with StateStore(Path(sys.argv[1])).making() as new:\n"
        "    (new / 'memory').write_text('half'); Path(sys.argv[2]).touch(); time.sleep(60)\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, store.root, ready])
    while not ready.exists():
        assert maker.poll() is None
        time.sleep(0.01)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert len([path for path in store.root.iterdir() if path.name.startswith(".part-")]) == 1
    assert store.states() == []
    add(store, name(1))
    assert sorted(path.name for path in store.root.iterdir()) == [name(1), "lock"]


def test_drop(store: StateStore) -> None:
    add(store, name(1))
    store.drop(name(1))
    store.drop(name(1))
    assert store.states() == []
    assert [path.name for path in store.root.iterdir()] == ["lock"]


@pytest.mark.parametrize(("age", "marked"), [(3600, True), (3 * 86400, False)])
def test_making_room(store: StateStore, age: int, marked: bool) -> None:
    """Otherwise a small cache would make each build save an appliance, only to have it removed again."""
    add(store, name(1), age=age)
    store.make_room(store.states()[0])
    assert store.states() == []
    assert (store.root / f"{name(1)}{GIVEN_UP}").exists() is marked


def test_descriptions(store: StateStore) -> None:
    add(store, name(1))
    store.give_up(name(2), "too slow")
    assert [line.partition(",")[0] for line in store.describe()] == [
        "saved appliance",
        "an appliance that could not be saved (too slow)",
    ]


def test_delete_removes_ours_only(store: StateStore) -> None:
    add(store, name(1))
    store.give_up(name(2), "too slow")
    (store.root / ".part-0123456789abcdef").mkdir()
    (store.root / "mine.txt").write_text("x")
    store.delete()
    assert [path.name for path in store.root.iterdir()] == ["mine.txt"]
    store.delete()
    assert [path.name for path in store.root.iterdir()] == ["mine.txt"]


def test_delete_removes_the_folder_when_it_is_all_ours(store: StateStore) -> None:
    add(store, name(1))
    os.truncate(store.root / "lock", 0)  # as earlier versions left it
    store.delete()
    assert not store.root.exists()
    store.delete()


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "instant")
    store.root.mkdir(mode=0o700)
    (store.root / "lock").write_text("mine")
    (store.root / name(1)).mkdir()
    (store.root / name(1) / "record.json").write_text("{}")
    with pytest.raises(UnusableStateError, match="not saved appliances"):
        store.open()
    assert store.states() == []
    store.delete()
    assert (store.root / "lock").read_text() == "mine"
    assert (store.root / name(1)).is_dir()


def test_a_state_in_use_can_be_dropped(store: StateStore) -> None:
    add(store, name(1))
    with (store.root / name(1) / "memory").open("rb") as held:
        store.drop(name(1))
        assert len(held.read()) == 10_000


def test_lock_is_released(store: StateStore) -> None:
    add(store, name(1))
    with (store.root / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_marks_are_named_after_states(store: StateStore) -> None:
    store.give_up(name(3), "the drive a\nb\udc80 is not known")
    assert (store.root / f"{name(3)}{GIVEN_UP}").read_text() == "the drive a b is not known\n"
