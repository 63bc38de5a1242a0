"""Patches of the two photographs that scikit-learn ships, sorted by what they show: images of `tlcli demo`."""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from tlcli.paths import replacing

# Height and width of a patch of a photograph, pixels.
PATCH = 40
# Where the photographs show what, counted in patches: photograph, left, top, columns, rows.
REGIONS = {
    "sky": ((0, 8, 0, 6, 4), (0, 0, 0, 4, 2)),
    "pagoda": ((0, 3, 3, 5, 5),),
    "trees": ((0, 9, 8, 7, 2), (0, 0, 9, 5, 1), (0, 14, 5, 2, 3)),
    "flower": ((1, 5, 3, 5, 5),),
    "leaves": ((1, 0, 2, 4, 6),),
}


def write_patches(folder: Path) -> Path:
    """Write patches of the two photographs of scikit-learn as 40 × 40 PNG files in `folder/<what>/`.

    The photographs are `china.jpg` by danielbuechele and `flower.jpg` by vultilion, CC BY 2.0. Existing files stay.
    """
    photographs = load_sample_images().images
    for name, boxes in REGIONS.items():
        for photograph, left, top, columns, rows in boxes:
            for row in range(top, top + rows):
                for column in range(left, left + columns):
                    path = folder / name / f"{photograph}-{row:02}-{column:02}.png"
                    y, x = row * PATCH, column * PATCH
                    if not path.exists():
                        with replacing(path) as temporary:
                            patch = Image.fromarray(photographs[photograph][y : y + PATCH, x : x + PATCH])
                            patch.save(temporary, format="PNG")
    return folder
