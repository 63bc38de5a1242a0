"""The same images in every form that DATA may have: archives, shards and tables."""

import io
import json
import shutil
import tarfile
from pathlib import Path


def pack_all(folder: Path, home: Path) -> dict[str, Path]:
    """Pack a folder of class folders into files below `home`; returns each form by name."""
    for name, form, root, base in (
        ("flat", "zip", folder, "."),
        ("wrapped", "zip", folder.parent, folder.name),
        ("plain", "tar", folder, "."),
        ("squeezed", "gztar", folder, "."),
    ):
        shutil.make_archive(str(home / name), form, root, base)
    return {
        "zip": home / "flat.zip",
        "wrapped zip": home / "wrapped.zip",
        "tar": home / "plain.tar",
        "tar.gz": home / "squeezed.tar.gz",
        "shards": write_shards(folder, home / "shards"),
    }


def write_shards(folder: Path, home: Path) -> Path:
    """Two WebDataset shards, one with classes as `.cls`, one as `.json`."""
    home.mkdir()
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    for shard in range(2):
        with tarfile.open(home / f"part-{shard:04}.tar", "w") as tar:
            for number, image in enumerate(images[shard::2]):
                label = image.parent.name
                ending, text = ("json", json.dumps({"label": label})) if shard else ("cls", label)
                add(tar, f"{number:05}{image.suffix}", image.read_bytes())
                add(tar, f"{number:05}.{ending}", text.encode())
    return home


def write_table(folder: Path, file: Path) -> Path:
    """A Parquet table as Hugging Face writes it: records of bytes and path, and numbered classes with their names."""
    import pyarrow as pa
    from pyarrow import parquet

    names = sorted(path.name for path in folder.iterdir())
    images = sorted(path for path in folder.rglob("*") if path.is_file())
    table = pa.table(
        {
            "image": [{"bytes": image.read_bytes(), "path": image.name} for image in images],
            "label": [names.index(image.parent.name) for image in images],
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    described = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": described}), file, row_group_size=7)
    return file


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def odd_names(images: Path, folder: Path) -> Path:
    """Class folders with names that addresses, pages and patterns would take for something else."""
    files = iter(sorted(path for path in images.rglob("*") if path.is_file()))
    for name in ("a b", "50%", "<b>ü", "x%20y", "q?z", "h#i", "plus+", "s3:", "[x]*"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            shutil.copy(next(files), folder / name / f"{name} {number}.bmp")
    return folder
