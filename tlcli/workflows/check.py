"""Check: look for faulty images; write a page of findings and a list of images to leave out."""

from collections.abc import Callable
from dataclasses import dataclass

from tlcli.quality import quarantine
from tlcli.quality.check import CheckRequest, CheckResult, check_images, check_request

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Checked:
    """The result of a check, and how to train without the faulty images.

    Attributes:
        result: The findings.
        left_out: Images to leave out, path to reason.
        command: The command that trains without them; None without a list, or if training would be refused.
        obstacle: Why training would be refused even without them; None if it would not.
    """

    result: CheckResult
    left_out: dict[str, str]
    command: str | None
    obstacle: str | None


def check(request: CheckRequest, *, progress: Progress) -> Checked:
    """Check every file of DATA and write the requested page and list. Nothing in DATA changes.

    Args:
        request: The request.
        progress: Receives (stage, done, total).

    Raises:
        TlcliError: If an output file cannot be written, or DATA has nothing to check.
    """
    size = check_request(request)
    result = check_images(request.data, size, exclude=request.exclude, progress=progress)
    left_out = quarantine.entries(result.findings, also=request.exclude)
    obstacle = quarantine.obstacle(result.findings, result.index, left_out)
    command = None if obstacle else quarantine.command(request, index=result.index, left_out=left_out)
    if request.html is not None:
        from tlcli.report.pages import write_check_page

        write_check_page(result, request.html)
    if request.quarantine is not None:
        quarantine.write_list(request.quarantine, left_out, data=request.data, command=command)
    return Checked(result, left_out, command, obstacle)
