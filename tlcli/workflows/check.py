"""Check: what may be wrong with the images, as findings, a page and a list of images to leave out."""

from collections.abc import Callable
from dataclasses import dataclass

from tlcli.quality import quarantine
from tlcli.quality.check import CheckRequest, CheckResult, check_images, check_request

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Checked:
    """The result of a check and what follows from it.

    Attributes:
        result: The findings.
        left_out: Images to leave out, path to reason.
        command: How to train without them; None if no list was asked for or training would be refused.
        obstacle: Why training would be refused even without them; None if it would not.
    """

    result: CheckResult
    left_out: dict[str, str]
    command: str | None
    obstacle: str | None


def check(request: CheckRequest, *, progress: Progress) -> Checked:
    """Check every file of DATA and write what was asked for. Nothing in DATA is changed.

    Args:
        request: What the user asked for.
        progress: Receives (stage, done, total).

    Raises:
        TlcliError: If something is wrong with the request, or DATA has nothing to check.
    """
    size = check_request(request)
    result = check_images(request.data, size, exclude=request.exclude, progress=progress)
    left_out = quarantine.entries(result.findings, also=request.exclude)
    obstacle = quarantine.hindrance(result.findings, result.index, left_out)
    command = None if obstacle else quarantine.command(request, index=result.index, gone=left_out)
    if request.html is not None:
        from tlcli.report.pages import write_check_page

        write_check_page(result, request.html)
    if request.quarantine is not None:
        quarantine.write_list(request.quarantine, left_out, data=request.data, use=command)
    return Checked(result, left_out, command, obstacle)
