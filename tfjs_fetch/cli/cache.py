"""`tfjs-fetch cache`: what is kept on disk, whether it is right, and how it gets less."""

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from tfjs_fetch.bars import counted, size
from tfjs_fetch.cache.folder import Folder
from tfjs_fetch.cache.place import folder_of
from tfjs_fetch.cache.upkeep import Kept, kept_models, leftovers, of_url, remove, surplus, verify
from tfjs_fetch.cli.options import NOTHING_FOUND
from tfjs_fetch.cli.output import print_json, print_table, say

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be removed.")


def _age(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", value.strip().lower())
    if found is None:
        raise click.BadParameter(f"{value!r} is no span of time like 12h or 30d", context, parameter)
    return float(found[1]) * _SECONDS[found[2]]


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", value.strip().lower())
    if found is None:
        raise click.BadParameter(f"{value!r} is no size like 500MB or 2GB", context, parameter)
    return int(float(found[1]) * _BYTES[found[2]])


@click.group(subcommand_metavar="COMMAND [ARGS]...")
@click.option("--directory", metavar="DIR", help="Another cache than TFJS_FETCH_CACHE or the user's own.")
@click.pass_context
def cache(context: click.Context, directory: str | None) -> None:
    """Look after the models that are kept on disk."""
    context.obj = folder_of(directory)


@cache.command("dir")
@click.pass_obj
def directory(folder: Folder) -> None:
    """Print where the cache is."""
    click.echo(folder.root)


@cache.command()
@_as_json
@click.pass_obj
def ls(folder: Folder, as_json: bool) -> None:
    """List the models, the last used first."""
    models = kept_models(folder)
    if as_json:
        print_json([_about(kept) for kept in models])
        return
    rows = [(kept.url or "(incomplete)", kept.nbytes, _day(_made(kept)), _day(kept.used)) for kept in models]
    print_table(("model", "bytes", "fetched", "used"), rows, minor=("fetched",))
    say(f"{counted(len(models), 'model')}, {size(sum(kept.nbytes for kept in models))} in {folder.root}")


@cache.command()
@click.argument("url")
@_as_json
@click.pass_obj
def info(folder: Folder, url: str, as_json: bool) -> None:
    """Show the files of the model at URL, with their checksums."""
    models = _found(folder, url)
    if as_json:
        print_json([{**_about(kept), "files": _files(kept)} for kept in models])
        return
    for kept in models:
        rows = [(one["url"], one["bytes"], str(one["sha256"])[:16], one["fresh_until"]) for one in _files(kept)]
        print_table(("file", "bytes", "sha256", "fresh until"), rows, minor=("fresh until",))
        say(f"fetched {_day(_made(kept))}, last used {_day(kept.used)}, in {kept.directory}")


@cache.command("verify")
@click.argument("urls", nargs=-1, metavar="[URL]...")
@_as_json
@click.pass_obj
def check(folder: Folder, urls: Sequence[str], as_json: bool) -> None:
    """Compare the files with their checksums.

    All models are looked at, or those at URL. A model with damaged files is not used any more; its next fetch brings
    those files anew, and keeps the others.
    """
    asked = [kept for url in urls for kept in _found(folder, url)] if urls else kept_models(folder)
    results = [verify(folder, kept) for kept in asked if kept.record is not None]
    damaged = [result for result in results if result.damaged]
    if as_json:
        print_json([{"url": one.kept.url, "damaged": one.damaged} for one in results])
    else:
        rows = [(one.kept.url, "damaged: " + ", ".join(one.damaged) if one.damaged else "right") for one in results]
        print_table(("model", "files"), rows)
        say(f"{counted(len(results), 'model')} looked at, {len(damaged)} damaged")
    if damaged:
        raise click.exceptions.Exit(4)


@cache.command()
@click.option("--older-than", callback=_age, metavar="AGE", help="Models that were not used for so long: 30d, 12h.")
@click.option("--max-size", callback=_bytes, metavar="SIZE", help="The longest unused ones beyond that size: 2GB.")
@_dry_run
@_as_json
@click.pass_obj
def prune(folder: Folder, older_than: float | None, max_size: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove what is old, too much or left over.

    Without an option that is only what interrupted downloads left behind.
    """
    models = surplus(folder, older_than=older_than, max_bytes=max_size)
    rest = leftovers(folder)
    if not dry_run:
        remove(folder, models)
        for path in rest:
            folder.discard(path)
    _tell(models, dry_run=dry_run, as_json=as_json, rest=len(rest))


@cache.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@_dry_run
@_as_json
@click.pass_obj
def rm(folder: Folder, urls: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Remove the models at URL."""
    models = [kept for url in urls for kept in _found(folder, url)]
    if not dry_run:
        remove(folder, models)
    _tell(models, dry_run=dry_run, as_json=as_json)


@cache.command()
@_dry_run
@_as_json
@click.pass_obj
def clear(folder: Folder, dry_run: bool, as_json: bool) -> None:
    """Remove everything."""
    models = kept_models(folder)
    if not dry_run:
        remove(folder, models)
        for path in leftovers(folder):
            folder.discard(path)
    _tell(models, dry_run=dry_run, as_json=as_json)


def _found(folder: Folder, url: str) -> Sequence[Kept]:
    models = of_url(folder, url)
    if not models:
        say(f"{url} is not in the cache {folder.root}")
        raise click.exceptions.Exit(NOTHING_FOUND)
    return models


def _tell(models: Sequence[Kept], *, dry_run: bool, as_json: bool, rest: int = 0) -> None:
    if as_json:
        print_json([_about(kept) for kept in models])
        return
    print_table(("model", "bytes"), [(kept.url or "(incomplete)", kept.nbytes) for kept in models])
    left = f", and {counted(rest, 'leftover')}" if rest else ""
    freed = size(sum(kept.nbytes for kept in models))
    say(f"{'Would remove' if dry_run else 'Removed'} {counted(len(models), 'model')}{left}, {freed}")


def _about(kept: Kept) -> Mapping[str, Any]:
    return {
        "url": kept.url,
        "bytes": kept.nbytes,
        "fetched": _made(kept),
        "used": kept.used,
        "directory": str(kept.directory),
        "complete": kept.record is not None,
    }


def _files(kept: Kept) -> Sequence[Mapping[str, Any]]:
    entries = kept.record.entries if kept.record is not None else ()
    return [
        {
            "url": entry.url,
            "bytes": entry.size,
            "sha256": entry.sha256,
            "etag": entry.etag,
            "last_modified": entry.last_modified,
            "fresh_until": _day(entry.fresh_until) if entry.fresh_until > time.time() else "",
        }
        for entry in entries
    ]


def _made(kept: Kept) -> float:
    return kept.record.made if kept.record is not None else 0.0


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
