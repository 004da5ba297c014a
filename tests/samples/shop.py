"""What the sample apps share, which knows no library: a mailer, and a report that takes its time."""

from __future__ import annotations

#: The mails that were sent: address and text.
mails: list[tuple[str, str]] = []
#: The pages of reports that were written.
pages: list[int] = []
#: The nights in which the shop was cleaned up.
nights: list[str] = []


def send(address: str, text: str) -> None:
    """Send a mail."""
    mails.append((address, text))


def write_page(number: int) -> None:
    """Write a page of a report."""
    pages.append(number)


def remove_pages() -> None:
    """Remove the pages of a report that will not be finished."""
    pages.clear()


def clean_up(night: str) -> None:
    """Clean up."""
    nights.append(night)


def forget() -> None:
    """Begin anew."""
    for kept in (mails, pages, nights):
        kept.clear()
