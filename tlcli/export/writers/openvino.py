"""OpenVINO: an `.xml` file with the network, and a `.bin` file with the weights."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tlcli.evaluate.runtimes.exported import KEY
from tlcli.evaluate.runtimes.openvino import import_openvino
from tlcli.export.writers.job import Job


def write(job: Job, file: Path) -> None:
    """Write an `.xml` and a `.bin` file. The runtime information of the network holds the description."""
    openvino = import_openvino()
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.xml"
        job.model.export(str(plain), format="openvino", verbose=False)
        network = openvino.Core().read_model(str(plain))
        network.set_rt_info(job.about, KEY)
        openvino.save_model(network, str(file), compress_to_fp16=job.quantize == "float16")
