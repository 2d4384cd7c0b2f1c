"""Open the studio, a page to edit drawings in: python -m scripts.studio

Serves this machine only. With --host it serves others too; they then need the token that is printed
with the address.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import webbrowser
from pathlib import Path

import click

from pipeline.console import say
from pipeline.errors import ConfigError
from scripts.one_sentence import one_sentence

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# The largest thing that a page says: the mask of a model of 1024 px (2**20 bytes) and its header,
# or a recipe with such a mask in it.
MESSAGE_BYTES = 2**22


@click.command(help=__doc__)
@click.option(
    "--store",
    default="artifacts",
    type=click.Path(path_type=Path),
    show_default=True,
    help="Folder of the artifacts.",
)
@click.option(
    "--sessions",
    default="runs/studio",
    type=click.Path(path_type=Path),
    show_default=True,
    help="Folder of the sessions, which outlive the server.",
)
@click.option("--model", default=None, help="Model to begin with; by default the one that ships.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--name", "names", multiple=True, help="Another name that this machine is called by.")
@click.option(
    "--port",
    default=7860,
    type=click.IntRange(0, 65_535),
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option("--token", default=None, help="Asked of everybody; made up beyond this machine.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option(
    "--places",
    default=8,
    type=click.IntRange(min=1),
    show_default=True,
    help="Sessions at work at once.",
)
@click.option(
    "--idle-minutes",
    default=20.0,
    type=click.FloatRange(min=0),
    show_default=True,
    help="A session nobody looks at gives its place up after so long.",
)
@click.option(
    "--keep-days",
    default=30.0,
    type=click.FloatRange(min=0),
    show_default=True,
    help="Sessions untouched for longer are deleted; edits that were saved stay.",
)
@click.option(
    "--keep-gb",
    default=5.0,
    type=click.FloatRange(min=0),
    show_default=True,
    help="Beyond so much of all sessions together the longest untouched ones are deleted.",
)
@click.option(
    "--invert-steps",
    default=160,
    type=click.IntRange(1, 10_000),
    show_default=True,
    help="Steps of each half of looking for a drawing: fewer are faster and less alike.",
)
@click.option("--browser/--no-browser", default=False, help="Open the page.")
@one_sentence
def main(
    store: Path,
    sessions: Path,
    model: str | None,
    host: str,
    names: tuple[str, ...],
    port: int,
    token: str | None,
    device: str,
    places: int,
    idle_minutes: float,
    keep_days: float,
    keep_gb: float,
    invert_steps: int,
    browser: bool,
) -> None:  # fmt: skip
    import uvicorn

    from pipeline.artifacts.store import Store
    from pipeline.edit.server.app import make_app
    from pipeline.edit.server.guard import LOOPBACK, Guard
    from pipeline.edit.server.keeping import Keeping
    from pipeline.edit.server.rooms import Limits, Rooms
    from pipeline.edit.shipped import shipped_model

    if device == "cuda":
        from torch_utils.device import choose_device

        choose_device(device)  # refused here, not by every worker
    artifacts = Store(store)
    first = shipped_model(ASSETS) if model is None else artifacts.find(model).folder
    first = first.resolve()
    sessions.mkdir(parents=True, exist_ok=True)
    local = host in ("127.0.0.1", "localhost", "::1")
    if token is None and not local:
        token = secrets.token_urlsafe(18)
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    command = [
        *(sys.executable, "-m", "scripts.studio_worker", "--store", str(store.resolve())),
        *("--model", str(first), "--device", device),
        *("--invert-steps", str(invert_steps)),
    ]
    limits = Limits(sessions=places, idle_seconds=idle_minutes * 60)
    keeping = Keeping(keep_days, round(keep_gb * 10**9))
    rooms = Rooms(sessions.resolve(), command, limits, keeping)
    hosts = (*LOOPBACK, *(name.lower() for name in names), *(() if local else _names(host)))
    app = Guard(make_app(rooms, artifacts, first), hosts, token or "")
    shown = host if local else _names(host)[0]
    address = f"http://{'localhost' if local else shown}:{port}/"
    if token:
        address += f"?token={token}"
    say(f"The studio is open: {address}  (Ctrl-C closes it; sessions stay.)")
    if browser:
        webbrowser.open(address)
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=MESSAGE_BYTES,
        timeout_graceful_shutdown=2,
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has closed everything by then
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"Port {port} of {host} cannot be opened ({error.strerror}); is a studio running "
            'already? Take another one with --port (make: ARGS="--port 7861").'
        ) from error
    listener.listen()  # who comes before the server is ready waits
    return listener


def _names(host: str) -> tuple[str, ...]:
    """What others may call this machine by."""
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
        return (name.lower(), f"{name.lower()}.local")
    return (f"[{host}]" if ":" in host else host.lower(),)


if __name__ == "__main__":
    main()
