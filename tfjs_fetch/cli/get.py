"""`tfjs-fetch get`: fetch a model, with bars, and list its weights."""

import re
from collections.abc import Sequence

import anyio
import click

from tfjs_fetch.bars import counted, size
from tfjs_fetch.bundle import WeightBundle
from tfjs_fetch.cli.options import client, progress_option, shown, source_options
from tfjs_fetch.cli.output import (
    MINOR_WEIGHT_COLUMNS,
    WEIGHT_COLUMNS,
    print_json,
    print_table,
    say,
    weight_rows,
    weights_json,
)
from tfjs_fetch.events import OnEvent
from tfjs_fetch.format.dtypes import STRING, STRING_PREFIX
from tfjs_fetch.format.manifest import WeightSpec
from tfjs_fetch.redaction import redact


def _digest(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise click.BadParameter("a digest has 64 hexadecimal digits", context, parameter)
    return value


@click.command()
@source_options
@progress_option
@click.option("--expected", metavar="DIGEST", callback=_digest, help="Fail if the weights have another digest.")
def get(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    cache_mode: str,
    as_json: bool,
    progress: str,
    expected: str | None,
) -> None:
    """Fetch the model at SOURCE, check it, and list its weights.

    It is kept on disk: see the command cache. The digest that is shown names the content: --expected makes sure that
    it is the same another time.
    """
    asked = client(headers, allow, cache_mode)

    async def work(show: OnEvent) -> WeightBundle:
        async with asked as opened:
            return await opened.fetch(
                source, weights=weights or None, shard_url=shard_url, progress=show, expected=expected
            )

    if progress == "bar":
        say(f"Fetching {redact(source)}")
    with shown(progress) as show:
        bundle = anyio.run(work, show)
    print_bundle(bundle, as_json=as_json, talk=progress == "bar")


def print_bundle(bundle: WeightBundle, *, as_json: bool, talk: bool) -> None:
    """Print the weights of `bundle`; `talk` adds what they come to, in words."""
    specs = bundle.manifest.weights

    def length(spec: WeightSpec) -> int:
        if spec.dtype == STRING:
            return sum(STRING_PREFIX + len(value) for value in bundle[spec.name].flat)
        return spec.stored_bytes

    if as_json:
        about = {"source": bundle.source, "kind": bundle.manifest.kind, "digest": bundle.digest}
        print_json({**about, "nbytes": bundle.nbytes, "weights": weights_json(specs, length)})
        return
    print_table(WEIGHT_COLUMNS, weight_rows(specs, length), minor=MINOR_WEIGHT_COLUMNS)
    if talk:
        stored = size(sum(map(length, specs)))
        say(f"{counted(len(specs), 'weight')}, {stored} stored, {size(bundle.nbytes)} decoded")
        say(f"digest {bundle.digest}")
