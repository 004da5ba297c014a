"""Texts of the app as one line, for pages, logs and terminals."""

from __future__ import annotations

_MARK = "…"
# Joins letters of some scripts, and parts of some emoji.
_JOINERS = "\u200c\u200d"


def one_line(text: str, longest: int) -> str:
    """Return a text as one line that can be shown anywhere, cut at ``longest`` characters with a mark.

    Control characters, those that turn the direction of writing, and halves of surrogate pairs become U+FFFD.
    """
    text = " ".join(text[: 4 * longest].split())
    if not text.isprintable():
        text = "".join(one if one.isprintable() or _is_harmless(one) else "\ufffd" for one in text)
    return text if len(text) <= longest else text[: longest - 1] + _MARK


def _is_harmless(character: str) -> bool:
    from unicodedata import category  # imported for the few texts that need it

    return character in _JOINERS or category(character) not in ("Cc", "Cf", "Cs")
