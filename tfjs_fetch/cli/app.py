"""The group of commands, and what their failures mean to a shell."""

from collections.abc import Sequence
from typing import Any

import click

from tfjs_fetch.cli.demo import demo
from tfjs_fetch.cli.get import get
from tfjs_fetch.cli.plan import plan
from tfjs_fetch.cli.show import show
from tfjs_fetch.errors import IntegrityError, RefusedError, TfjsFetchError, TransportError

_EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 misused, 3 network, 4 integrity, 6 refused by policy or limits, 130 interrupted.
"""


class _Group(click.Group):
    """Turns failures into one line on the standard error and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:  # click's own signature, which is long and may grow
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Abort:
            click.echo("Interrupted.", err=True)
            code = 130
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (TfjsFetchError, OSError) as error:
            click.echo(f"Error: {error}", err=True)
            code = exit_code(error)
        raise SystemExit(code if isinstance(code, int) else 0)


def exit_code(error: Exception) -> int:
    """Return the code a shell is told for `error`."""
    match error:
        case RefusedError():
            return 6
        case TransportError():
            return 3
        case IntegrityError():
            return 4
        case _:
            return 1


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="tfjs-fetch", message="%(prog)s %(version)s")
def app() -> None:
    """Fetch TensorFlow.js models: weights, sizes, layers.

    A SOURCE is a URL of a model.json, of a weights manifest, of a directory (ending in /) or of a .zip or .tar.gz; or a
    path of one. Data goes to the standard output, progress and messages to the standard error.
    """


COMMANDS: Sequence[click.Command] = (get, plan, show, demo)
for command in COMMANDS:
    app.add_command(command)
