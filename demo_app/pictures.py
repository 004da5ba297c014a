"""The demo's work with Pillow: check an upload that may be hostile, shrink it, draw a card."""

from __future__ import annotations

import io
from typing import IO

from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MAX_PIXELS = 50_000_000
TOO_LARGE = f"This picture has more than {MAX_PIXELS // 1_000_000} million pixels."

# Pillow's own guard, for what it decodes before we know the size. It raises at twice this number.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class PictureError(Exception):
    """An upload is no picture that we can use. The text is meant for the visitor."""


def read(stream: IO[bytes], edge: int) -> Image.Image:
    """Decode a picture that fits a square, the right way up; refuse other files and large ones."""
    picture = open_picture(stream)
    try:
        picture.draft("RGB", (edge, edge))  # decode a large JPEG at a fraction of its size
        mode = "RGBA" if picture.has_transparency_data else "RGB"
        pixels = picture if picture.mode == mode else picture.convert(mode)
        pixels.thumbnail((edge, edge))
        pixels.load()
        pixels = ImageOps.exif_transpose(pixels)
    except Exception as error:  # Pillow raises whatever its parsers trip over
        raise PictureError("This picture is damaged, or only a part of it arrived.") from error
    pixels.info.clear()  # no place, camera, profile or comment
    return pixels


def open_picture(stream: IO[bytes]) -> Image.Image:
    """Read a picture's header, and refuse a picture that is too large before it is decoded."""
    try:
        picture = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureError("This is not a JPEG, PNG, WebP or GIF picture.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureError(TOO_LARGE) from None
    except Exception as error:
        raise PictureError("This picture is damaged.") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise PictureError(TOO_LARGE)
    return picture


def welcome_card(name: str) -> bytes:
    """Draw a card that greets a new member, as PNG."""
    down = Image.linear_gradient("L")
    slope = Image.blend(down, down.rotate(90), 0.4).resize((960, 480))
    card = ImageOps.colorize(slope, black="#0b3b3c", white="#5cc4b0")
    glow = Image.new("L", card.size)
    for radius, light in ((290, 24), (200, 48), (110, 230)):
        ImageDraw.Draw(glow).circle((760, 150), radius, fill=light)
    card.paste("#ffe9b8", mask=glow)

    draw = ImageDraw.Draw(card)
    draw.ellipse((-320, 330, 700, 1100), "#155e5b")
    draw.ellipse((380, 385, 1500, 1100), "#0d4543")
    draw.text((56, 48), "Welcome", "#ffffff", ImageFont.load_default(88))
    if name.isascii():  # the built-in font has few other letters
        draw.text((60, 158), name[:36], "#e0f5f1", ImageFont.load_default(34))
    buffer = io.BytesIO()
    card.save(buffer, "PNG")
    return buffer.getvalue()
