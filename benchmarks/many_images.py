"""Write many small JPEGs in class folders, for measuring large runs: python benchmarks/many_images.py FOLDER COUNT.

The images are synthetic: two colours, stripes and noise, which a network can learn. Each is a file of its own content.
"""

import argparse
import io
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red", "striped")
PER_TASK = 1000


def write(start: int, folder: Path, count: int, side: int) -> None:
    random = np.random.default_rng([start, side])
    for number in range(start, min(start + PER_TASK, count)):
        label = number % len(CLASSES)
        image = random.normal(110, 40, (side, side, 3))
        image[..., label % 3] += 12
        if label == 3:
            image[:: random.integers(2, 6)] += 30
        content = io.BytesIO()
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(content, "JPEG", quality=75)
        (folder / CLASSES[label] / f"{number:09}.jpg").write_bytes(content.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--side", type=int, default=64, help="height and width, pixels")
    options = parser.parse_args()
    for name in CLASSES:
        (options.folder / name).mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(
            pool.map(
                partial(write, folder=options.folder, count=options.count, side=options.side),
                range(0, options.count, PER_TASK),
            )
        )


if __name__ == "__main__":
    main()
