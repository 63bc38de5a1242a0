"""Compare the speed of `tlcli check` with plain decoding by Pillow in as many processes, and measure its memory.

python benchmarks/check.py photos/ [more/ …]           # images per second, best of three runs
python benchmarks/check.py --files 100000              # peak memory for this many small files
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


def decode_plainly(files: list[Path]) -> int:
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB")
    return len(files)


def decode_in_processes(files: list[Path]) -> None:
    batches = [files[start : start + 32] for start in range(0, len(files), 32)]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("forkserver")) as pool:
        assert sum(pool.map(decode_plainly, batches)) == len(files)


def check_in_processes(files: list[Path]) -> None:
    job = workers.Job(partial(read_files, min_size=(448, 448)), KILLED)
    assert sum(1 for _ in workers.run(job, files)) == len(files)


def best_time(work: Callable[[], object], times: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    seconds = []
    for _ in range(times):
        started = clock()
        work()
        seconds.append(clock() - started)
    return min(seconds)


def measure_speed(data: Path, copies: int) -> None:
    """Print the speed of both, on several copies of every file, so that the start of processes does not count."""
    files = files_under(data)[0] * copies
    check_in_processes(files)
    pillow_s = best_time(lambda: decode_in_processes(files))
    check_s = best_time(lambda: check_in_processes(files))
    whole_s = best_time(lambda: check_images(data, SIZE, progress=lambda *_: None), 1)
    sample = files[:: max(len(files) // 400, 1)]
    jobs = (lambda: decode_plainly(sample), lambda: read_files(sample, (448, 448)))
    rates = [len(sample) / best_time(job, 5, time.process_time) for job in jobs]
    print(
        f"{data.name}: {len(files)} files, {WORKERS} processes: Pillow {len(files) / pillow_s:.0f}/s,"
        f" check {len(files) / check_s:.0f}/s, ratio {pillow_s / check_s:.2f};"
        f" per CPU second: {rates[0]:.0f}/s and {rates[1]:.0f}/s, ratio {rates[1] / rates[0]:.2f};"
        f" one complete check: {whole_s:.1f} s"
    )


def measure_memory(count: int) -> None:
    """Print the peak memory of a check of `count` small images."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as home:
        for number in range(count):
            folder = Path(home, f"class{number % 10}")
            folder.mkdir(exist_ok=True)
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((48, 48)).save(folder / f"{number:06}.png", compress_level=1)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        worker_peaks_kb: list[int] = []

        def sample_workers(_stage: str, done: int, _total: int) -> None:
            if done % 5000 == 0:
                worker_peaks_kb.append(max(_descendant_peaks_kb(os.getpid()), default=0))

        result = check_images(Path(home), SIZE, progress=sample_workers)
        after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{len(result.index.images)} images in {time.perf_counter() - started:.0f} s; peak memory"
            f" {after_kb / 1e3:.0f} MB (before: {before_kb / 1e3:.0f} MB), worker {max(worker_peaks_kb) / 1e3:.0f} MB;"
            f" {[(finding.kind, finding.count) for finding in result.findings]}"
        )


def _descendant_peaks_kb(parent: int) -> list[int]:
    """Peak memory of every descendant of a process, kilobytes. Workers are children of a fork server."""
    processes = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        # A process may end at any moment.
        with suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            processes[int(status.parent.name)] = int(fields["PPid"]), int(fields.get("VmHWM", "0").split()[0])
    family = {parent}
    while children := {pid for pid, (parent_pid, _) in processes.items() if parent_pid in family} - family:
        family |= children
    return [processes[pid][1] for pid in family if pid != parent and pid in processes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, help="folders of images to measure the speed on")
    parser.add_argument("--files", type=int, default=0, help="number of images to measure the memory on")
    parser.add_argument("--copies", type=int, default=4, help="copies of every file for the speed")
    args = parser.parse_args()
    for data in args.data:
        measure_speed(data, args.copies)
    if args.files:
        measure_memory(args.files)


if __name__ == "__main__":
    tlcli.is_program = True
    main()
