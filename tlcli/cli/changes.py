"""What changed between two networks, as a table."""

from typing import Any

from rich.text import Text

from tlcli.cli import console
from tlcli.cli.console import count, safe, say

SPARE = ("most changed layer", "parameters", "weights", "statistics")


def tell(found: dict[str, Any]) -> None:
    """A line a group or a layer, what is on one side only, and what it comes to."""
    out, a, b = console.out(), found["a"]["name"], found["b"]["name"]
    out.print(safe(f"from {a} to {b}", "bold"))
    by_layer = "layers" in found
    columns = [*(["group", "layer"] if by_layer else ["group"]), "weights", "parameters", "change", "statistics"]
    columns += [] if by_layer else ["most changed layer"]
    rows = [_row(each, by_layer=by_layer) for each in found["layers" if by_layer else "groups"]]
    spare = [name for name in SPARE if name in columns]
    kept = console.fitting(columns, rows, spare=spare)
    out.print(console.table(columns, rows, left=2 if by_layer else 1, spare=spare))
    if missing := [name for name in columns if name not in kept]:
        say(out, safe(f"Left out for want of room: {', '.join(missing)}. --format csv shows all.", "yellow"))
    for side, name in (("only_a", a), ("only_b", b)):
        if found[side]:
            layers = ", ".join(f"{each['layer']} ({count(each['parameters'])})" for each in found[side][:8])
            more = f" and {len(found[side]) - 8} more layers" if len(found[side]) > 8 else ""
            say(out, safe(f"only in {name}: {layers}{more}"))
    say(
        out,
        "change: ‖B - A‖ / ‖A‖ over the weights of a row; statistics: the same of BatchNorm's mean and variance.",
        "dim",
    )
    _sum_up(found)


def _sum_up(found: dict[str, Any]) -> None:
    out = console.out()
    same = [each["name"] for each in found["groups"] if each["identical"]]
    if found["identical"]:
        say(out, safe(f"All {found['weights']} weights that both have are bit-identical.", "bold"))
        return
    changed = [each["name"] for each in found["groups"] if not each["identical"]]
    say(out, safe(f"bit-identical: {', '.join(same) or 'no group'}", "green" if same else ""))
    say(out, safe(f"changed: {', '.join(changed)}", "bold"))


def _row(each: dict[str, Any], *, by_layer: bool) -> list[str | Text]:
    named = [each["group"], each["name"]] if by_layer else [each["name"]]
    changed = f"{each['changed_weights']} of {each['weights']}" if each["changed_weights"] else str(each["weights"])
    kept = each["statistics_identical"]
    row = [
        *named,
        changed,
        count(each["parameters"]),
        safe("identical", "green") if each["identical"] else safe(amount(each["relative_change"])),
        "–" if kept is None else "identical" if kept else amount(each["relative_change_statistics"]),
    ]
    return row if by_layer else [*row, each["most_changed_layer"] or "–"]


def amount(share: float | None) -> str:
    """A relative change.

    >>> [amount(share) for share in (0.0, 0.123456, 3e-7, None)]
    ['0%', '12.3%', '3e-05%', 'from zero']
    """
    return "from zero" if share is None else f"{100 * share:.3g}%"
