"""Serve a directory by hand, well or badly: python -m mock_server DIR [--port N] [--latency SECONDS] …"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio

from mock_server.directory import Directory
from mock_server.faults import Cut, Fault, IgnoreRange, Latency, Reset, Stall, Status, Throttle
from mock_server.files import File
from mock_server.server import MockServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C and give the exit code; the address goes to stdout."""
    options = _parser().parse_args(arguments)
    if not options.directory.is_dir():
        print(f"{options.directory} is not a directory", file=sys.stderr)
        return 2
    try:
        anyio.run(_serve, options)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


async def _serve(options: argparse.Namespace) -> None:
    def configured(file: File) -> File:
        return replace(file, gzip=options.gzip, framing=options.framing)

    directory = Directory(options.directory, configured)
    async with MockServer(elsewhere=directory.find, port=options.port) as server:
        server.misbehave(None, *_faults(options), times=options.times)
        print(server.url, flush=True)
        await anyio.sleep_forever()


def _faults(options: argparse.Namespace) -> list[Fault]:
    chosen = (
        (Latency, options.latency),
        (Throttle, options.throttle),
        (Cut, options.cut),
        (Reset, options.reset),
        (Stall, options.stall),
        (Status, options.status),
    )
    faults: list[Fault] = [fault(value) for fault, value in chosen if value is not None]
    return [*faults, IgnoreRange()] if options.ignore_range else faults


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mock_server", description="Serve a directory, well or badly.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="any free port by default")
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="wait before each answer")
    parser.add_argument("--throttle", type=float, metavar="BYTES_PER_S", help="send bodies no faster than this")
    parser.add_argument("--cut", type=int, metavar="N", help="end the connection after N bytes of body")
    parser.add_argument("--reset", type=int, metavar="N", help="reset the connection after N bytes of body")
    parser.add_argument("--stall", type=int, metavar="N", help="fall silent after N bytes of body")
    parser.add_argument("--status", type=int, metavar="CODE", help="answer with this status")
    parser.add_argument("--ignore-range", action="store_true", help="answer a range with the whole file")
    parser.add_argument("--times", type=int, metavar="N", help="misbehave only for the first N requests")
    parser.add_argument("--gzip", choices=("never", "always", "accepted"), default="never")
    parser.add_argument("--framing", choices=("length", "chunked", "close"), default="length")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
