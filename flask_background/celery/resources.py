"""What an item in a cluster has besides its record: uploads, and a key. Whoever ends it lets them go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from flask_background.celery.redis.keys import Keys, name_of_key
from flask_background.celery.uploads.uploads import Uploads

if TYPE_CHECKING:
    from celery import Celery
    from werkzeug.datastructures import FileStorage

    from flask_background.celery.records import Records
    from flask_background.core.events import Events
    from flask_background.core.item import WorkItem
    from flask_background.core.settings import Settings


class Packed(NamedTuple):
    """What an item's arguments have become that is to be sent."""

    payload: str
    #: What it has besides: how many uploads, and the key by its name in Redis.
    uploads: int | None
    key: str | None
    #: The uploads themselves, which the payload refers to by their number.
    files: Sequence[FileStorage]

    @classmethod
    def of(cls, item: WorkItem[Any], payload: str, uploads: Sequence[FileStorage]) -> Self:
        """For an item with these uploads."""
        key = item._task.key
        name = None if key is None else name_of_key(item.task_name, key)
        return cls(payload, len(uploads) or None, name, uploads)


class Belongings:
    """Where the items of an app have theirs. Raises ConfigurationError if there is no such place."""

    def __init__(self, settings: Settings, celery: Celery, events: Events) -> None:
        self.uploads = None if settings.uploads is None else Uploads(settings.uploads, settings.keep)
        self.keys = Keys(celery)
        self._events = events

    def save(self, item_id: str, uploads: Sequence[FileStorage]) -> None:
        """Store an item's uploads. Raises UploadError, and leaves nothing then."""
        if self.uploads is not None and uploads:
            self.uploads.save(item_id, uploads)

    def let_go(self, item_id: str, uploads: int | None, key: str | None) -> None:
        """The item has ended, or was not accepted. Raises nothing: what stays is removed later."""
        if key is not None:
            try:
                self.keys.release(key, item_id)
            except Exception as error:
                self._events.log_error(f"The key of item {item_id} could not be given back", error)
        if uploads and self.uploads is not None:
            try:
                self.uploads.remove(item_id, uploads)
            except Exception as error:
                self._events.log_error(f"The uploads of item {item_id} could not be removed", error)

    def sweep(self, records: Records) -> None:
        """Remove what others have left, if it is time for that. Raises nothing."""

        def is_over(item_id: str) -> bool:
            record = records.read(item_id)
            return record is not None and record.status.is_final

        if self.uploads is not None:
            try:
                self.uploads.sweep(is_over)
            except Exception as error:
                self._events.log_error("Old uploads could not be looked through", error)
