"""Synthetic models and a server for them in a process of its own, which holds none of their bytes.

Every body is the same 4 MiB over and over, handed from the page cache to the socket by the kernel: the server needs
little of the processor, so that the client is what is measured.
"""

import json
import multiprocessing
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal, TypeAlias

_BLOCK_BYTES = 4 * 2**20
_START_SECONDS = 30.0
_ITEM_BYTES = {"float32": 4, "float16": 2, "uint16": 2, "uint8": 1}

Content: TypeAlias = bytes | int  # a body, or the length of a synthetic one


@dataclass(frozen=True, slots=True)
class Synthetic:
    """A model of `weights` float32 weights of `values` values each, in files of `shard_bytes` or in one (None).

    With more `groups` than one each has as many weights and files as the others.
    """

    name: str
    weights: int
    values: int
    stored: Literal["float32", "float16", "uint16", "uint8"] = "float32"
    shard_bytes: int | None = 4 * 2**20
    groups: int = 1

    @property
    def stored_bytes(self) -> int:
        """Bytes of all shards."""
        return self.weights * self.values * _ITEM_BYTES[self.stored]

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all arrays."""
        return self.weights * self.values * _ITEM_BYTES["float32"]

    @property
    def shards(self) -> tuple[int, ...]:
        """The length of each file."""
        size = self.shard_bytes or self.stored_bytes
        full, rest = divmod(self.stored_bytes, size)
        return (size,) * full + ((rest,) if rest else ())

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each file in model.json."""
        files = len(self.shards) // self.groups
        places = (divmod(number, files) for number in range(len(self.shards)))
        return tuple(f"group{group + 1}-shard{place + 1}of{files}.bin" for group, place in places)

    @property
    def document(self) -> bytes:
        """The model.json."""
        weights = [self._entry(number) for number in range(self.weights)]
        files, entries = len(self.paths) // self.groups, self.weights // self.groups
        groups = [
            {
                "paths": self.paths[number * files : (number + 1) * files],
                "weights": weights[number * entries : (number + 1) * entries],
            }
            for number in range(self.groups)
        ]
        return json.dumps(groups).encode()

    @property
    def contents(self) -> Mapping[str, Content]:
        """The body at each path on the server."""
        shards = {f"/{self.name}/{path}": size for path, size in zip(self.paths, self.shards, strict=True)}
        return {f"/{self.name}/model.json": self.document, **shards}

    def _entry(self, number: int) -> Mapping[str, object]:
        entry = {"name": f"layer_{number}/kernel", "shape": [self.values], "dtype": "float32"}
        if self.stored == "float32":
            return entry
        affine = {} if self.stored == "float16" else {"min": -1.28, "scale": 0.0123}
        return {**entry, "quantization": {"dtype": self.stored, **affine}}


@contextmanager
def hosted(models: Iterable[Synthetic]) -> Iterator[str]:
    """Serve `models` meanwhile and give the origin; `ORIGIN/NAME/model.json` is a model."""
    contents = {path: content for model in models for path, content in model.contents.items()}
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    server = processes.Process(target=_serve, args=(contents, sender), daemon=True)
    server.start()
    try:
        if not receiver.poll(_START_SECONDS):
            raise TimeoutError("the server of the benchmark did not start")
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        server.terminate()
        server.join()


def _serve(contents: Mapping[str, Content], port: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with tempfile.TemporaryFile() as block, socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        block.write(random.Random(0).randbytes(_BLOCK_BYTES))
        block.flush()
        port.send(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, contents, block.fileno()), daemon=True).start()


def _end_with_parent() -> None:
    """End this process with the benchmark, also with one that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _converse(connection: socket.socket, contents: Mapping[str, Content], block: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, suppress(ConnectionError):
        while head := connection.recv(65536):
            content = contents[head.split(b" ", 2)[1].decode()]
            size = content if isinstance(content, int) else len(content)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            if isinstance(content, int):
                _send_synthetic(connection, block, content)
            else:
                connection.sendall(content)


def _send_synthetic(connection: socket.socket, block: int, size: int) -> None:
    sent = 0
    while sent < size:
        offset = sent % _BLOCK_BYTES
        sent += os.sendfile(connection.fileno(), block, offset, min(_BLOCK_BYTES - offset, size - sent))
