"""Decoding, resizing and the pixel cache."""

import io
import os
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from tlcli.data.pixels import Mode, Pixels, decode, fit, open_cache, read
from tlcli.data.source import FolderIndex, scan
from tlcli.errors import DataError

Sample = Callable[[str], Path]
MODES: tuple[Mode, ...] = ("crop", "pad", "stretch")
SIZE = (24, 32)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, np.full_like(across, 128)], axis=-1).astype(np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of ten images; one content twice, one file broken."""
    for number in range(10):
        folder = tmp_path / "data" / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        gradient(40 + number, 30).save(folder / f"{number}.png")
    (tmp_path / "data/even/copy.png").write_bytes((tmp_path / "data/odd/1.png").read_bytes())
    (tmp_path / "data/odd/broken.png").write_bytes(b"not an image")
    return tmp_path / "data"


def test_crop_takes_the_centre() -> None:
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (10, 0, 30, 20))
    fitted = fit(image, (10, 10), "crop")
    assert fitted.shape == (10, 10, 3)
    assert fitted.dtype == np.uint8
    assert (fitted == (0, 0, 255)).all()


def test_pad_keeps_the_whole_image_on_black() -> None:
    fitted = fit(Image.new("RGB", (40, 20), "red"), (20, 20), "pad")
    assert (fitted[6:14] == (255, 0, 0)).all()
    assert (fitted[:4] == 0).all()
    assert (fitted[16:] == 0).all()
    upright = fit(Image.new("RGB", (20, 40), "red"), (20, 20), "pad")
    assert (upright == fitted.transpose(1, 0, 2)).all()


def test_stretch_keeps_the_whole_image() -> None:
    fitted = fit(gradient(90, 30), (30, 30), "stretch")
    assert fitted[:, 0, 0].max() < 10
    assert fitted[:, -1, 0].min() > 245


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (32, 24)])
def test_every_shape_fits(mode: Mode, shape: tuple[int, int]) -> None:
    assert fit(gradient(*shape), SIZE, mode).shape == (*SIZE, 3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(224, 224), (160, 200)])
def test_fit_agrees_with_the_layer_inside_the_saved_model(sample: Sample, mode: Mode, size: tuple[int, int]) -> None:
    import keras

    layer = keras.layers.Resizing(
        *size, antialias=True, crop_to_aspect_ratio=mode == "crop", pad_to_aspect_ratio=mode == "pad"
    )
    photos = sorted(sample("tf_flowers").glob("val/*/*.jpg"))[::60]
    photos += [sample("odd_images") / "exif_orientation/Landscape_6.jpg"]
    assert len(photos) > 5
    for photo in photos:
        whole = decode(photo)
        expected = np.asarray(layer(np.asarray(whole, dtype=np.float32)))
        assert np.abs(fit(whole, size, mode) - expected).mean() < 0.45
        assert np.abs(read(photo, size, mode) - expected).mean() < 0.45


def test_large_jpegs_are_decoded_no_smaller_than_the_minimum(sample: Sample) -> None:
    photo = sample("odd_images") / "exif_orientation/Landscape_6.jpg"
    assert decode(photo).size == (1800, 1200)
    assert decode(photo, min_size=(448, 448)).size == (900, 600)
    assert decode(photo, min_size=(1300, 100)).size == (1800, 1200)


def test_wide_gray_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    cases: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "16 bit": (ramp.astype(np.uint16), ramp / 257),
        "dark 16 bit": ((ramp / 100).astype(np.uint16), ramp / 25700),
        "32 bit": (ramp.astype(np.int32), ramp / 257),
        "32 bit signed": (ramp.astype(np.int32) - 1000, ramp / 257),
        "float to 1": ((ramp / 65535).astype(np.float32), ramp / 257),
        "float to 255": ((ramp / 257).astype(np.float32), ramp / 257),
        "float of any range": ((ramp * 1000 - 5).astype(np.float32), ramp / 257),
        "flat float": (np.full((16, 16), -3, np.float32), np.zeros((16, 16))),
    }
    for name, (values, expected) in cases.items():
        Image.fromarray(values).save(tmp_path / "wide.tif")
        decoded = np.asarray(decode(tmp_path / "wide.tif"))
        assert np.abs(decoded - expected[..., None]).max() <= 1, name


def test_nan_becomes_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[np.nan, 1.0, np.inf, 0.5]], np.float32)).save(tmp_path / "nan.tif")
    assert np.asarray(decode(tmp_path / "nan.tif"))[0, :, 0].tolist() == [0, 255, 0, 128]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_all_modes_give_the_same_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (16, 16), "white")
    image.paste("black", (0, 0, 8, 16))
    suffix = "tif" if mode == "CMYK" else "png"
    image.convert(mode).save(tmp_path / f"image.{suffix}")
    assert np.abs(np.asarray(decode(tmp_path / f"image.{suffix}")).astype(int) - np.asarray(image)).max() <= 1


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    image.save(tmp_path / "alpha.png")
    assert np.asarray(decode(tmp_path / "alpha.png")).tolist() == [[[200, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_16_bit_rgb_with_a_transparent_colour_is_read(tmp_path: Path) -> None:
    """The transparent colour may have more than 8 bits."""
    out = io.BytesIO()
    PngImagePlugin.putchunk(out, b"IHDR", (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\x10\x02\0\0\0")
    PngImagePlugin.putchunk(out, b"tRNS", b"\xff\xff\x80\x80\0\0")
    PngImagePlugin.putchunk(out, b"IDAT", zlib.compress(b"\0" + b"\xff\xff\0\0\0\0" + b"\0\0\xff\xff\0\0"))
    PngImagePlugin.putchunk(out, b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + out.getvalue())
    assert np.asarray(decode(tmp_path / "deep.png")).tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_errors_name_a_file_that_cannot_be_count_decoded(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        read(tmp_path / name, SIZE, "crop")
    assert caught.value.where == str(tmp_path / name)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]))
    whole = io.BytesIO()
    gradient(20, 15).save(whole, format=kind)
    damaged = bytearray(whole.getvalue())
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)))):
        damaged[position] = value
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        assert read(file, SIZE, "pad").shape == (*SIZE, 3)
    except DataError as error:
        assert error.where == str(file)  # noqa: PT017


def test_pillow_warnings_are_silenced_and_filters_restored(sample: Sample) -> None:
    """In many threads, because the filters belong to the process."""
    file = sample("odd_images") / "jpeg_broken/exif_gps_typeerror.jpg"
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: read(file, SIZE, "crop"), range(64)))) == 64
    assert list(warnings.filters) == before


def count_decoded(index: FolderIndex, folder: Path, mode: Mode = "crop") -> tuple[Pixels, int]:
    """The cache, and the number of images decoded for it."""
    calls: list[int] = []
    pixels = open_cache(index, size=SIZE, mode=mode, folder=folder, progress=lambda done, _: calls.append(done))
    assert calls == list(range(1, len(calls) + 1))
    return pixels, len(calls)


def test_the_cache_holds_every_content_once(data: Path, tmp_path: Path) -> None:
    index = scan(data)
    pixels, decoded = count_decoded(index, tmp_path / "cache")
    assert (len(index.images), decoded, pixels.array.shape) == (12, 11, (11, *SIZE, 3))
    assert (len(pixels.rows), list(pixels.failures.values())) == (
        10,
        ["not a valid JPEG, PNG, GIF, BMP, WebP or TIFF image"],
    )
    good = [image for image in index.images if image.sha256 in pixels.rows]
    rows = pixels.rows_of(good)
    assert rows.dtype == np.int64
    for image, row in zip(good, rows, strict=True):
        assert (pixels.array[row] == read(index.file(image), SIZE, "crop")).all()
    assert not pixels.array.flags.writeable


def test_rows_of_a_failed_image_are_an_error(data: Path, tmp_path: Path) -> None:
    index = scan(data)
    pixels, _ = count_decoded(index, tmp_path / "cache")
    with pytest.raises(DataError, match=r"odd/broken\.png: not a valid JPEG"):
        pixels.rows_of(index.images)


def test_the_cache_depends_on_content_only(data: Path, tmp_path: Path) -> None:
    first, decoded = count_decoded(scan(data), tmp_path / "cache")
    moved = data.rename(tmp_path / "moved")
    (moved / "even").rename(moved / "zzz")
    again, decoded_again = count_decoded(scan(moved), tmp_path / "cache")
    assert (decoded, decoded_again) == (11, 0)
    assert (again.rows, again.failures) == (first.rows, first.failures)
    assert count_decoded(scan(moved), tmp_path / "cache", "pad")[1] == 11
    (moved / "odd/broken.png").unlink()
    assert count_decoded(scan(moved), tmp_path / "cache")[1] == 10


def truncate(path: Path) -> None:
    with (path / "pixels.npy").open("r+b") as file:
        file.truncate(1000)


def extend(path: Path) -> None:
    with (path / "pixels.npy").open("ab") as file:
        file.write(b"x")


def change_shape(path: Path) -> None:
    np.save(path / "pixels.npy", np.zeros((11, *SIZE, 1), np.uint8))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "short": truncate,
    "longer": extend,
    "other shape": change_shape,
    "no header": lambda path: (path / "pixels.npy").write_bytes(b"garbage" * 10_000),
    "no pixels": lambda path: (path / "pixels.npy").unlink(),
    "no copies": lambda path: (path / "copies.npy").unlink(),
    "half of the copies": lambda path: os.truncate(path / "copies.npy", 700),
    "empty pixels": lambda path: (path / "pixels.npy").write_bytes(b""),
    "no rows file": lambda path: (path / "rows.json").unlink(),
    "half a rows file": lambda path: (path / "rows.json").write_text('{"failures": {'),
    "binary rows file": lambda path: (path / "rows.json").write_bytes(b"\xff\xfe\0"),
    "rows file of another kind": lambda path: (path / "rows.json").write_text("[1, 2]"),
    "rows file without failures": lambda path: (path / "rows.json").write_text("{}"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_decoded_again(data: Path, tmp_path: Path, name: str) -> None:
    index = scan(data)
    first, _ = count_decoded(index, tmp_path / "cache")
    expected = np.array(first.array)
    (cache,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    DAMAGES[name](cache)
    again, decoded = count_decoded(index, tmp_path / "cache")
    assert decoded == 11
    assert (again.array == expected).all()


def test_leftovers_of_interrupted_processes_are_removed(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    index = scan(data)
    with pytest.raises(KeyboardInterrupt):
        open_cache(index, size=SIZE, mode="crop", folder=folder, progress=interrupt)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]
    key = next(folder.iterdir()).stem
    for leftover in (f".{key}-123", f".{'0' * 32}-99"):
        (folder / leftover).mkdir()
        (folder / leftover / "pixels.npy").write_bytes(b"half")
    assert count_decoded(index, folder)[1] == 11
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [key]


def interrupt(done: int, of: int) -> None:
    if done == 5:
        raise KeyboardInterrupt


def test_a_file_that_changed_after_the_scan_fails_and_is_decoded_again(data: Path, tmp_path: Path) -> None:
    index = scan(data)
    file = data / "even/0.png"
    before = file.read_bytes()
    file.write_bytes(before + b"more")
    pixels, _ = count_decoded(index, tmp_path / "cache")
    changed = next(image for image in index.images if image.path == "even/0.png")
    assert pixels.failures[changed.sha256] == "the file changed after the folder was scanned"
    file.unlink()
    pixels, decoded = count_decoded(index, tmp_path / "cache")
    assert (decoded, pixels.failures[changed.sha256]) == (11, "cannot be read (No such file or directory)")
    file.write_bytes(before)
    pixels, decoded = count_decoded(index, tmp_path / "cache")
    assert (decoded, changed.sha256 in pixels.rows) == (11, True)
    assert count_decoded(index, tmp_path / "cache")[1] == 0


def test_one_of_several_processes_decodes(data: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tlcli.data.source import scan; "
        "from tlcli.data.pixels import open_cache; calls = []; "
        "p = open_cache(scan(Path(sys.argv[1])), size=(24, 32), mode='crop', folder=Path(sys.argv[2]), "
        "progress=lambda *n: calls.append(n)); print(len(calls), len(p.rows))"
    )
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert outputs == ["0 10", "0 10", "11 10"]


def test_too_little_disk_space_is_an_error_before_decoding(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs 1,320,000,000,011,264 bytes on disk \([\d,]+ free\).*TLCLI_CACHE"):
        open_cache(scan(data), size=(2_000_000, 20_000_000), mode="crop", folder=tmp_path / "cache")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_a_disk_that_fills_up_is_an_error(data: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from tlcli.data.source import scan; "
        "from tlcli.data.pixels import open_cache; from tlcli.errors import DataError\n"
        "index = scan(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: open_cache(index, size=(24, 32), mode='crop', folder=Path(sys.argv[2]))\n"
        "except DataError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "cache")]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "needs 36,608 bytes on disk (File too large)" in output
    assert "TLCLI_CACHE" in output
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_cache_folder_that_is_a_file_is_an_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot be written .*TLCLI_CACHE"):
        open_cache(scan(data), size=SIZE, mode="crop", folder=tmp_path / "cache")
