"""The text of a call: the arguments of an item that leaves this process, without the content of uploads."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from werkzeug.datastructures import FileStorage, Headers

from flask_background.payload import data

if TYPE_CHECKING:
    from collections.abc import Callable


def pack_call(
    func: Callable[..., Any], args: Any, kwargs: Any, max_bytes: int
) -> tuple[str, list[FileStorage]]:
    """Return the call as text of at most max_bytes, and its uploads, which the text refers to by number.

    Raises ArgumentError for arguments that are not data.
    """
    uploads: list[FileStorage] = []

    def refer(upload: FileStorage) -> dict[str, Any]:
        uploads.append(upload)
        headers = [list(pair) for pair in upload.headers]
        return {
            "n": len(uploads) - 1,
            "filename": upload.filename,
            "name": upload.name,
            "headers": headers,
        }

    return data.dump_call(func, args, kwargs, replace=refer, max_bytes=max_bytes), uploads


def unpack_call(
    payload: str, open_file: Callable[[int], IO[bytes]]
) -> tuple[tuple[Any, ...], dict[str, Any], list[FileStorage]]:
    """Return the arguments from a call's text; the files of uploads among them are open."""
    opened: list[FileStorage] = []

    def reopen(reference: dict[str, Any]) -> FileStorage:
        headers = Headers([tuple(pair) for pair in reference["headers"]])
        upload = FileStorage(open_file(int(reference["n"])), name=reference["name"], headers=headers)
        upload.filename = reference["filename"]  # None would be replaced by the path of the file
        opened.append(upload)
        return upload

    try:
        args, kwargs = data.load_call(payload, rebuild=reopen)
    except BaseException:
        for upload in opened:
            upload.close()
        raise
    return args, kwargs, opened
