"""Files that a user names for results: what can be told of them before the work."""

import tempfile
from pathlib import Path

from tlcli.errors import OutputError


def require_new_file(path: Path, option: str, *, outside: Path | None = None) -> None:
    """Find out before the work what would otherwise be told after it.

    Args:
        path: The file that is to be written.
        option: What named it, for messages.
        outside: A folder that it must not lie in: that of the images.

    Raises:
        OutputError: If it exists, lies in there, or cannot be written.
    """
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise OutputError("would lie among the images", where=str(path), hint=f"Choose a {option} outside {outside}.")
    if path.is_dir():
        raise OutputError("is a folder, a file is expected", where=str(path), hint=f"Name a file for {option}.")
    if path.exists():
        raise OutputError("the file already exists", where=str(path), hint="Name another file, or remove this one.")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise OutputError(
            "there is no such folder", where=str(path.parent), hint=f"Make it, or choose another {option}."
        )
    try:
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        message = f"nothing can be written there ({error.strerror})"
        raise OutputError(message, where=str(path.parent), hint=f"Choose another {option}.") from error
