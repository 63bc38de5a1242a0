"""`tlcli serve`."""

from collections.abc import Sequence
from pathlib import Path

import click

from tlcli.cli.options import RUN, examples, global_options, trust_option
from tlcli.text import printable


@click.command(epilog=examples("serve runs/first", "serve runs/first --port 9000"))
@click.argument("run", metavar="RUN|BUNDLE", type=RUN)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for a free port.")
@click.option("--max-bytes", type=click.IntRange(1), default=20_000_000, show_default=True, help="Size of an image.")
@click.option("--max-pixels", type=click.IntRange(1), default=50_000_000, show_default=True, help="Pixels of an image.")
@click.option("--max-waiting", type=click.IntRange(1), default=256, show_default=True, help="Requests at a time.")
@click.option("--timeout", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds for a request.")
@trust_option
@global_options
def serve(run: Path, host: str, port: int, max_bytes: int, max_pixels: int, max_waiting: int, timeout: float) -> None:
    """Classify images over HTTP, and on a page of the browser.

    RUN is a run folder, a bundle or a classifier file. Only this computer is served unless --host says otherwise.
    """
    from tlcli.cli import console
    from tlcli.evaluate.runtimes import require_model

    require_model(run)
    with console.loading_keras():
        from tlcli.serve.predictor import Limits
        from tlcli.workflows import serve as workflow

        predictor = workflow.open_predictor(run, Limits(max_bytes, max_pixels, max_waiting, timeout))
        from tlcli.serve.server import is_local
    if not is_local(host):
        warning = f"warning: everyone who reaches {host} can use the server; it has no passwords"
        console.print_text(console.err(), console.safe(warning, "yellow"))

    def announce(urls: Sequence[str]) -> None:
        click.echo(printable(f"serving {run} on {urls[0]} (Ctrl-C stops)"))
        for url in urls[1:]:
            click.echo(f"from other computers: {url}")

    workflow.serve(predictor, host, port, announce=announce)
