"""The journal's folder: made private, and refused if another user owns it or may write there."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

_CURE = (
    "run all processes of the app, its workers and commands too, as one user, and give the folder and all"
    " that is in it to that user (chown -R)"
)


class UnsafeError(OSError):
    """Another user could read or change the journal."""


def make_folder(folder: Path) -> None:
    """Make the folder, and its missing parents, for this user alone. Raises OSError."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(mode=0o700, exist_ok=True)
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise UnsafeError if another user owns the folder, or may write there."""
    found = os.stat(folder)
    if found.st_uid != os.geteuid():
        raise UnsafeError(
            f"{folder} belongs to user {user_name(found.st_uid)}, and this process runs as user"
            f" {user_name(os.geteuid())}: {_CURE}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeError(f"other users may write in {folder}: take away their permission, with chmod go-w")


def check_file(path: Path) -> None:
    """Make the journal's file private. Raises UnsafeError if it is another user's, or a symbolic link."""
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeError(f"{path} is a symbolic link: move the file that it leads to here")
    if found.st_uid != os.geteuid():
        raise UnsafeError(
            f"{path} belongs to user {user_name(found.st_uid)}, and this process runs as user"
            f" {user_name(os.geteuid())}: {_CURE}"
        )
    if found.st_mode & 0o077 and stat.S_ISREG(found.st_mode):  # for example a restored backup
        os.chmod(path, found.st_mode & 0o700)


def user_name(uid: int) -> str:
    """Return the name of a user for messages, or the number if the system has no name for it."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return str(uid)
