"""The extras of tlcli, `pip install 'tlcli[EXTRA]'`, and which of them are installed."""

from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement

PACKAGE = "tlcli"
# Packages of an extra that are named.
SHOWN = 3


def states() -> dict[str, str]:
    """Each extra of the package, and the versions of what it adds or what is missing. Empty if tlcli is not installed.

    An extra is installed if all its requirements are, also those that come with extras of other packages.
    """
    try:
        extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    return {extra: _state(extra) for extra in sorted(extras)}


def _state(extra: str) -> str:
    wanted = _added(PACKAGE, extra)
    missing = [name for requirement in wanted for name in _missing(requirement, frozenset())]
    if missing:
        return f"not installed (missing: {_listed(missing)})"
    versions = [f"{requirement.name} {metadata.version(requirement.name)}" for requirement in wanted]
    return _listed(versions) or "nothing more is needed here"


def _added(package: str, extra: str) -> list[Requirement]:
    """What an extra of a package requires here beside what the package always does."""
    found = [Requirement(text) for text in metadata.requires(package) or []]
    return [one for one in found if one.marker and _is_met(one, extra) and not _is_met(one, "")]


def _is_met(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _missing(requirement: Requirement, seen: frozenset[str]) -> list[str]:
    """A package that is missing, or here in a wrong version, or those that its extras miss. `seen`: what led here."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [requirement.name]
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{requirement.name}{requirement.specifier}"]
    if str(requirement) in seen:
        return []
    inner = [one for extra in sorted(requirement.extras) for one in _added(requirement.name, extra)]
    return [name for one in inner for name in _missing(one, seen | {str(requirement)})]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return f"{', '.join(names[:SHOWN])} and {more} more" if more > 0 else ", ".join(names)
