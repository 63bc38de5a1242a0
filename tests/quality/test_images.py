"""Every kind of finding about a single file, on a file that has the problem."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.quality.finding import Finding

FindingsOf = Callable[..., dict[str, Finding]]
MakeImage = Callable[..., Image.Image]


def jpeg(image: Image.Image, **settings: object) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", **settings)
    return data.getvalue()


def rotated(path: Path, make_image: MakeImage, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    make_image(901, (48, 64)).save(path, exif=exif)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path: Path, _: MakeImage) -> None:
    """A PNG of a few hundred bytes whose header says 100,000 × 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def animated(path: Path, make_image: MakeImage) -> None:
    frames = [make_image(seed) for seed in (901, 902, 903)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def deep(path: Path, make_image: MakeImage) -> None:
    values = np.asarray(make_image().convert("L"), np.uint16) * 257
    Image.fromarray(values).save(path)


def deep_colours(path: Path, make_image: MakeImage) -> None:
    """A 16-bit RGB PNG, which Pillow cannot write."""
    rows = np.asarray(make_image(), np.uint16) * 257
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def saved(
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
    size: tuple[int, int] = (64, 48),
    **settings: object,
) -> Callable[[Path, MakeImage], None]:
    return lambda path, make_image: change(make_image(901, size)).save(path, **settings)


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


def mode(name: str) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.convert(name)


# Function that writes a file, its name, kind and severity of the finding, words of its note.
CASES = [
    (lambda path, _: path.write_text("no image"), "x.jpg", "unreadable", "error", "not a valid JPEG, PNG"),
    (lambda path, make_image: path.write_bytes(jpeg(make_image())[:-300]), "x.jpg", "truncated", "error", "truncated"),
    (lambda path, _: path.touch(), "x.png", "empty", "error", "empty"),
    (bomb, "x.png", "bomb", "error", "too many to decode"),
    (saved(format="PNG"), "x.jpg", "wrong_extension", "info", "is PNG"),
    (saved(format="JPEG"), "no_suffix", "wrong_extension", "info", "is JPEG"),
    (rotated, "x.jpg", "rotated", "info", ""),
    (lambda path, make_image: rotated(path, make_image, 2), "x.jpg", "rotated", "info", ""),
    (animated, "x.gif", "animated", "info", "GIF"),
    (animated, "x.webp", "animated", "info", "WEBP"),
    (animated, "x.tif", "animated", "info", "TIFF"),
    (saved(lambda image: image.quantize(64)), "x.png", "palette", "info", "P"),
    (saved(mode("CMYK")), "x.jpg", "cmyk", "info", "CMYK"),
    (deep, "x.png", "high_bit_depth", "info", "I;16"),
    (deep_colours, "x.png", "high_bit_depth", "info", "RGB"),
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
    (lambda path, _: path.write_bytes(b"\0\0\0\x18ftypheic"), "x.heic", "unsupported_format", "warning", ""),
]


@pytest.mark.parametrize(("make", "name", "kind", "severity", "note"), CASES, ids=[f"{c[2]}-{c[1]}" for c in CASES])
def test_each_kind_of_finding(
    clean_data: Path,
    findings_of: FindingsOf,
    make_image: MakeImage,
    make: Callable[[Path, MakeImage], None],
    name: str,
    kind: str,
    severity: str,
    note: str,
) -> None:
    assert findings_of(clean_data) == {}, "without the file there are no findings"
    make(clean_data / "cat" / name, make_image)
    findings = findings_of(clean_data)
    finding = findings[kind]
    assert finding.paths == (f"cat/{name}",)
    assert finding.severity == severity
    assert note in (finding.notes or {}).get(f"cat/{name}", "")
    assert finding.remedy.endswith(".")
    assert {other for other in findings if findings[other].severity == "error"} <= {kind}


def test_notes_give_the_upright_size(clean_data: Path, findings_of: FindingsOf, make_image: MakeImage) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(901, (20, 100)).save(clean_data / "cat" / "x.jpg", exif=exif)
    assert findings_of(clean_data)["extreme_aspect"].notes == {"cat/x.jpg": "100 × 20"}


def test_no_permission(clean_data: Path, findings_of: FindingsOf) -> None:
    path = clean_data / "cat" / "00.png"
    path.chmod(0)
    try:
        if _opens(path):
            pytest.skip("this user can read everything")
        finding = findings_of(clean_data)["no_permission"]
    finally:
        path.chmod(0o644)
    assert (finding.severity, finding.paths) == ("error", ("cat/00.png",))


@pytest.mark.parametrize(("mode", "path"), [(0, "cat/deeper/"), (0o444, "cat/deeper/1.png")])
def test_a_folder_without_permission(clean_data: Path, findings_of: FindingsOf, mode: int, path: str) -> None:
    """One that cannot be listed, and one whose files cannot be opened."""
    folder = clean_data / "cat" / "deeper"
    folder.mkdir()
    (folder / "1.png").touch()
    folder.chmod(mode)
    try:
        if _opens(folder / "1.png"):
            pytest.skip("this user can read everything")
        finding = findings_of(clean_data)["no_permission"]
    finally:
        folder.chmod(0o755)
    assert finding.paths == (path,)


def _opens(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def test_small_is_relative_to_the_input_of_the_network(clean_data: Path, findings_of: FindingsOf) -> None:
    assert findings_of(clean_data, size=(48, 64)) == {}
    assert findings_of(clean_data, size=(48, 65))["small"].count == 40
    assert findings_of(clean_data, size=(97, 64))["very_small"].count == 40


def test_an_mpo_photograph_with_two_views_is_not_animated(
    clean_data: Path, findings_of: FindingsOf, make_image: MakeImage
) -> None:
    frames = [make_image(901), make_image(902)]
    frames[0].save(clean_data / "cat" / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert findings_of(clean_data) == {}
