"""How fast `tlcli check` looks at images, beside plain decoding with Pillow in as many processes.

python benchmarks/check.py photos/ [more/ …]           # images a second, best of three
python benchmarks/check.py --files 100000              # the greatest memory for so many small files
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import tlcli
from tlcli.data import workers
from tlcli.data.layout import files_under
from tlcli.quality.check import check_images
from tlcli.quality.images import KILLED, read_files

SIZE = (224, 224)
WORKERS = os.cpu_count() or 1


def plain(files: list[str]) -> int:
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB")
    return len(files)


def decoded_plainly(files: list[str]) -> None:
    batches = [files[start : start + 32] for start in range(0, len(files), 32)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("forkserver")) as pool:
        assert sum(pool.map(plain, batches)) == len(files)


def looked_at(files: list[str]) -> None:
    assert sum(1 for _ in workers.run(workers.Job(partial(read_files, at_least=(448, 448)), KILLED), files)) == len(
        files
    )


def best(work: Callable[[], object], times: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    seconds = []
    for _ in range(times):
        began = clock()
        work()
        seconds.append(clock() - began)
    return min(seconds)


def speed(data: Path, copies: int) -> None:
    """Every file several times, so that starting processes does not count; sides by turns, since machines are noisy."""
    files = [str(path) for path in files_under(data)[0]] * copies
    looked_at(files)
    slow = best(lambda: decoded_plainly(files))
    own = best(lambda: looked_at(files))
    whole = best(lambda: check_images(data, SIZE, progress=lambda *_: None), 1)
    few = files[:: max(len(files) // 400, 1)]
    alone = [best(work, 5, time.process_time) for work in (lambda: plain(few), lambda: read_files(few, (448, 448)))]
    rates = [len(few) / seconds for seconds in alone]
    print(
        f"{data.name}: {len(files)} files, {WORKERS} processes: Pillow {len(files) / slow:.0f}/s,"
        f" check {len(files) / own:.0f}/s, ratio {slow / own:.2f};"
        f" by seconds of one core: {rates[0]:.0f}/s and {rates[1]:.0f}/s,"
        f" ratio {rates[1] / rates[0]:.2f}; once, all of it: {whole:.1f} s"
    )


def memory(count: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            folder = Path(place, f"class{number % 10}")
            folder.mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((48, 48)).save(folder / f"{number:06}.png", compress_level=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        workers_of_all: list[int] = []

        def look(_stage: str, done: int, _total: int) -> None:
            if done % 5000 == 0:
                workers_of_all.append(max(_below(os.getpid()), default=0))

        found = check_images(Path(place), SIZE, progress=look)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        worker = max(workers_of_all)
        print(
            f"{len(found.index.images)} images in {time.perf_counter() - began:.0f} s; greatest memory"
            f" {after / 1e3:.0f} MB (before: {before / 1e3:.0f} MB), of a worker {worker / 1e3:.0f} MB;"
            f" {[(finding.kind, finding.count) for finding in found.findings]}"
        )


def _below(parent: int) -> list[int]:
    """The greatest memory, kilobytes, of each process that was begun below one. They are children of a fork server."""
    told = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        # A process may end just now.
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            told[int(status.parent.name)] = int(fields["PPid"]), int(fields.get("VmHWM", "0").split()[0])
    family = {parent}
    while more := {pid for pid, (above, _) in told.items() if above in family} - family:
        family |= more
    return [told[pid][1] for pid in family if pid != parent and pid in told]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--copies", type=int, default=4)
    asked = parser.parse_args()
    for data in asked.data:
        speed(data, asked.copies)
    if asked.files:
        memory(asked.files)


if __name__ == "__main__":
    tlcli.is_program = True
    main()
