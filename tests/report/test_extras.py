"""The extras of a package, from the metadata of installed packages."""

from pathlib import Path

import pytest

from tlcli.report import extras


def test_an_extra_is_installed_with_all_that_it_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what comes with an extra of another package, and only in the versions that are asked for."""
    packages = {
        "shop": ("1.0", ["tools", "all", "many", "old", "elsewhere"]),
        "tool": ("2.0", ["fast"]),
        "part": ("3.0", []),
    }
    requirements = {
        "shop": [
            "tool",
            'tool[fast]>=1; extra == "tools"',
            'part==3.*; extra == "all"',
            'tool[fast]; extra == "all"',
            'part; extra == "many"',
            *(f'none-{number}; extra == "many"' for number in range(5)),
            'part>=4; extra == "old"',
            'part; extra == "elsewhere" and sys_platform == "none"',
        ],
        "tool": ['engine>=1; extra == "fast"'],
        "part": [],
    }
    for name, (version, offered) in packages.items():
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Provides-Extra: {extra}" for extra in offered]
        lines += [f"Requires-Dist: {requirement}" for requirement in requirements[name]]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extras, "PACKAGE", "shop")
    missing = {
        "all": "not installed (missing: engine)",
        "elsewhere": "nothing more is needed here",
        "many": "not installed (missing: none-0, none-1, none-2 and 2 more)",
        "old": "not installed (missing: part>=4)",
        "tools": "not installed (missing: engine)",
    }
    assert extras.states() == missing
    engine = tmp_path / "engine-1.5.dist-info"
    engine.mkdir()
    (engine / "METADATA").write_text("Metadata-Version: 2.1\nName: engine\nVersion: 1.5\n", encoding="utf-8")
    assert extras.states() == missing | {"all": "part 3.0, tool 2.0", "tools": "tool 2.0"}
    monkeypatch.setattr(extras, "PACKAGE", "no-such-package")
    assert extras.states() == {}
