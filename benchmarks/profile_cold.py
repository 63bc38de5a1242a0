"""Where each second of a cold run goes: imports, decoding, tracing, arithmetic, scoring, report and files.

Fine-tunes by the default recipe with empty caches, for several numbers of images, networks and qualities, and prints a
table: elapsed seconds, CPU seconds of the process, and of its main thread, which runs Python. On a busy machine only
CPU seconds can be compared; processes that decode images are not in them. The images are those of the largest classes
of all folders, each content once. Results are in the JSON file after each run, and a run in it is not repeated.

    python benchmarks/profile_cold.py tf_flowers trashnet --json results-profile-cold.json
    python benchmarks/profile_cold.py tf_flowers --images 200 --networks mobilenet_v2_035 --qualities fast
"""

import argparse
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any

IMAGES = (200, 700, 2500)
QUALITIES = ("fast", "balanced")
CLASSES = 10
# Options of tlcli by name of the network. Random weights take as long as pretrained ones.
NETWORKS = {
    "mobilenet_v2_035": ["mobilenet_v2", "--weights", "random", "--set", "model.arguments.alpha=0.35"],
    "mobilenet_v2": ["mobilenet_v2", "--weights", "random"],
    "efficientnet_lite0": ["efficientnet_lite0"],
    "resnet50": ["resnet50", "--weights", "random"],
}
# What a function of a run does, by module and name. Time within an inner one counts only there.
SECTIONS = {
    "tlcli.workflows.finetune:network_of": "network",
    "tlcli.workflows.finetune:build_backbone": "network",
    "tlcli.workflows.finetune:open_session": "network",
    "tlcli.workflows.finetune:prepare": "decode",
    "tlcli.features.extraction:FeatureExtractor.extract": "features: keys and files",
    "tlcli.features.frozen:FrozenLayers.outputs": "features: arithmetic",
    "tlcli.train.linear_probe:solve": "probe",
    "tlcli.train.phases:run": "steps: the rest",
    "tlcli.train.step:_fit": "tail: arithmetic",
    "tlcli.train.step:score": "scoring: arithmetic",
    "tlcli.train.step:interpolation": "scoring: arithmetic",
    "tlcli.workflows.finetune:record_scores": "scoring: arithmetic",
    "tlcli.report.scores:measure_agreement": "scoring: whole images",
    "tlcli.workflows.finetune:_finish": "files",
    "tlcli.workflows.finetune:session_report": "report",
}
STARTED = "TLCLI_PROFILE_STARTED"


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run_child(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="folders of class folders, also below train/ and val/")
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--qualities", nargs="+", default=QUALITIES, choices=QUALITIES)
    parser.add_argument("--json", type=Path, help="results, read first if they exist")
    args = parser.parse_args()
    results = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else {}
    by_class = find_images(args.data)
    for count in args.images:
        for network in args.networks:
            for quality in args.qualities:
                name = f"{network} {quality} {count}"
                if name not in results:
                    results[name] = measure(by_class, count, network, quality)
                    if args.json:
                        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
                    print(name, json.dumps(results[name]["wall"]), flush=True)
    print_table(results)


def find_images(folders: list[Path]) -> dict[str, list[Path]]:
    """The images of the largest classes, each content once, in random order, by class."""
    by_class: dict[str, dict[str, Path]] = defaultdict(dict)
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
                continue
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            if content not in seen:
                seen.add(content)
                by_class[f"{folder.name}-{path.parent.name}"][content] = path
    largest = sorted(by_class, key=lambda name: len(by_class[name]))[-CLASSES:]
    return {name: random.Random(0).sample(sorted(by_class[name].values()), len(by_class[name])) for name in largest}


