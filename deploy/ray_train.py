"""One training over several nodes of a Ray cluster, by Ray Train's JAX trainer. Needs tlcli[jax,ray] on all nodes.

python ray_train.py --workers 2 --out /shared/runs/first /shared/photos [--recipe R] [--set KEY=VALUE]…

Every worker is one host of `tlcli finetune` on several hosts: each needs the images at this path; the first one writes
the run folder. Workers have a GPU each with --gpu, otherwise a core. tlcli joins them by what Ray Train has set up.
"""

import argparse
import os
import sys
import tempfile
from typing import Any


def train(options: dict[str, Any]) -> None:
    """In a worker: fine-tune as one of several hosts. Ray Train has connected JAX already."""
    import jax

    hosts = {"JOB_ADDRESSES": "ray:1", "NUM_PROCESSES": jax.process_count(), "PROCESS_ID": jax.process_index()}
    os.environ.update({f"KERAS_DISTRIBUTION_{name}": str(value) for name, value in hosts.items()})
    from pathlib import Path

    from tlcli.train.events import ignore
    from tlcli.workflows.finetune import finetune
    from tlcli.workflows.request import Request, check_request
    from tlcli.workflows.several_hosts import as_host, check_hosts

    asked = Request(
        recipe=options["recipe"],
        settings=tuple(options["set"]),
        options={"data.path": options["data"]},
        out=Path(options["out"]),
    )
    with as_host(asked) as request:
        resolved = check_request(request)
        check_hosts(request, resolved.recipe)
        finetune(request, resolved, ignore)


def main() -> None:
    """Read the options and run the trainer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--out", required=True)
    parser.add_argument("--recipe", default="unfreeze-until-plateau")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--address", default="auto")
    options = parser.parse_args()
    # Before Ray is imported. The trainer exists in version 2 of Ray Train only.
    os.environ.update({"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"})
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxTrainer
    from ray.train.v2.jax.config import JaxConfig

    ray.init(address=options.address)
    variables = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cuda" if options.gpu else "cpu"}
    paths = {name: os.path.abspath(getattr(options, name)) for name in ("data", "out")}
    with tempfile.TemporaryDirectory() as storage:
        JaxTrainer(
            train,
            train_loop_config={**vars(options), **paths},
            # With neither switch, the trainer connects nothing. With this one it also connects processors, if
            # JAX_PLATFORMS says so (Ray 2.60).
            jax_config=JaxConfig(use_gpu=True),
            scaling_config=ScalingConfig(
                num_workers=options.workers, resources_per_worker={"GPU": 1} if options.gpu else {"CPU": 1}
            ),
            run_config=RunConfig(storage_path=storage, worker_runtime_env={"env_vars": variables}),
        ).fit()


if __name__ == "__main__":
    sys.exit(main())
