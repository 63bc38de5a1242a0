"""What a run costs at other numbers of images on a cluster, from measured rates. Pure arithmetic; see docs/scale.md."""

from dataclasses import asdict, dataclass
from typing import Any

from tlcli.features.placement import ImageCounts, count_images
from tlcli.train.estimate import stored_bytes, trained_flops
from tlcli.train.plan import TrainPlan

# The numbers of images of the table.
IMAGES = tuple(10**power for power in range(4, 9))
# Bytes of the small grey copy of an image in the pixel cache, by which near-duplicates are found.
COPY_BYTES = 32 * 32


@dataclass(frozen=True)
class Rates:
    """What was measured, on this machine and on the cluster.

    Attributes:
        base_s: Seconds until the first image is read, and to write the run folder.
        start_s: Seconds until the workers of a pass have started.
        list_per_s: Images a second that this machine lists, hashes, splits and compares.
        decode_per_s: Images a second that all workers decode.
        frozen_per_s: Images a second that go through the frozen layers on all workers.
        probe_per_s: Images of all splits a second for which the head is solved, on those for training.
        trained_flops_per_s: Multiply-adds a second of training, on this machine.
        bytes_per_s: Bytes a second that this machine sends to a worker and gets back.
    """

    base_s: float
    start_s: float
    list_per_s: float
    decode_per_s: float
    frozen_per_s: float
    probe_per_s: float
    trained_flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Sizes:
    """Bytes of an image: its file, its decoded pixels, and its stored features."""

    file: float
    pixels: int
    features: int


@dataclass(frozen=True)
class Cost:
    """The cost of a run.

    Attributes:
        images: Number of images.
        seconds: Seconds of each stage.
        read_bytes: Bytes read from the disk of this machine.
        written_bytes: Bytes written to it.
        device_hours: Hours, times the cores (or GPUs) that the cluster holds for the run.
    """

    images: int
    seconds: dict[str, float]
    read_bytes: float
    written_bytes: float
    device_hours: float

    @property
    def total_s(self) -> float:
        """Seconds of all stages together."""
        return sum(self.seconds.values())

    def to_json(self) -> dict[str, Any]:
        """An element of `scale.costs` in `tlcli plan --json`."""
        rounded = {name: round(seconds, 2) for name, seconds in self.seconds.items()}
        return {**asdict(self), "seconds": {**rounded, "total": round(self.total_s, 2)}}


def cost_at(images: int, rates: Rates, sizes: Sizes, *, trained_flops: float, devices: int) -> Cost:
    """The cost of a run on a number of images.

    Args:
        images: Number of images, in all splits together.
        rates: What was measured.
        sizes: Bytes of an image.
        trained_flops: Multiply-adds of all phases.
        devices: Cores, or GPUs, of the cluster.
    """
    # Blocks are sent while others are computed, so the slower of both counts.
    sent = sizes.file + sizes.pixels + COPY_BYTES
    passed = sizes.pixels + sizes.features
    seconds = {
        "base": rates.base_s,
        "list": images / rates.list_per_s,
        "decode": rates.start_s + images * max(1 / rates.decode_per_s, sent / rates.bytes_per_s),
        "frozen": rates.start_s + images * max(1 / rates.frozen_per_s, passed / rates.bytes_per_s),
        "head": images / rates.probe_per_s,
        "trained": trained_flops / rates.trained_flops_per_s,
    }
    return Cost(
        images,
        seconds,
        # A file is hashed, and decoded from its bytes later.
        images * (2 * sizes.file + sizes.pixels + sizes.features),
        images * (sizes.pixels + COPY_BYTES + sizes.features),
        sum(seconds.values()) * devices / 3600,
    )


def most_workers(workers: int, rates: Rates, sizes: Sizes) -> int:
    """The number of workers from which a pass waits for the connection of this machine.

    >>> rates = Rates(0, 0, 1, 1e9, 100, 1, 1, 1e6)
    >>> most_workers(2, rates, Sizes(0, 800, 200))
    20
    """
    busy_share = rates.frozen_per_s * (sizes.pixels + sizes.features) / rates.bytes_per_s
    return max(1, int(workers / busy_share))


def costs(plan: TrainPlan, file_bytes: float, rates: Rates, *, devices: int) -> tuple[Cost, ...]:
    """The costs of a plan for all numbers of images.

    Args:
        plan: The plan. Its splits keep their shares.
        file_bytes: Mean size of a file.
        rates: What was measured.
        devices: Cores, or GPUs, of the cluster.
    """
    return tuple(
        cost_at(
            images,
            rates,
            sizes_at(plan, images, file_bytes),
            trained_flops=trained_flops(plan.recipe, plan.groups, _counts(plan, images), _share(plan, images, "val")),
            devices=devices,
        )
        for images in IMAGES
    )


def sizes_at(plan: TrainPlan, images: int, file_bytes: float) -> Sizes:
    """Bytes of an image if there are so many. Where features exceed the cache budget, fewer are stored."""
    stored = stored_bytes(plan.recipe, plan.groups, _counts(plan, images))
    return Sizes(file_bytes, 3 * plan.size[0] * plan.size[1], stored // images)


def _counts(plan: TrainPlan, images: int) -> ImageCounts:
    return ImageCounts(images, _share(plan, images, "train"))


def _share(plan: TrainPlan, images: int, split: str) -> int:
    """Number of images in a split if there are so many in all."""
    return images * len(getattr(plan.splits, split)) // count_images(plan.splits).images
