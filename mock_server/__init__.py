"""A real HTTP/1.1 server on loopback that misbehaves on request.

    async with MockServer({"/model.json": b"{}", "/w0": bytes(4)}) as server:
        server.misbehave("/w0", Cut(at=2), times=1)
        await fetch(f"{server.url}/model.json")
        assert [request.path for request in server.requests] == ["/model.json", "/w0", "/w0"]

It runs on asyncio and on trio, in the event loop of its caller.
"""

from mock_server.faults import (
    HTML_PAGE,
    LFS_POINTER,
    S3_ERROR,
    Close,
    Cut,
    Drip,
    Endless,
    Fault,
    Flip,
    GzipBomb,
    HangUp,
    HeaderFlood,
    IgnoreRange,
    Instead,
    Latency,
    Reset,
    Stall,
    Status,
    Throttle,
    TrailingGarbage,
    TruncatedGzip,
    WrongLength,
    WrongRange,
)
from mock_server.files import Entry, File, Redirect
from mock_server.server import MockServer, SeenRequest

__all__ = [
    "HTML_PAGE",
    "LFS_POINTER",
    "S3_ERROR",
    "Close",
    "Cut",
    "Drip",
    "Endless",
    "Entry",
    "Fault",
    "File",
    "Flip",
    "GzipBomb",
    "HangUp",
    "HeaderFlood",
    "IgnoreRange",
    "Instead",
    "Latency",
    "MockServer",
    "Redirect",
    "Reset",
    "SeenRequest",
    "Stall",
    "Status",
    "Throttle",
    "TrailingGarbage",
    "TruncatedGzip",
    "WrongLength",
    "WrongRange",
]
