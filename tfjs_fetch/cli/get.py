"""`tfjs-fetch get`: fetch a model, with bars, and list its weights."""

from collections.abc import Sequence

import anyio
import click

from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cli.options import client, progress_option, shown, source_options
from tfjs_fetch.cli.output import (
    MINOR_WEIGHT_COLUMNS,
    WEIGHT_COLUMNS,
    print_json,
    print_table,
    weight_rows,
    weights_json,
)


@click.command()
@source_options
@progress_option
@click.option("--expected", metavar="SHA256", help="Fail unless the weights have this digest.")
def get(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    as_json: bool,
    progress: str,
    expected: str | None,
) -> None:
    """Fetch the model at SOURCE and list its weights."""

    async def work() -> WeightBundle:
        with shown(progress) as show:
            async with client(headers, allow) as opened:
                return await opened.fetch(
                    source, weights=weights or None, shard_url=shard_url, progress=show, expected=expected
                )

    print_bundle(anyio.run(work), as_json=as_json)


def print_bundle(bundle: WeightBundle, *, as_json: bool) -> None:
    """Print the weights of `bundle`."""
    specs = bundle.manifest.weights
    if as_json:
        about = {"source": bundle.source, "kind": bundle.manifest.kind, "digest": bundle.digest}
        print_json({**about, "nbytes": bundle.nbytes, "weights": weights_json(specs)})
    else:
        print_table(WEIGHT_COLUMNS, weight_rows(specs), minor=MINOR_WEIGHT_COLUMNS)
