"""Without the extra, `tlcli serve` is one error."""

import sys
from collections.abc import Callable

import pytest


@pytest.mark.parametrize("library", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_library_names_the_extra(
    library: str, finished: tuple, tlcli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastapi", "uvicorn", "python_multipart"):
        monkeypatch.setitem(sys.modules, name, None if name == library else sys)
    result = tlcli("serve", finished[0])
    assert result.code == 2
    assert "pip install 'tlcli[serve]'" in result.stderr
