"""Completion in real shells: commands, networks, recipes and files, without loading Keras."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent


def ask(shell: str, words: str, folder: Path) -> list[str]:
    """What the completion of tlcli offers a shell for the last of the words, as its script asks for it."""
    variables = {"_TLCLI_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    if shell == "fish":
        variables["COMP_CWORD"] = words.rpartition(" ")[2]
    result = subprocess.run(
        [PROGRAM / "tlcli"], env=os.environ | variables, cwd=folder, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return result.stdout.split()


def test_a_missing_shell_is_one_line(tlcli: Callable) -> None:
    result = tlcli("completion")
    assert result.code == 2
    (line,) = result.stderr.splitlines()
    assert "Choose from: bash, zsh, fish" in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid_in_its_shell(shell: str, tlcli: Callable, tmp_path: Path) -> None:
    result = tlcli("completion", shell)
    assert (result.code, result.stderr) == (0, "")
    assert f"_TLCLI_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; only the text of its script was tested")
    script = tmp_path / "script"
    script.write_text(result.stdout, encoding="utf-8")
    subprocess.run([shell, "-n", script], check=True)


# Words that are typed, and what they become.
TYPED = {
    "recipe show two": "recipe show two-phase",
    "finetune --model mobilenet_syn": "finetune --model mobilenet_synthetic",
    "inspect ./ne": "inspect ./net.keras",
}


def variables() -> dict[str, str]:
    return os.environ | {"PATH": f"{PROGRAM}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}


def test_fish_completes_with_the_script(tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (tmp_path / "net.keras").touch()
    lines = " ".join(f'"tlcli {words}"' for words in TYPED)
    code = f"tlcli completion fish | source; for line in {lines}; complete -C $line; end"
    result = subprocess.run(
        ["fish", "--no-config", "-c", code],
        env=variables() | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [words.rpartition(" ")[2] for words in TYPED.values()]


def test_zsh_completes_with_the_script(tmp_path: Path) -> None:
    """Presses Tab in an interactive zsh, then turns the line into an echo."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "net.keras").touch()
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execvpe("zsh", ["zsh", "-f", "-i"], variables())
    try:
        start = 'autoload -U compinit; compinit -u -d ./dump; eval "$(tlcli completion zsh)"; bindkey -e; echo rea""dy'
        os.write(terminal, f"{start}\n".encode())
        assert "\nready\r" in read_until(terminal, "\nready\r")
        for typed, completed in TYPED.items():
            # Control-A goes to the start of the line.
            os.write(terminal, f'tlcli {typed}\t\x01echo do""ne \n'.encode())
            answer = f"\ndone tlcli {completed}\r"
            assert answer in read_until(terminal, answer)
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def read_until(terminal: int, text: str) -> str:
    """What a terminal shows until it shows the text, or for a minute."""
    seen, end = b"", time.monotonic() + 60
    while text.encode() not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 10_000)
    return seen.decode(errors="replace")


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    lines = """
        eval "$(tlcli completion bash)"
        COMP_WORDS=(tlcli finetune --model mobilenet_syn); COMP_CWORD=3
        _tlcli_completion tlcli; echo "${COMPREPLY[@]}"
        COMPREPLY=(); COMP_WORDS=(tlcli recipe show two); COMP_CWORD=3
        _tlcli_completion tlcli; echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{PROGRAM}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", lines], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == ["mobilenet_synthetic", "two-phase"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_names_come_before_files(shell: str, tmp_path: Path) -> None:
    assert "mobilenet_synthetic" in " ".join(ask(shell, "tlcli probe photos -m mobilenet_syn", tmp_path))
    assert "file" in " ".join(ask(shell, "tlcli inspect ./net", tmp_path))
    assert "head-only,two-phase" in " ".join(ask(shell, "tlcli finetune --compare head-only,two", tmp_path))
    assert "completion" in " ".join(ask(shell, "tlcli compl", tmp_path))


def test_completion_loads_neither_keras_nor_numpy() -> None:
    code = """
import sys
from tlcli.cli.main import cli
from tlcli.cli.options import complete_model, complete_recipe
assert len(complete_model(None, None, "")) > 100 and len(complete_recipe(None, None, "")) == 17
sys.exit(bool({"keras", "tensorflow", "numpy", "rich"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_shell_is_one_error(tlcli: Callable) -> None:
    result = tlcli("completion", "tcsh")
    assert (result.code, result.stdout) == (2, "")
    assert "'bash', 'zsh', 'fish'" in result.stderr
