"""What the Batch API says of jobs and files, against answers written down beforehand."""

import json

import pytest

from pipeline.flow import Failure, FailureKind
from pipeline.gemini.batches import Gone, Hidden, open_batches
from tests.gemini.conftest import Asking, Server

pytestmark = pytest.mark.anyio


def refused(code: int, status: str, message: str) -> str:
    """Return an error as the API writes it."""
    return json.dumps({"error": {"code": code, "message": message, "status": status}})


NOT_THERE = refused(404, "NOT_FOUND", "Requested entity was not found.")
PAGE = "<!DOCTYPE html><title>404 Not Found</title><p>No such page.</html>"
NO_FILE = refused(
    403, "PERMISSION_DENIED", "You do not have permission to access the File abc or it may not exist."
)
NO_KEY = refused(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers.")


async def looked(server: Server, asking: Asking, status: int, body: str) -> object:
    """Return what a look at a job gives."""
    server.will(body, status)
    async with open_batches(asking.endpoint, "gemini-3.1-flash-lite", timeout_s=5.0) as api:
        return await api.look("batches/abc")


@pytest.mark.parametrize("body", [NOT_THERE, f"[{NOT_THERE}]"])
async def test_only_the_api_says_that_a_job_is_gone(server: Server, asking: Asking, body: str) -> None:
    """Its 404 is JSON with a status of its own."""
    assert isinstance(await looked(server, asking, 404, body), Gone)


@pytest.mark.parametrize("body", [PAGE, "", "{}", '{"error": "NOT_FOUND"}', '{"error": {"code": 404}}', "[]"])
async def test_the_404_of_a_proxy_says_nothing_of_a_job(server: Server, asking: Asking, body: str) -> None:
    """It is a fault of the way, which may pass."""
    found = await looked(server, asking, 404, body)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.GARBLED


async def test_a_file_that_may_not_exist_is_told_from_a_refused_key(server: Server, asking: Asking) -> None:
    """The API says 403 to both, in other words."""
    assert isinstance(await looked(server, asking, 403, NO_FILE), Hidden)
    found = await looked(server, asking, 403, NO_KEY)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.KEY
