"""The collection of odd images: every file is decoded correctly, or refused with a reason."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlcli.data.decode import DECODER_ERRORS, EXTENSIONS, QUIET_PILLOW, reason_of, to_rgb
from tlcli.data.pixels import decode, open_cache, read
from tlcli.data.source import scan
from tlcli.errors import DataError

Sample = Callable[[str], Path]
COUNT, READ, REFUSED = 111, 87, 24

# Files that Pillow opens and tlcli does not.
UNSUPPORTED = {
    "other_formats/16bit.cropped.jp2": "JPEG 2000",
    "other_formats/hopper.ico": "icon files",
    "other_formats/hopper.psd": "Photoshop files",
    "webp_avif/hopper.avif": "AVIF",
}
REASONS = {
    "bmp/Bad_width.bmp": "too many to decode",
    "cut_or_padded/png_first_half.png": "the image is truncated",
    "gif_broken/decompression_bomb.gif": "too many to decode",
    "not_an_image/lfs_pointer.jpg": "git lfs pull",
    "not_an_image/text.png": "not a valid JPEG, PNG, GIF, BMP, WebP or TIFF image",
    "not_an_image/zero_byte.png": "the file is empty",
    "png_broken/png_decompression_dos.png": "more text than is read",
} | UNSUPPORTED
# Other files of the same image: (file, reference, greatest mean difference in gray levels).
SAME_IMAGES = [
    ("exif_orientation/Landscape_6.jpg", "exif_orientation/Landscape_1.jpg", 5),
    *((f"exif_orientation/Portrait_{number}.jpg", "exif_orientation/Portrait_0.jpg", 4) for number in (2, 4, 6, 8)),
    *((f"exif_orientation/hopper_orientation_{number}.jpg", "wrong_name/bmp_named.png", 5) for number in (3, 5, 8)),
    ("exif_orientation/hopper_orientation_6.webp", "wrong_name/bmp_named.png", 5),
    ("bmp/hopper_rle8.bmp", "wrong_name/bmp_named.png", 5),
    ("gif/hopper.gif", "wrong_name/bmp_named.png", 5),
    ("gif/no_palette_with_transparency_after_rgb.gif", "wrong_name/bmp_named.png", 5),
    ("odd_shapes_modes/cmyk.jpg", "wrong_name/bmp_named.png", 5),
    ("jpeg_valid_unusual/hopper_16bit_qtables.jpg", "wrong_name/bmp_named.png", 12),
    ("cut_or_padded/jpeg_twice.jpg", "wrong_name/.hidden.jpg", 0),
    ("tiff/hopper_float_dpi_2.tif", "wrong_name/bmp_named.png", 0),
    ("wrong_name/double.jpg.png", "wrong_name/bmp_named.png", 0),
    ("wrong_name/gif_named.jpg", "gif/hopper.gif", 0),
    ("wrong_name/png_named.jpg", "wrong_name/bmp_named.png", 0),
    ("wrong_name/tiff_named.jpg", "wrong_name/bmp_named.png", 0),
    ("wrong_name/webp_named.jpg", "wrong_name/bmp_named.png", 4),
    ("webp_avif/flower.webp", "jpeg_valid_unusual/flower.jpg", 4),
    ("webp_avif/iss634.webp", "png_valid_unusual/iss634.apng", 4),
    ("other_formats/sugarshack_no_data.mpo", "jpeg_broken/sugarshack_bad_mpo_header.jpg", 0),
]
# Pixels known from the description of the files: (file, x, y, RGB).
KNOWN = [
    ("odd_shapes_modes/fully_transparent.png", 10, 10, (255, 255, 255)),
    ("odd_shapes_modes/all_black.jpg", 100, 100, (0, 0, 0)),
    ("png_valid_unusual/rgb_trns.png", 32, 32, (255, 255, 255)),
    ("png_valid_unusual/1_trns.png", 32, 32, (255, 255, 255)),
    ("png_valid_unusual/i_trns.png", 32, 32, (255, 255, 255)),
    ("png_valid_unusual/i_trns.png", 0, 0, (0, 0, 0)),
    ("png_valid_unusual/tRNS_null_1x1.png", 0, 0, (255, 255, 255)),
    ("png_valid_unusual/tm3n3p02.png", 0, 0, (255, 255, 255)),
    ("png_valid_unusual/tm3n3p02.png", 31, 31, (0, 0, 255)),
    ("png_valid_unusual/p_16.png", 0, 0, (255, 0, 0)),
    ("png_valid_unusual/pil123rgba.png", 0, 0, (255, 255, 255)),
    ("webp_avif/transparent.webp", 0, 0, (255, 255, 255)),
    ("gif/missing_background.gif", 0, 0, (255, 255, 255)),
    ("gif_broken/oob.gif", 0, 0, (255, 255, 255)),
    ("tiff/multipage.tiff", 5, 5, (0, 128, 0)),
    ("gif/dispose_bgnd.gif", 50, 50, (30, 144, 255)),
]


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def is_read_by_pillow(row: dict[str, str]) -> bool:
    result = row["pillow_13_result"]
    return not result.startswith("open ") and " ; load " not in result


def test_every_file_is_read_or_refused_as_listed(sample: Sample) -> None:
    folder = sample("odd_images")
    rows = manifest(folder)
    refused: dict[str, str] = {}
    for row in rows:
        path = folder / row["file"]
        try:
            image = decode(path)
        except DataError as error:
            refused[row["file"]] = error.message
            assert error.where == str(path)  # noqa: PT017
            assert 5 < len(error.message) < 120  # noqa: PT017
        else:
            assert image.mode == "RGB"
            assert read(path, (32, 48), "crop").shape == (32, 48, 3)
    expected = {row["file"] for row in rows if not is_read_by_pillow(row)} | UNSUPPORTED.keys()
    assert refused.keys() == expected
    assert (len(rows), len(rows) - len(refused), len(refused)) == (COUNT, READ, REFUSED)
    for name, words in REASONS.items():
        assert words in refused[name], name


@pytest.mark.parametrize(("name", "reference", "limit"), SAME_IMAGES)
def test_files_of_the_same_image_have_the_same_pixels(sample: Sample, name: str, reference: str, limit: float) -> None:
    image, expected = decode(sample("odd_images") / name), decode(sample("odd_images") / reference)
    assert image.size == expected.size
    assert np.abs(np.asarray(image, float) - np.asarray(expected, float)).mean() <= limit


@pytest.mark.parametrize(("name", "x", "y", "colour"), KNOWN)
def test_known_pixels(sample: Sample, name: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    assert decode(sample("odd_images") / name).getpixel((x, y)) == colour


def test_orientation_is_also_read_from_xmp_and_tiff(sample: Sample) -> None:
    folder = sample("odd_images") / "exif_orientation"
    with Image.open(folder / "xmp_tags_orientation.png") as stored:
        assert stored.getchannel("A").getextrema() == (255, 255)
        upright = stored.convert("RGB").transpose(Image.Transpose.ROTATE_180)
    assert (np.asarray(decode(folder / "xmp_tags_orientation.png")) == np.asarray(upright)).all()
    text = decode(folder / "g4_orientation_6.tif")
    assert text.size == (590, 88)
    assert 200 < np.asarray(text).mean() < 255


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("png_valid_unusual/basn6a16.png", (150, 240)),
        ("tiff/tiff_16bit_RGB.tiff", (25, 36)),
        ("odd_shapes_modes/la.png", (60, 140)),
        ("odd_shapes_modes/palette_bytes_trns.png", (200, 245)),
    ],
)
def test_brightness_is_neither_lost_nor_saturated(sample: Sample, name: str, mean: tuple[int, int]) -> None:
    pixels = np.asarray(decode(sample("odd_images") / name))
    assert mean[0] < pixels.mean() < mean[1]
    assert pixels.std() > 5


def test_12_bits_are_scaled_by_4095(sample: Sample) -> None:
    file = sample("odd_images") / "tiff/12bit.cropped.tif"
    with Image.open(file) as stored:
        values = np.asarray(stored).astype(float)
    assert (np.asarray(decode(file))[..., 0] == np.rint(values * 255 / 4095)).all()


def test_the_folder_of_all_files_is_scanned_and_decoded(sample: Sample, tmp_path: Path) -> None:
    """Hidden files are skipped; files without an image extension count only if their content is an image."""
    index = scan(sample("odd_images"), classes=["exif_orientation", "not_an_image", "wrong_name", "other_formats"])
    names = {image.path for image in index.images}
    assert "wrong_name/.hidden.jpg" not in names
    assert {"other_formats/frozenpond.mpo", "not_an_image/zero_byte.png"} <= names
    assert set(index.ignored) == {
        "MANIFEST.csv",
        "other_formats/16bit.cropped.jp2",
        "other_formats/hopper.ico",
        "other_formats/hopper.psd",
    }
    assert {Path(name).suffix for name in names} - EXTENSIONS == {".mpo"}
    pixels = open_cache(index, size=(32, 32), mode="pad", folder=tmp_path)
    failed = {image.path for image in index.images if image.sha256 in pixels.failures}
    assert failed == {f"not_an_image/{name}" for name in ("lfs_pointer.jpg", "text.png", "zero_byte.png")}


def test_a_broken_tiff_is_an_error_and_libtiff_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole, "TIFF", compression="tiff_lzw")
    data = whole.getvalue()
    with QUIET_PILLOW, pytest.raises(DECODER_ERRORS) as caught:
        to_rgb(data[:200] + bytes(3000) + data[3200:], None)
    assert reason_of(caught.value).startswith("the image data is broken")
    assert capfd.readouterr().err == ""
