"""Pictures: over HTTP multipart to files on disk, and what hostile ones come to."""

from __future__ import annotations

import http.client
import io
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageCms

from .conftest import ROOT
from .driver import Demo, item_ids, multipart, picture, png_that_claims, until

MEGABYTE = 1024 * 1024


def added(demo: Demo, name: str, content: bytes) -> Path:
    """Upload a picture and return its folder once it is in the gallery."""
    before = demo.pictures()
    demo.upload((name, content))
    return until(lambda: next((path for path in demo.pictures() if path not in before), None))


def failure(demo: Demo, name: str, content: bytes) -> str:
    """Upload something that fails, and return what the page says of it."""
    before = demo.pictures()
    known = item_ids(demo.get("/gallery"))
    answer = demo.upload((name, content))
    assert answer.status == 200, answer.text
    (item_id,) = set(item_ids(answer)) - set(known)
    item = demo.ended(item_id)
    assert item["status"] == "refused"
    until(lambda: item["error"] in demo.get("/gallery").text)  # by the other worker, perhaps a moment later
    assert demo.pictures() == before
    assert not list(demo.instance.glob("pictures/tmp*")), "nothing of it is kept"
    return str(item["error"])


def test_several_pictures_become_files(demo: Demo) -> None:
    """Several uploads in one form become copies of three sizes on disk, and are served."""
    before = set(demo.pictures())
    uploads = [
        ("one.jpg", picture("JPEG", (2400, 1200))),
        ("two.png", picture("PNG", (300, 200))),
        ("three.webp", picture("WEBP", (600, 1600))),
        ("four.gif", picture("GIF")),
    ]
    answer = demo.upload(*uploads)
    assert (answer.status, answer.url) == (200, demo.url + "/gallery")
    folders = until(lambda: len(new := set(demo.pictures()) - before) == 4 and new)
    names = {}
    for folder in folders:
        names[json.loads((folder / "about.json").read_text())["name"]] = folder
        for edge in (400, 800, 1600):
            sent = demo.get(f"/gallery/pictures/{folder.name}/{edge}.webp")
            assert sent.headers["Content-Type"] == "image/webp"
            assert sent.body == (folder / f"{edge}.webp").read_bytes()
    assert set(names) == {"one.jpg", "two.png", "three.webp", "four.gif"}
    assert size_of(names["one.jpg"] / "1600.webp") == (1600, 800)
    assert size_of(names["one.jpg"] / "400.webp") == (400, 200)
    assert size_of(names["two.png"] / "1600.webp") == (300, 200), "small ones are not blown up"
    assert size_of(names["three.webp"] / "800.webp") == (300, 800)


def size_of(path: Path) -> tuple[int, int]:
    """The size of a picture in a file."""
    with Image.open(path) as image:
        return image.size