def measure(by_class: dict[str, list[Path]], count: int, network: str, quality: str) -> dict[str, Any]:
    """Seconds of one cold run by section: `wall`, `cpu` of the process, and `thread`, CPU of its main thread."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for number in range(count):
            name = list(by_class)[number % len(by_class)]
            source = by_class[name][number // len(by_class)]
            (home / "data" / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, home / "data" / name / f"{number}{source.suffix}")
        command = [sys.executable, __file__, "--child", str(home / "seconds.json"), "finetune", str(home / "data")]
        command += ["--out", str(home / "run"), "--quality", quality, "--quiet", "--model", *NETWORKS[network]]
        environment = os.environ | {"TLCLI_CACHE": str(home / "cache"), STARTED: str(time.time())}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        run = json.loads((home / "run" / "run.json").read_text(encoding="utf-8"))
        steps = [[step["step"], step["epochs"]] for step in run["phases"]]
        return json.loads((home / "seconds.json").read_text(encoding="utf-8")) | {"steps": steps}


def print_table(results: dict[str, Any]) -> None:
    """Seconds by section and run."""
    kinds = ("wall", "cpu", "thread")
    sections = list(dict.fromkeys(section for result in results.values() for section in result["wall"]))
    for name, result in results.items():
        print(f"\n{name}, steps {result['steps']}")
        print(f"  {'':<28} {'elapsed':>9} {'CPU':>9} {'Python':>9}")
        for section in sections:
            if section in result["wall"]:
                print(f"  {section:<28} " + " ".join(f"{result[kind][section]:9.2f}" for kind in kinds))
        print(f"  {'all':<28} " + " ".join(f"{sum(result[kind].values()):9.2f}" for kind in kinds))


def now() -> list[float]:
    """Seconds elapsed, of CPU time of the process, and of CPU time of this thread."""
    return [time.time(), time.process_time(), time.thread_time()]


class Clock:
    """Seconds by section; each moment counts for the innermost one."""

    def __init__(self) -> None:
        self.stack = ["start and imports"]
        self.seconds: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in ("wall", "cpu", "thread")}
        self._last = [float(os.environ[STARTED]), 0.0, 0.0]

    def charge(self) -> None:
        """Add the seconds since the last call to the current section."""
        times = now()
        for seconds, new, old in zip(self.seconds.values(), times, self._last, strict=True):
            seconds[self.stack[-1]] += new - old
        self._last = times

    @contextlib.contextmanager
    def within(self, section: str) -> Iterator[None]:
        """A context that counts for a section."""
        self.charge()
        self.stack.append(section)
        try:
            yield
        finally:
            self.charge()
            self.stack.pop()

    def wrapped(self, work: Callable[..., Any], section: str) -> Callable[..., Any]:
        """The function, within a section."""

        @functools.wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(section):
                return work(*args, **kwargs)

        return timed


def run_child(out: Path, words: list[str]) -> None:
    """Run tlcli with its functions timed, and write the seconds."""
    clock = Clock()
    graphs = Graphs(clock)

    def patch() -> None:
        clock.charge()
        clock.stack[0] = "the rest"
        for place, section in SECTIONS.items():
            module, _, name = place.partition(":")
            owner: Any = importlib.import_module(module)
            *outer, attribute = name.split(".")
            for part in outer:
                owner = getattr(owner, part)
            target = getattr(owner, attribute)
            if hasattr(target, "improve"):
                owner, attribute, target = target, "improve", target.improve
            setattr(owner, attribute, clock.wrapped(target, section))
        graphs.patch()

    sys.meta_path.insert(0, AfterImport("tlcli.workflows.finetune", patch))
    from tlcli.cli.main import main as run_tlcli

    sys.argv = ["tlcli", *words]
    try:
        run_tlcli()
    except SystemExit as end:
        if end.code:
            raise
    clock.charge()
    graphs.separate()
    rounded = {
        kind: {name: round(value, 3) for name, value in seconds.items()} for kind, seconds in clock.seconds.items()
    }
    out.write_text(json.dumps(rounded), encoding="utf-8")


class Graphs:
    """The tracing of TensorFlow functions, and the optimisation of their graphs in the first call."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
        self.depth = 0

    def patch(self) -> None:
        """Time all functions."""
        from tensorflow.python.eager.polymorphic_function.polymorphic_function import Function

        clock, call, trace = self.clock, Function.__call__, Function._initialize

        def timed_call(function: Any, *args: Any, **kwargs: Any) -> Any:
            if self.depth:
                return call(function, *args, **kwargs)
            self.depth += 1
            section, began = clock.stack[-1], now()
            self.traced = [0.0, 0.0, 0.0]
            try:
                return call(function, *args, **kwargs)
            finally:
                self.depth -= 1
                parts = zip(now(), began, self.traced, strict=True)
                self.calls[section, id(function)].append([end - start - traced for end, start, traced in parts])

        def timed_trace(function: Any, *args: Any, **kwargs: Any) -> Any:
            section = clock.stack[-1].partition(":")[0]
            began = now()
            if clock.stack[-1].endswith(": tracing"):
                return trace(function, *args, **kwargs)
            with clock.within(f"{section}: tracing"):
                result = trace(function, *args, **kwargs)
            self.traced = [end - start for end, start in zip(now(), began, strict=True)]
            return result

        Function.__call__, Function._initialize = timed_call, timed_trace

    def separate(self) -> None:
        """Move what the first call of each function took longer than the others to a section of its own."""
        for (section, _), calls in self.calls.items():
            if len(calls) < 2:
                continue
            for kind, index in (("wall", 0), ("cpu", 1), ("thread", 2)):
                first, *rest = (seconds[index] for seconds in calls)
                more = max(0.0, first - statistics.median(rest))
                self.clock.seconds[kind][section] -= more
                self.clock.seconds[kind][f"{section.partition(':')[0]}: graph optimisation"] += more
        for kind in self.clock.seconds.values():
            for section in self.clock.seconds["wall"]:
                kind[section] += 0.0


class AfterImport(MetaPathFinder, Loader):
    """Calls a function after a module has been imported."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self.name, self.then = name, then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's own spec, with its loader in ours."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: Any) -> Any:
        """The default module."""
        return None

    def exec_module(self, module: Any) -> None:
        """Run the module, then the function."""
        self.loader.exec_module(module)
        self.then()


if __name__ == "__main__":
    main()
