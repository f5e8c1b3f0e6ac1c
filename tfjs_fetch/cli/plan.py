"""`tfjs-fetch plan`: what fetching a model would bring, by one request."""

from collections.abc import Sequence

import anyio
import click

from tfjs_fetch.bars import counted
from tfjs_fetch.cli.options import client, source_options
from tfjs_fetch.cli.output import print_json, print_table, say, summary, weights_json
from tfjs_fetch.client import Client
from tfjs_fetch.planning import Plan


@click.command()
@source_options
def plan(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    cache_mode: str,
    as_json: bool,
) -> None:
    """List the weights files that `get` would fetch from SOURCE.

    Only model.json is asked for. A file whose size is not known from there has none. Of chosen weights' files only the
    bytes that hold them are asked for, if the server can give parts of files.
    """
    made = planned(source, weights, shard_url, client(headers, allow, cache_mode))
    if as_json:
        print_json({**made.as_json(), "weights": weights_json(made.weights)})
        return
    columns: tuple[str, ...] = ("file", "bytes")
    rows: list[tuple[str | int | None, ...]] = [(shard.path.split("?")[0], shard.size) for shard in made.shards]
    if any(shard.ranges for shard in made.shards):
        columns = (*columns, "asked for")
        rows = [(*row, shard.asked_bytes) for row, shard in zip(rows, made.shards, strict=True)]
    print_table(columns, rows)
    say(f"{counted(len(made.shards), 'file')}: {summary(made.weights)}")


def planned(source: str, weights: Sequence[str], shard_url: str | None, asked: Client) -> Plan:
    """Return the plan for these options."""

    async def work() -> Plan:
        async with asked as opened:
            return await opened.plan(source, weights=weights or None, shard_url=shard_url)

    return anyio.run(work)
