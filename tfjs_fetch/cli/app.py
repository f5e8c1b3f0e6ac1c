"""The group of commands, and what their failures mean to a shell."""

import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from tfjs_fetch.bars import printable
from tfjs_fetch.cli.cache import cache
from tfjs_fetch.cli.demo import demo
from tfjs_fetch.cli.get import get
from tfjs_fetch.cli.options import INTERRUPTED, exit_code
from tfjs_fetch.cli.plan import plan
from tfjs_fetch.cli.show import show
from tfjs_fetch.errors import TfjsFetchError

_EPILOG = """\b
Examples:
  tfjs-fetch demo
  tfjs-fetch show https://example.com/model/model.json
  tfjs-fetch get my_model/model.json --weights 'conv1/*' --json
\b
Exit codes: 0 done, 1 failed, 2 misused, 3 network, 4 other content than
expected, 6 refused by policy or limits, 130 interrupted.
"""


class _Group(click.Group):
    """Turns failures into one line on the standard error and an exit code. Commands are listed as they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *args: Any, **kwargs: Any) -> Any:  # click's own signature, which is long and may grow
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Names may hold what the encoding of a terminal or a pipe does not have.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except (click.exceptions.Abort, KeyboardInterrupt):
            click.echo("Interrupted.", err=True)
            code = INTERRUPTED
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (TfjsFetchError, OSError) as error:
            click.echo(f"Error: {_in_words_of_the_shell(error)}", err=True)
            code = exit_code(error)
        raise SystemExit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except KeyboardInterrupt:
            if sys.stderr is not None and sys.stderr.isatty():
                click.echo(err=True)  # the terminal has shown ^C, and stays in that line
            raise click.Abort from None
        if sys.stdout is not None:
            sys.stdout.flush()  # here and not at exit, where a pipe that was closed would be a traceback
        return result


def _in_words_of_the_shell(error: Exception) -> str:
    """Return what `error` says, with options in place of the Python that they stand for."""
    said = re.sub(r"Policy\((\w+)=[^)]*\)", lambda found: f"--allow {found[1].replace('_', '-')}", str(error))
    return printable(said)


@click.group(
    cls=_Group,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="tfjs-fetch", message="%(prog)s %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    """Fetch TensorFlow.js models: weights, sizes, layers.

    A SOURCE is a URL of a model.json, of a weights manifest, of a directory (ending in /) or of a .zip or .tar.gz; or a
    path of one. Data goes to the standard output, progress and messages to the standard error.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


COMMANDS: Sequence[click.Command] = (get, plan, show, cache, demo)
for command in COMMANDS:
    app.add_command(command)
