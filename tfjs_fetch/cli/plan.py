"""`tfjs-fetch plan`: what fetching a model would bring, by one request."""

from collections.abc import Sequence

import anyio
import click

from tfjs_fetch.bars import size
from tfjs_fetch.cli.options import client, source_options
from tfjs_fetch.cli.output import decoded_bytes, print_json, print_table, weights_json
from tfjs_fetch.planning import Plan


@click.command()
@source_options
def plan(
    source: str,
    weights: Sequence[str],
    headers: Sequence[str],
    shard_url: str | None,
    allow: Sequence[str],
    as_json: bool,
) -> None:
    """Say what fetching SOURCE would bring, without asking for a shard."""
    made = planned(source, weights, headers, shard_url, allow)
    if as_json:
        print_json({**made.as_json(), "weights": weights_json(made.weights)})
        return
    print_table(("file", "bytes"), [(shard.path.split("?")[0], shard.size) for shard in made.shards])
    total = "an unknown number of bytes" if made.total_bytes is None else size(made.total_bytes)
    memory = size(decoded_bytes(made.weights))
    click.echo(f"{len(made.weights):,} weights in {len(made.shards):,} files: {total}, {memory} decoded", err=True)


def planned(
    source: str, weights: Sequence[str], headers: Sequence[str], shard_url: str | None, allow: Sequence[str]
) -> Plan:
    """Return the plan for these options."""

    async def work() -> Plan:
        async with client(headers, allow) as opened:
            return await opened.plan(source, weights=weights or None, shard_url=shard_url)

    return anyio.run(work)
