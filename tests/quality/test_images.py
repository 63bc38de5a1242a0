"""Every finding about a single file, on a real one."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.quality.finding import Finding

Found = Callable[..., dict[str, Finding]]
Picture = Callable[..., Image.Image]


def jpeg(image: Image.Image, **settings: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **settings)
    return data.getvalue()


def turned(path: Path, picture: Picture, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(901, (48, 64)).save(path, exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path, _: Picture) -> None:
    """A PNG of a few hundred bytes that says it is 100,000 pixels wide and high."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def animated(path: Path, picture: Picture) -> None:
    frames = [picture(seed) for seed in (901, 902, 903)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def deep(path: Path, picture: Picture) -> None:
    values = np.asarray(picture().convert("L"), np.uint16) * 257
    Image.fromarray(values).save(path)


def deep_colours(path: Path, picture: Picture) -> None:
    """RGB of 16 bits, which Pillow cannot write."""
    rows = np.asarray(picture(), np.uint16) * 257
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def saved(
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
    size: tuple[int, int] = (64, 48),
    **settings: object,
) -> Callable[[Path, Picture], None]:
    return lambda path, picture: change(picture(901, size)).save(path, **settings)


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


def mode(name: str) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.convert(name)


# What is put beside the good images, its name, the kind that must be found, its severity, words of the note.
CASES = [
    (lambda path, _: path.write_text("no picture"), "x.jpg", "unreadable", "error", "not an image of a format"),
    (lambda path, picture: path.write_bytes(jpeg(picture())[:-300]), "x.jpg", "truncated", "error", "truncated"),
    (lambda path, _: path.touch(), "x.png", "empty", "error", "empty"),
    (bomb, "x.png", "bomb", "error", "exceeds limit"),
    (saved(format="PNG"), "x.jpg", "wrong_extension", "info", "is PNG"),
    (saved(format="JPEG"), "no_suffix", "wrong_extension", "info", "is JPEG"),
    (turned, "x.jpg", "rotated", "info", ""),
    (lambda path, picture: turned(path, picture, 2), "x.jpg", "rotated", "info", ""),
    (animated, "x.gif", "animated", "info", "GIF"),
    (animated, "x.webp", "animated", "info", "WEBP"),
    (animated, "x.tif", "animated", "info", "TIFF"),
    (saved(lambda image: image.quantize(64)), "x.png", "palette", "info", "P"),
    (saved(mode("CMYK")), "x.jpg", "cmyk", "info", "CMYK"),
    (deep, "x.png", "deep", "info", "I;16"),
    (deep_colours, "x.png", "deep", "info", "RGB"),
    (saved(transparent), "x.png", "transparent", "info", "RGBA"),
    (saved(mode("L")), "x.png", "gray", "info", "L"),
    (saved(mode("1")), "x.png", "odd_mode", "info", "1"),
    (saved(lambda _: Image.new("RGB", (64, 64), "navy")), "x.png", "blank", "warning", "64 × 64"),
    (saved(size=(40, 12)), "x.png", "extreme_size", "warning", "40 × 12"),
    (saved(size=(400, 100)), "x.png", "extreme_aspect", "warning", "400 × 100"),
    (saved(size=(64, 30)), "x.png", "small", "info", "64 × 30"),
    (saved(size=(64, 15)), "x.png", "very_small", "warning", "64 × 15"),
    (lambda path, _: path.write_text("notes"), "notes.txt", "not_an_image", "info", ""),
    (saved(format="PNG"), ".x.png", "hidden", "info", ""),
    (lambda path, _: path.write_bytes(b"\0\0\0\x18ftypheic"), "x.heic", "unread_format", "warning", ""),
]


@pytest.mark.parametrize(("make", "name", "kind", "severity", "note"), CASES, ids=[f"{c[2]}-{c[1]}" for c in CASES])
def test_it_is_found(
    good: Path,
    found: Found,
    picture: Picture,
    make: Callable[[Path, Picture], None],
    name: str,
    kind: str,
    severity: str,
    note: str,
) -> None:
    assert found(good) == {}, "without the file there is nothing to find"
    make(good / "cat" / name, picture)
    findings = found(good)
    finding = findings[kind]
    assert finding.paths == (f"cat/{name}",)
    assert finding.severity == severity
    assert note in (finding.notes or {}).get(f"cat/{name}", "")
    assert finding.remedy.endswith(".")
    assert {other for other, each in findings.items() if each.severity == "error"} <= {kind}


def test_it_says_the_size_upright(good: Path, found: Found, picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(901, (20, 100)).save(good / "cat" / "x.jpg", exif=exif)
    assert found(good)["extreme_aspect"].notes == {"cat/x.jpg": "100 × 20"}


def test_no_permission(good: Path, found: Found) -> None:
    path = good / "cat" / "00.png"
    path.chmod(0)
    try:
        if _opens(path):
            pytest.skip("this user may read everything")
        finding = found(good)["no_permission"]
    finally:
        path.chmod(0o644)
    assert (finding.severity, finding.paths) == ("error", ("cat/00.png",))


@pytest.mark.parametrize(("mode", "path"), [(0, "cat/deeper/"), (0o444, "cat/deeper/1.png")])
def test_a_folder_without_permission(good: Path, found: Found, mode: int, path: str) -> None:
    """One that may not be listed, and one whose files may not be opened."""
    folder = good / "cat" / "deeper"
    folder.mkdir()
    (folder / "1.png").touch()
    folder.chmod(mode)
    try:
        if _opens(folder / "1.png"):
            pytest.skip("this user may read everything")
        finding = found(good)["no_permission"]
    finally:
        folder.chmod(0o755)
    assert finding.paths == (path,)


def _opens(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def test_the_input_of_the_network_decides_what_is_small(good: Path, found: Found) -> None:
    assert found(good, size=(48, 64)) == {}
    assert found(good, size=(48, 65))["small"].count == 40
    assert found(good, size=(97, 64))["very_small"].count == 40


def test_a_second_view_in_a_photograph_is_no_animation(good: Path, found: Found, picture: Picture) -> None:
    frames = [picture(901), picture(902)]
    frames[0].save(good / "cat" / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert found(good) == {}
