"""`tlcli evaluate`."""

from pathlib import Path

import click

from tlcli.cli.options import examples, global_options, json_option, trust_option


@click.command(epilog=examples("evaluate runs/first", "evaluate runs/first other-photos/ --json"))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@json_option
@trust_option
@global_options
def evaluate(run: Path, data: Path | None, as_json: bool) -> None:
    """Score the classifier of a run.

    Uses the test images of RUN, or those in DATA, a folder of class folders or a manifest, which need not have all
    classes.
    """
    from tlcli.cli import console, progress, tables
    from tlcli.evaluate.runtimes import require_model

    require_model(run)
    with console.loading_keras():
        from tlcli.workflows import evaluate as workflow
    with progress.bar("scoring") as advance:
        evaluation = workflow.evaluate(run, data, progress=advance)
    if evaluation.trained:
        total = evaluation.scores.count
        text = f"warning: the run was trained on {evaluation.trained} of these {total} images: the scores are too high"
        console.print_text(console.err(), console.safe(text, "yellow"))
    if as_json:
        console.print_json(evaluation.to_json())
        return
    tables.print_scores(evaluation.to_json(), evaluation.title)
