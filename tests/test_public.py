"""The public face: what `import tfjs_fetch` gives, what it loads, and that its errors travel."""

import inspect
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, get_origin

import anyio
import pytest

import tfjs_fetch
from mock_server import Cut, File, Instead, MockServer, Stall, Status
from mock_server.faults import HTML_PAGE, Fault
from tests.models import floats, group, many, model
from tfjs_fetch import Client, Retry, TfjsFetchError

DESIGNED = {
    "Client", "Limits", "Policy", "Retry", "WeightBundle", "decode", "fetch", "fetch_sync", "plan", "HttpClient",
    "Planned", "ShardProgress", "ShardFinished", "Retrying", "Stalled", "WeightReady", "Warned", "Finished",
    "TfjsFetchError", "TransportError", "UnreachableError", "StatusError", "TruncatedError", "StalledError",
    "RefusedError", "ManifestError", "DecodeError", "MissingBytesError", "ExtraBytesError", "ShardOrderError",
    "IntegrityError", "ModelChangedError", "EncodeError", "MissingExtraError", "ProgressState",
}  # fmt: skip


def test_all_public_names_are_listed_in_order_and_are_there() -> None:
    assert tfjs_fetch.__all__ == sorted(tfjs_fetch.__all__)
    assert set(tfjs_fetch.__all__) >= DESIGNED
    assert all(hasattr(tfjs_fetch, name) for name in tfjs_fetch.__all__)


def test_nothing_public_is_left_out_of_the_list() -> None:
    public = {name for name, value in vars(tfjs_fetch).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(tfjs_fetch, name), ModuleType)}

    assert public - modules - set(tfjs_fetch.__all__) == set()


@pytest.mark.parametrize("name", tfjs_fetch.__all__)
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(tfjs_fetch, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)) or get_origin(value) is not None:
        return  # an alias of types

    doc = value.__doc__ or ""
    assert doc.strip()
    assert not doc.startswith(f"{name}("), "dataclasses write such a docstring themselves"


@pytest.mark.parametrize("name", [name for name in tfjs_fetch.__all__ if inspect.isclass(getattr(tfjs_fetch, name))])
def test_every_public_method_has_a_docstring(name: str) -> None:
    for attribute, value in vars(getattr(tfjs_fetch, name)).items():
        if attribute.startswith("_") or not (inspect.isroutine(value) or isinstance(value, property | classmethod)):
            continue
        assert (value.__doc__ or "").strip() or getattr(value, "__isabstractmethod__", False), f"{name}.{attribute}"


def test_importing_it_loads_nothing_that_is_not_needed() -> None:
    # httpx itself loads rich and click, for its own command, wherever it finds them.
    unneeded = ("rich", "click", "trio", "torch", "pytest", "mock_server", "tfjs_fetch.bars", "tfjs_fetch.cli")
    code = (
        "import sys, httpx; before = set(sys.modules); import tfjs_fetch; "
        f"print([name for name in {unneeded!r} if name in set(sys.modules) - before])"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_importing_it_writes_and_warns_nothing() -> None:
    found = subprocess.run([sys.executable, "-W", "error", "-c", "import tfjs_fetch"], capture_output=True, check=True)

    assert (found.stdout, found.stderr) == (b"", b"")


EXTRA = model(group({"a": floats(2)}, name="a"), group({"b": floats(2)}, name="b"))

FAILURES: dict[str, tuple[str | None, Fault | None, dict[str, Any]]] = {
    "StatusError": ("/m/s1", Status(404), {}),
    "TruncatedError": ("/m/s1", Cut(3), {}),
    "StalledError": ("/m/s1", Stall(3), {}),
    "WrongContentError": ("/m/s1", HTML_PAGE, {}),
    "ManifestError": ("/m/model.json", Instead(b"{}", "application/json"), {}),
    "UnknownWeightError": (None, None, {"weights": "nothing"}),
    "IntegrityError": (None, None, {"expected": "0" * 64}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAILURES)
async def test_errors_of_a_fetch_pickle_with_their_facts(name: str) -> None:
    path, fault, how = FAILURES[name]
    retry = Retry(attempts=1, stall_seconds=0.1)
    async with MockServer(many(3).hosted()) as server, Client(retry=retry) as client:
        if path is not None and fault is not None:
            server.misbehave(path, fault)
        error = await failure(lambda: client.fetch(f"{server.url}/m/model.json", **how))

    assert type(error).__name__ == name
    check_pickle(error)


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "content"), [("ExtraBytesError", bytes(9)), ("MissingBytesError", bytes(7))])
async def test_errors_of_sizes_pickle_with_their_facts(name: str, content: bytes) -> None:
    async with MockServer({**EXTRA.hosted(), "/m/a0": File(content)}) as server, Client() as client:
        error = await failure(lambda: client.fetch(f"{server.url}/m/model.json"))

    assert type(error).__name__ == name
    check_pickle(error)


@pytest.mark.anyio
async def test_a_fetched_bundle_pickles() -> None:
    async with MockServer(many(3).hosted()) as server, Client() as client:
        bundle = await client.fetch(f"{server.url}/m/model.json")

    copy = pickle.loads(pickle.dumps(bundle))
    assert copy == bundle
    assert copy.digest == bundle.digest


async def failure(work: Callable[[], Awaitable[object]]) -> TfjsFetchError:
    with anyio.fail_after(5), pytest.raises(TfjsFetchError) as caught:
        await work()
    return caught.value


def check_pickle(error: TfjsFetchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (copy.args, str(copy)) == (error.args, str(error))
