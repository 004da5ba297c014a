"""The journal's folder is this user's alone: made so, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flask_background.durable.journal.folder import UnsafeError, check_file, check_folder, make_folder
from flask_background.durable.journal.writer import Writer
from flask_background.errors import JournalError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


def test_made_private(tmp_path: Path) -> None:
    """Folders that are missing are made for this user alone, whatever the umask; others stay as they are."""
    (tmp_path / "shared").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        make_folder(tmp_path / "shared" / "a" / "b")
    finally:
        os.umask(before)
    for name in ("shared/a", "shared/a/b"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o720, 0o702])
def test_writable_for_others(tmp_path: Path, mode: int) -> None:
    """A folder that others may write in is refused, with the cure, until that is mended."""
    folder = tmp_path / "journal"
    folder.mkdir()
    folder.chmod(mode)
    writer = Writer(folder, power=False)
    with pytest.raises(JournalError, match=r"other users may write in .*chmod go-w"):
        writer.write(lambda db: None)
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    writer.write(lambda db: None)


@needs_root
def test_another_users_folder(tmp_path: Path) -> None:
    """A folder that belongs to another user is refused, and both users are named."""
    os.chown(tmp_path, 65534, 65534)
    try:
        with pytest.raises(
            UnsafeError, match=r"belongs to user nobody \(65534\), and this process runs as user root \(0\)"
        ):
            check_folder(tmp_path)
    finally:
        os.chown(tmp_path, 0, 0)


@needs_root
def test_another_users_file(tmp_path: Path) -> None:
    """A file that another user has put there is refused, and not written."""
    path = tmp_path / "journal.sqlite3"
    path.touch()
    os.chown(path, 65534, 65534)
    with pytest.raises(JournalError, match=r"belongs to user nobody \(65534\)"):
        Writer(tmp_path, power=False).write(lambda db: None)
    assert path.stat().st_size == 0


def test_symbolic_link(tmp_path: Path) -> None:
    """A link in the file's place is refused, and where it leads nothing is made."""
    (tmp_path / "journal.sqlite3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="is a symbolic link"):
        Writer(tmp_path, power=False).write(lambda db: None)
    assert not (tmp_path / "elsewhere").exists()


def test_file_that_others_may_read(tmp_path: Path) -> None:
    """A file of this user that others may read, such as a backup that was put back, is made private."""
    path = tmp_path / "journal.sqlite3"
    path.touch(mode=0o644)
    path.chmod(0o666)
    check_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
