"""Faults of the network under the client: each ends in time, in its kind, and harms no other request."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from benchmarks.proxy import FAULTS, PAID, Proxy, proxying
from pipeline.flow import Failure, FailureKind, Reply, Unsent
from tests.certificate import certificate
from tests.conftest import Emulator, emulating
from tests.gemini.conftest import Asking, Server, developer, generation, question

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

DEADLINE = 1.5  # above SLOW_S
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}},
    "required": ["reason"],
}
KINDS = {
    "reset before": FailureKind.CONNECTION,
    "reset after": FailureKind.CONNECTION,
    "reset in body": FailureKind.CONNECTION,
    "cut": FailureKind.CONNECTION,
    "silent": FailureKind.TIMEOUT,
    "lost": FailureKind.TIMEOUT,
    "trickle": FailureKind.TIMEOUT,
    "page 200": FailureKind.GARBLED,
    "page 407": FailureKind.CONNECTION,
    "page 502": FailureKind.SERVER,
    "page 504": FailureKind.DEADLINE,
    "garbage": FailureKind.CONNECTION,
    "short length": FailureKind.CONNECTION,
    "long length": FailureKind.TIMEOUT,
    "refused": FailureKind.CONNECTION,
}
HARMLESS = ["slow", "twice", "twice late", "idle close"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator whose reasons quote the text they are for."""
    with emulating() as running:
        yield running


def asks(address: str) -> Asking:
    """Return what asks this address for a reason."""
    return Asking(developer(address), replace(generation(), json_schema=SCHEMA))


@contextmanager
def failing(emulator: Emulator, *faults: str) -> Iterator[Proxy]:
    """Run a proxy that plays these faults, one for each request, and then none."""
    left = list(faults)
    with proxying(Proxy(emulator.address, lambda _body: left.pop(0) if left else "")) as proxy:
        yield proxy


def own(answer: Reply | Failure, word: str) -> bool:
    """Tell whether an answer is the one to the text that has this word."""
    return isinstance(answer, Reply) and word in answer.text


def test_every_fault_is_expected() -> None:
    """No fault of the proxy is left out here."""
    assert {*KINDS, *HARMLESS} == FAULTS.keys() - {""}


@pytest.mark.parametrize("fault", KINDS)
async def test_a_fault_is_a_failure_of_its_kind(emulator: Emulator, fault: str) -> None:
    """One request, within the deadline, in the right kind; paid for where the API had answered."""
    before = emulator.stats()["answered"]
    with failing(emulator, fault) as proxy, anyio.fail_after(DEADLINE + 1):
        async with asks(proxy.address).open(DEADLINE) as client:
            failure = await client.ask(question(f"Review: apple {fault}"))
    assert isinstance(failure, Failure), failure
    assert failure.kind is KINDS[fault]
    assert proxy.played == {fault: 1}
    assert emulator.stats()["answered"] - before == (fault in PAID)


@pytest.mark.parametrize("fault", sorted({*KINDS, *HARMLESS} - {"refused"}))
async def test_the_next_request_gets_its_own_answer(emulator: Emulator, fault: str) -> None:
    """What a fault leaves on a connection is never taken for the answer to another text."""
    with failing(emulator, fault) as proxy:
        async with asks(proxy.address).open(DEADLINE) as client:
            first = await client.ask(question("Review: apple"))
            assert own(first, "apple") == (fault in HARMLESS)
            await anyio.sleep(0.05)  # by then what comes late is there
            answers = [await client.ask(question(f"Review: {word}")) for word in ("pear", "plum", "plum")]
    kept = [answer for answer in answers if isinstance(answer, Reply)]
    assert own(answers[-1], "plum")
    assert all(own(answer, word) for answer, word in zip(answers, ("pear", "plum", "plum"), strict=True)
               if isinstance(answer, Reply))  # fmt: skip
    assert len(kept) >= 2


