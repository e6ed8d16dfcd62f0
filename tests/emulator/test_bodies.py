"""The bodies of refusals, in the shapes that were recorded from the API."""

import json
import re
from typing import Any

import pytest

from pipeline.emulator import bodies
from pipeline.emulator.faults import REFUSAL_KINDS, Fault
from pipeline.emulator.quota import Violation
from pipeline.emulator.refusals import refusal
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import Route

WHERE = Route("v1beta", "models/gemini-x", "gemini-x", "generateContent", cloud=False)


def details(answer: bodies.Answer) -> dict[str, Any]:
    """Return the details of an error by the last word of their type."""
    found = json.loads(answer.body)["error"].get("details", [])
    return {detail["@type"].rpartition(".")[2]: detail for detail in found}


def test_a_429_names_the_quota_and_floors_its_delay() -> None:
    """The prose has the exact wait, RetryInfo its whole seconds, and there is a violation for each quota."""
    broken = [Violation("requests", 15, 48.9399), Violation("tokens", 250_000, 3.5)]
    answer = bodies.quota_exceeded(broken, "gemini-x", "free")
    told = details(answer)
    assert "Please retry in 48.9399s." in json.loads(answer.body)["error"]["message"]
    assert told["RetryInfo"]["retryDelay"] == "48s"
    first, second = told["QuotaFailure"]["violations"]
    assert first["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    assert (first["quotaValue"], second["quotaValue"]) == ("15", "250000")


def test_a_daily_429_says_so_in_its_quota_id_only() -> None:
    """Its delay is short like any other; the paid one has no delay and a limit of 0."""
    day = [Violation("day", 500, 30.2)]
    free, paid = (bodies.quota_exceeded(day, "gemini-x", tier) for tier in ("free", "paid"))
    assert "PerDay" in details(free)["QuotaFailure"]["violations"][0]["quotaId"]
    assert details(free)["RetryInfo"]["retryDelay"] == "30s"
    assert "RetryInfo" not in details(paid)
    assert "limit: 0" in json.loads(paid.body)["error"]["message"]


def test_a_model_without_quota_lists_several_violations_without_values() -> None:
    """That is how a limit of 0 was recorded."""
    violations = details(bodies.no_quota("gemini-x", 3.98, "free"))["QuotaFailure"]["violations"]
    assert len(violations) > 1
    assert all("quotaValue" not in violation for violation in violations)


@pytest.mark.parametrize(
    ("seconds", "prose"),
    [(38.29, "38.29s"), (0.3738, "373.8ms"), (65.5, "1m5.5s"), (37025.72, "10h17m5.72s"), (60.0, "1m0s")],
)
def test_durations_are_written_as_go_writes_them(seconds: float, prose: str) -> None:
    """Hours, minutes, seconds; milliseconds below one."""
    assert bodies.duration(seconds) == prose


@pytest.mark.parametrize("kind", sorted(REFUSAL_KINDS))
def test_every_refusal_has_the_status_of_its_name(kind: str) -> None:
    """The body repeats the status, except where it is a page."""
    answer = refusal(Fault(kind, first=1), WHERE, "the-key", Settings())
    assert answer.status == int(re.findall(r"^\d+", kind)[0])
    if answer.content_type == bodies.JSON_TYPE:
        assert json.loads(answer.body)["error"]["code"] == answer.status
    else:
        assert answer.body.startswith(b"<!DOCTYPE html>")


def test_a_refusal_takes_its_wait_and_limit_from_the_settings() -> None:
    """The parameter is the wait, the limit is the emulator's own where it has one."""
    answer = refusal(Fault("429-minute", 7.36, first=1), WHERE, "key", Settings(rpm=9))
    assert details(answer)["RetryInfo"]["retryDelay"] == "7s"
    assert details(answer)["QuotaFailure"]["violations"][0]["quotaValue"] == "9"


def test_a_suspended_key_is_echoed() -> None:
    """The API repeats the caller's key, so that clients can be seen to hide it."""
    assert b"the-key" in refusal(Fault("403-echo", first=1), WHERE, "the-key", Settings()).body


def test_a_spend_limit_says_no_more_than_a_sentence() -> None:
    """It is RESOURCE_EXHAUSTED with neither QuotaFailure nor RetryInfo."""
    answer = refusal(Fault("429-spend", first=1), WHERE, "key", Settings(tier="paid"))
    error = json.loads(answer.body)["error"]
    assert (error["code"], error["status"], details(answer)) == (429, "RESOURCE_EXHAUSTED", {})
    assert "spend limit" in error["message"]