def test_upright_and_without_metadata(demo: Demo) -> None:
    """A copy is turned as the camera was held, and tells no place, camera, profile or comment."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    exif[0x010F] = "Secret Camera"
    exif.get_ifd(0x8825)[1] = "N"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = picture(size=(900, 600), exif=exif, icc_profile=profile, comment=b"Secret comment")
    folder = added(demo, "held-upright.jpg", content)
    for edge in (400, 800, 1600):
        path = folder / f"{edge}.webp"
        assert b"Secret" not in path.read_bytes()
        with Image.open(path) as image:
            assert image.width < image.height
            assert not image.getexif()
            assert not {"exif", "icc_profile", "xmp"} & set(image.info)


def test_transparency_is_kept(demo: Demo) -> None:
    """A transparent picture stays transparent."""
    buffer = io.BytesIO()
    Image.new("RGBA", (200, 100), (255, 0, 0, 0)).save(buffer, "PNG")
    with Image.open(added(demo, "clear.png", buffer.getvalue()) / "400.webp") as image:
        assert image.mode == "RGBA"
        assert image.getchannel("A").getextrema() == (0, 0)


def test_name_is_never_a_path(demo: Demo) -> None:
    """A hostile name is escaped text on the page, and no path anywhere."""
    before = set(demo.instance.parent.rglob("*"))
    folder = added(demo, "../../../<script>alert(1)<'.jpg", picture())
    assert json.loads((folder / "about.json").read_text())["name"] == "<script>alert(1)<'.jpg"
    added(demo, "..\\..\\<img src=x onerror=alert(1)>.jpg", picture())
    page = demo.get("/gallery").page
    assert "&lt;img src=x onerror=alert(1)&gt;.jpg" in page
    assert "<img src=x" not in page
    new = set(demo.instance.parent.rglob("*")) - before
    assert all(demo.instance in path.parents for path in new)
    assert not [path for path in new if "alert" in path.name or path.suffix == ".jpg"]


def test_source_tree_stays_clean(demo: Demo) -> None:
    """Nothing that visitors send is written next to the code."""
    added(demo, "elsewhere.jpg", picture())
    kinds = {path.suffix for path in (ROOT / "demo_app").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyc", ".html", ".txt", ".css", ".js", ".svg"}


def test_no_picture(demo: Demo) -> None:
    """A file that is no picture, or has a rare format, is refused by its content, and not in the log."""
    tiff = picture("TIFF")
    logged = len(demo.log())
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for content in (b"MZ this is a program", b"", tiff, svg, b"%!PS-Adobe-3.0 EPSF-3.0"):
        assert "not a JPEG, PNG, WebP or GIF" in failure(demo, "holiday.jpg", content)
    assert "ERROR" not in demo.log()[logged:]
    assert "Traceback" not in demo.log()[logged:]


def test_decompression_bomb(demo: Demo) -> None:
    """A few kilobytes that would be gigabytes of pixels are refused before they are decoded."""
    bomb = png_that_claims(50_000, 50_000)
    assert len(bomb) < MEGABYTE
    assert "pixels" in failure(demo, "bomb.png", bomb)
    # More than our limit, but not so much that Pillow raises.
    assert "million pixels" in failure(demo, "large.png", png_that_claims(10_000, 7_000))


def test_gif_with_many_or_huge_frames(demo: Demo) -> None:
    """An animation is shown by its first frame; a frame that is huge is refused."""
    frames = [Image.new("P", (64, 48), number) for number in range(40)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    folder = added(demo, "moving.gif", buffer.getvalue())
    with Image.open(folder / "400.webp") as image:
        assert image.size == (64, 48)
        assert not getattr(image, "is_animated", False)

    small = bytearray(picture("GIF", (10, 10)))
    frame = small.index(b"\x2c")  # the image descriptor: left, top, width, height follow
    small[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert failure(demo, "huge-frame.gif", bytes(small)) != "Something went wrong here."


def test_truncated_picture(demo: Demo) -> None:
    """A picture of which a part is missing is refused, small or large."""
    for kind, size in (("JPEG", (800, 800)), ("JPEG", (3000, 2000)), ("PNG", (800, 800))):
        whole = picture(kind, size)
        assert "damaged" in failure(demo, "half", whole[: len(whole) // 2])


def test_nothing_chosen(demo: Demo) -> None:
    """A form without a picture gets a message."""
    for uploads in ([("", b"")], []):
        answer = demo.upload(*uploads)
        assert answer.status == 400
        assert "Please choose a picture first." in answer.text


def test_too_many_pictures(demo: Demo) -> None:
    """More pictures than allowed in one form get a page, and none of them is kept."""
    before = demo.pictures()
    answer = demo.upload(*[(f"{number}.jpg", picture(size=(8, 8))) for number in range(30)])
    assert answer.status == 413
    assert "An upload may have 24 pictures" in answer.text
    assert demo.pictures() == before


def test_too_large_upload_is_answered(demo: Demo) -> None:
    """50 MB are answered with a page that reads well, to a client that sends all at first."""
    body, kind = multipart([("large.jpg", bytes(50 * MEGABYTE))])
    for chunked in (False, True):
        connection = http.client.HTTPConnection(urlsplit(demo.url).netloc, timeout=60)
        blocks = (body[start : start + MEGABYTE] for start in range(0, len(body), MEGABYTE))
        connection.request(
            "POST",
            "/gallery",
            blocks if chunked else body,
            {"Content-Type": kind},
            encode_chunked=chunked,
        )
        response = connection.getresponse()
        page = response.read().decode()
        connection.close()
        assert response.status == 413
        assert "That is too much at once" in page
        assert "32 MB" in page


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_form_of_another_site(demo: Demo, headers: dict[str, str]) -> None:
    """A form that another site's page sends does nothing."""
    before = demo.pictures()
    answer = demo.upload(("mine.jpg", picture()), headers=headers)
    assert answer.status == 403
    assert "another site" in answer.text
    assert demo.pictures() == before


def test_own_form(demo: Demo) -> None:
    """A form of our own passes, from browsers that say where it comes from in either way."""
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": demo.url}):
        assert demo.upload(("", b""), headers=headers).status == 400, "it gets as far as the view"


def test_made_up_host(demo: Demo) -> None:
    """A Host header that is not ours gets an error page, so that no letter can link to it."""
    answer = demo.request("/", headers={"Host": "evil.example"})
    assert answer.status == 400


def test_pages_are_strict(demo: Demo) -> None:
    """Browsers are told to load nothing from elsewhere; a page that is not there reads well."""
    answer = demo.get("/gallery/pictures/..%2f..%2fetc/1.webp")
    assert answer.status == 404
    assert "Not Found" in answer.text
    assert "Back to the start" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "http" not in demo.get("/gallery").page.replace("http-equiv", "")


def test_unknown_items(demo: Demo) -> None:
    """The page of an unknown item, or of nonsense, says so."""
    unknown = "0" * 24
    hostile = "../../pictures/x"
    assert [item["status"] for item in demo.items(unknown, hostile)] == ["unknown", "unknown"]