async def test_an_answer_that_comes_twice_harms_nobody_in_flight(emulator: Emulator) -> None:
    """A second copy that arrives when the connection is in use again is known by its id."""
    with failing(emulator, *["twice late"] * 30) as proxy:
        async with asks(proxy.address).open(DEADLINE) as client:
            emulator.change(latency=0.1)  # so that the copy is the first to come
            answers = [(word, await client.ask(question(f"Review: {word}"))) for word in ("a1", "b2", "c3")]
            emulator.change(latency=0.0)
    assert own(answers[0][1], "a1")
    assert isinstance(answers[1][1], Failure)
    assert answers[1][1].kind is FailureKind.GARBLED
    assert own(answers[2][1], "c3")


async def test_what_comes_unasked_is_found_before_anything_is_sent(emulator: Emulator) -> None:
    """A second copy on an idle connection costs neither an answer nor a request of the day."""
    before = emulator.stats()["requests"]
    with failing(emulator, "twice late") as proxy:
        async with asks(proxy.address).open(DEADLINE) as client:
            await client.ask(question("Review: apple"))
            await anyio.sleep(0.1)
            failure = await client.ask(question("Review: pear"))
            assert own(await client.ask(question("Review: pear")), "pear")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.unsent) == (FailureKind.CONNECTION, Unsent.STALE)
    assert emulator.stats()["requests"] - before == 2


@pytest.mark.parametrize("greeting", ["reset", "close", "speak"])
async def test_a_connection_that_ends_before_it_began(emulator: Emulator, greeting: str) -> None:
    """Reset, closed or greeted with another protocol: one connection, one Failure."""
    with proxying(Proxy(emulator.address, greet=lambda _number: greeting)) as proxy:
        failure = await asks(proxy.address).once()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONNECTION
    assert proxy.connections == 1


async def test_a_half_open_connection_ends_with_the_deadline(emulator: Emulator) -> None:
    """A server that takes the connection and never reads is left after the request's time."""
    with proxying(Proxy(emulator.address, greet=lambda _number: "deaf")) as proxy, anyio.fail_after(2):
        failure = await asks(proxy.address).once("Review: " + "long " * 150_000, timeout_s=0.5)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.TIMEOUT
    assert failure.unsent is None


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:1", {Unsent.REFUSED}),
        ("http://rowmill-nowhere.invalid", {Unsent.NAME, Unsent.NETWORK}),  # where the tests have no network
    ],
)
async def test_what_cannot_have_left_says_so(address: str, why: set[Unsent]) -> None:
    """Refused connections and unknown names send nothing."""
    failure = await asks(address).once()
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONNECTION
    assert failure.unsent in why


async def test_a_port_without_tls_says_so(emulator: Emulator) -> None:
    """An address with https where plain HTTP is spoken fails in the handshake."""
    failure = await asks(emulator.address.replace("http:", "https:")).once()
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.unsent) == (FailureKind.CONNECTION, Unsent.TLS)


async def test_a_certificate_is_trusted_only_where_it_is_named(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A self-signed one fails in the handshake, and not where SSL_CERT_FILE has it, as the hint says."""
    file = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with proxying(Proxy(emulator.address, tls=context)) as proxy:
        failure = await asks(proxy.address).once("Review: apple")
        assert isinstance(failure, Failure)
        assert (failure.kind, failure.unsent) == (FailureKind.CONNECTION, Unsent.TLS)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert own(await asks(proxy.address).once("Review: apple"), "apple")


async def test_a_proxy_without_a_password_says_so(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 407 to a CONNECT is the proxy's, and nothing reached the API."""
    with failing(emulator, "page 407") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        failure = await asks("https://gemini.invalid").once()
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.unsent) == (FailureKind.CONNECTION, Unsent.PROXY)


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_what_was_read_may_have_been_paid_for(server: Server, end: str) -> None:
    """A connection that breaks after the request has left does not claim the contrary."""
    server.will_say(b"", "reset" if end == "reset" else "close")
    failure = await asks(server.url).once()
    assert isinstance(failure, Failure)
    assert failure.unsent is None
