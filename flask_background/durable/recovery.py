"""The recovery of items that dead processes have left, and a warning of processes that it cannot reach."""

from __future__ import annotations

import os
import time
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from flask_background.durable.journal import queries, statements, takeover
from flask_background.durable.journal.folder import user_name
from flask_background.durable.journal.process_identity import short_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from flask_background.durable.handles import Handles
    from flask_background.durable.session import JournalSession

# How long a process has to be without its files, in seconds, if the kernel does not say whether it lives. A
# living process makes its files again within a few seconds.
_ABSENT = 60.0


class Recovery:
    """Frees the items of dead processes, for one process of the app."""

    def __init__(self, session: JournalSession, handles: Handles) -> None:
        self._session = session
        self._folder = session.process_lock.folder
        self._handles = handles
        # The owners of items that have no file, and when this process first missed it (``monotonic()``).
        self._absent: dict[str, float] = {}
        # The users whose processes were warned of.
        self._strangers: set[int] = set()

    def recover(self, name: str) -> None:
        """Free the items of a dead process, unless another process does. Raises JournalError."""
        taken = takeover.take_over(self._folder, name)
        if taken is not None:
            with taken:
                count = self.free(name, taken.running, charged=taken.charged)
                taken.remove_files()
            self._tell(count, name, stopped=not taken.charged)

    def recover_absent(self) -> None:
        """Free the items of dead processes whose file a power cut or a person has removed.

        A living process makes a removed file again, and keeps its items. Raises JournalError.
        """
        owners = self._session.writer.read(queries.owners)
        missing = [name for name in owners if not takeover.exists(self._folder, name)]
        self._absent = {name: self._absent.get(name, monotonic()) for name in missing}
        for name, since in self._absent.items():
            lives = takeover.lives(self._folder, name)
            if lives is False or (lives is None and monotonic() - since >= _ABSENT):
                self._tell(self.free(name, (), charged=True), name)

    def warn_of_strangers(self) -> None:
        """Log once for each other user who has processes of the app: they may have files of their own."""
        for name, user in takeover.other_users(self._folder).items():
            if user not in self._strangers:
                self._strangers.add(user)
                self._session.local.events.other_user(
                    short_name(name), user_name(user), user_name(os.geteuid()), self._folder.parent
                )

    def free(self, name: str, running: Collection[str], *, charged: bool) -> int:
        """Free the items of a process, and return how many run again. Raises JournalError.

        ``running``: the ids of those that were running. ``charged``: whether their runs count as crashes.
        """
        count = 0
        step = partial(statements.recover, owner=name, running=running, charged=charged, now=time.time())
        while True:
            released, ended = self._session.writer.write(step)
            count += released
            for row in ended:
                self._handles.announce_end(row)
            if released + len(ended) == 0:
                return count

    def _tell(self, count: int, name: str, *, stopped: bool = False) -> None:
        if count:
            self._session.local.events.recovered(count, short_name(name), stopped=stopped)
            self._session.wake_all()
