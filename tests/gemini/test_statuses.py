"""What each HTTP error means, in all the envelopes in which errors arrive."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import Failure, FailureKind
from pipeline.gemini.statuses import failure_of_status

MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
TOKENS = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PAID_DAY = "GenerateRequestsPerDayPerProjectPerModel"
EXCEEDED = "You exceeded your current quota."


def _error(status: int, message: str, *details: dict[str, object], name: str = "") -> str:
    error = {"code": status, "message": message, "status": name, "details": list(details)}
    return json.dumps({"error": error})


def _quotas(*violations: tuple[str, str | None]) -> dict[str, object]:
    listed = [
        {"quotaMetric": "example/metric", "quotaId": quota_id, **({"quotaValue": value} if value else {})}
        for quota_id, value in violations
    ]
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": listed}


def _retry(delay: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def _reason(reason: str, **metadata: str) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata}


def test_a_minute_is_waited_for_exactly() -> None:
    """The sentence has the exact delay; the field has it floored."""
    message = f"{EXCEEDED}\n* Quota exceeded for metric: m, limit: 15, model: x\nPlease retry in 21.75s."
    failure = failure_of_status(429, _error(429, message, _quotas((MINUTE, "15")), _retry("21s")))
    assert failure.kind is FailureKind.RATE_LIMITED
    assert (failure.retry_after, failure.quota_id, failure.quota_value) == (21.75, MINUTE, 15)


@pytest.mark.parametrize(
    ("prose", "field", "expected"),
    [
        ("Please retry in 10h17m5.5s.", "5s", 37_025.5),
        ("Please  retry in   250ms.", None, 0.25),
        ("please try again in 30 seconds", None, 30.0),
        ("", "17s", 18.0),
        ("", "17.25s", 17.25),
        ("", "0s", 1.0),
        ("", "soon", None),
        ("Please retry in 99999999999h.", None, None),
        ("", None, None),
    ],
)
def test_delays(prose: str, field: str | None, expected: float | None) -> None:
    """Go durations from the sentence, Protobuf durations from the field with a second on top if whole."""
    details = [_retry(field)] if field else []
    assert failure_of_status(429, _error(429, prose, *details)).retry_after == expected


def test_a_delay_in_metadata_counts() -> None:
    """Some services put the delay among the metadata of the reason."""
    body = _error(429, EXCEEDED, _reason("RATE_LIMIT_EXCEEDED", quotaResetDelay="812.5ms"))
    assert failure_of_status(429, body).retry_after == 0.8125


def test_a_day_is_a_day_despite_a_short_delay() -> None:
    """A used-up day asks for seconds; its quota id decides."""
    body = _error(429, f"{EXCEEDED} limit: 20\nPlease retry in 9.5s.", _quotas((DAY, "20")), _retry("9s"))
    failure = failure_of_status(429, body)
    assert (failure.kind, failure.quota_id, failure.quota_value) == (FailureKind.QUOTA_DAY, DAY, 20)


def test_a_day_wins_over_a_minute() -> None:
    """Where both are used up, waiting for the minute does not help."""
    body = _error(429, EXCEEDED, _quotas((MINUTE, "15"), (DAY, "500")))
    failure = failure_of_status(429, body)
    assert (failure.kind, failure.quota_id, failure.quota_value) == (FailureKind.QUOTA_DAY, DAY, 500)


def test_no_quota_for_the_model() -> None:
    """A tier without quota lists several violations with a limit of 0 in the sentence."""
    lines = "\n".join("* Quota exceeded for metric: m, limit: 0, model: x" for _ in range(3))
    body = _error(
        429, f"{EXCEEDED}\n{lines}\nPlease retry in 4s.", _quotas((TOKENS, None), (MINUTE, None), (DAY, None))
    )
    assert failure_of_status(429, body).kind is FailureKind.NO_QUOTA


def test_a_paid_day_prints_a_limit_of_zero() -> None:
    """A used-up paid day says `limit: 0` with its one id; tomorrow there is quota again."""
    message = f"{EXCEEDED}\n* Quota exceeded for metric: x/requests_per_model_per_day, limit: 0"
    assert (
        failure_of_status(429, _error(429, message, _quotas((PAID_DAY, None)))).kind is FailureKind.QUOTA_DAY
    )
    assert failure_of_status(429, _error(429, message)).kind is FailureKind.QUOTA_DAY


def test_a_stated_value_of_zero_is_no_quota() -> None:
    """A quota whose value is 0 has nothing tomorrow either."""
    assert failure_of_status(429, _error(429, EXCEEDED, _quotas((DAY, "0")))).kind is FailureKind.NO_QUOTA


@pytest.mark.parametrize("limit", ["limit: 0.5", "limit: 05", "limit: 10"])
def test_other_limits_are_not_zero(limit: str) -> None:
    """Only a bare 0 is none."""
    body = _error(429, f"{EXCEEDED} {limit}", _quotas((MINUTE, None)))
    assert failure_of_status(429, body).kind is FailureKind.RATE_LIMITED


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (402, "Payment Required", FailureKind.BILLING),
        (429, "Your prepayment credits are depleted. Go on.", FailureKind.BILLING),
        (429, "The project has exceeded its monthly  spending cap.", FailureKind.BILLING),
        (400, "Billing is not enabled for this project.", FailureKind.BILLING),
        (429, "Resource has been exhausted (e.g. check quota).", FailureKind.RATE_LIMITED),
        (429, "check your plan and billing details", FailureKind.RATE_LIMITED),
        (429, "No capacity available for model m", FailureKind.OVERLOADED),
        (400, "API key not valid. Please pass another.", FailureKind.KEY),
        (400, "API key expired.", FailureKind.KEY),
        (401, "Request had invalid credentials", FailureKind.KEY),
        (403, "The API has not been used in project 1 before or it is disabled.", FailureKind.KEY),
        (403, "CachedContent not found (or permission denied)", FailureKind.CACHE),
        (404, "CachedContent not found", FailureKind.CACHE),
        (400, "Cached content 12 is expired.", FailureKind.CACHE),
        (400, "Cached content model does not match the model in the request.", FailureKind.CONFIG),
        (429, "TotalCachedContentStorageTokensPerModelFreeTier limit exceeded: limit=0", FailureKind.CONFIG),
        (400, "User  location is  not supported for the API use.", FailureKind.LOCATION),
        (404, "models/m is not found for API version v1beta", FailureKind.MODEL),
        (400, "* GenerateContentRequest.model: unexpected model name format", FailureKind.MODEL),
        (400, "a constraint that has too  many states for  serving", FailureKind.SCHEMA),
        (400, "exceeds the maximum allowed nesting depth", FailureKind.SCHEMA),
        (400, "Unknown name \"x\" at 'generation_config.response_schema'", FailureKind.SCHEMA),
        (400, "Unknown name \"x\" at 'response_json_schema'", FailureKind.SCHEMA),
        (400, "Unknown name \"x\" at 'generation_config': Cannot find field.", FailureKind.CONFIG),
        (400, "generation_config.temperature: must be in the range [0, 2]", FailureKind.CONFIG),
        (400, "JSON mode is not enabled for models/m", FailureKind.CONFIG),
        (400, "Cached content is too small. total_token_count=1", FailureKind.CONFIG),
        (400, "The input token count (9) exceeds the maximum number of tokens", FailureKind.TOO_LONG),
        (400, "Request payload size exceeds the limit: 1 bytes.", FailureKind.TOO_LONG),
        (413, "", FailureKind.TOO_LONG),
        (400, "Request contains an invalid argument.", FailureKind.BAD_REQUEST),
        (400, "Provided image is not valid.", FailureKind.BAD_REQUEST),
        (503, "The model is overloaded.", FailureKind.OVERLOADED),
        (503, "The model is experiencing high demand.", FailureKind.OVERLOADED),
        (500, "The input token count broke the server", FailureKind.SERVER),
        *[(status, "", FailureKind.SERVER) for status in (302, 408, 499, 500, 502, 418, 599)],
        (504, "Deadline expired before operation could complete.", FailureKind.DEADLINE),
        (429, "You have reached the spend limit of your tier.", FailureKind.SPEND_LIMITED),
    ],
)
def test_kinds(status: int, message: str, kind: FailureKind) -> None:
    """Status and phrase decide, however many blanks the server puts between words."""
    assert failure_of_status(status, _error(status, message)).kind is kind


@pytest.mark.parametrize(
    ("status", "detail", "kind"),
    [
        (400, _reason("API_KEY_INVALID"), FailureKind.KEY),
        (403, _reason("BILLING_DISABLED"), FailureKind.BILLING),
        (429, _reason("MODEL_CAPACITY_EXHAUSTED"), FailureKind.OVERLOADED),
        (400, {"fieldViolations": [{"field": "generation_config.seed"}]}, FailureKind.CONFIG),
        (400, {"detail": "generic: User location is not supported"}, FailureKind.LOCATION),
    ],
)
def test_details_decide_where_the_message_is_silent(
    status: int, detail: dict[str, object], kind: FailureKind
) -> None:
    """Reasons, fields and debug texts count as much as the message."""
    assert failure_of_status(status, _error(status, "$grpcMessage", detail)).kind is kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("too_many_requests", FailureKind.RATE_LIMITED),
        ("rate_limit_exceeded", FailureKind.RATE_LIMITED),
        ("quota_exceeded", FailureKind.QUOTA_DAY),
        ("payment_required", FailureKind.BILLING),
    ],
)
def test_codes_in_words(code: str, kind: FailureKind) -> None:
    """The newer surface has words for codes."""
    assert failure_of_status(429, json.dumps({"error": {"message": "No.", "code": code}})).kind is kind


PLAIN = _error(429, f"{EXCEEDED} Please retry in 7.5s.", _quotas((DAY, "20")), _retry("7s"))
EXPECTED = Failure(FailureKind.QUOTA_DAY, f"HTTP 429: {EXCEEDED} Please retry in 7.5s.", 7.5, DAY, 20)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        f"[{PLAIN}]",
        PLAIN.replace('"@type"', '" @type"').replace('"quotaId"', '" quotaId"'),
        PLAIN.replace("quota.", "quota.\n", 1),
        json.dumps({"error": {"message": PLAIN, "code": 429, "status": "Too Many Requests"}}),
        json.dumps({"success": False, "error": {"message": json.dumps(json.loads(PLAIN), indent=2)}}),
        json.dumps(json.loads(PLAIN)["error"]),
        PLAIN.replace('"status"', '"errors": [{"message": "legacy", "domain": "global"}], "status"'),
    ],
)
def test_envelopes(body: str) -> None:
    """The same error means the same in every wrapping."""
    assert failure_of_status(429, body) == EXPECTED


@pytest.mark.parametrize(
    "body",
    [
        PLAIN[: PLAIN.index("retryDelay")],
        f"429 RESOURCE_EXHAUSTED. {json.loads(PLAIN)}",
        f"Error 429, Details: [map[violations:[map[quotaId:{DAY} quotaValue:20]]] Please retry in 7.5s",
    ],
)
def test_text_that_was_json_once(body: str) -> None:
    """Cut or reprinted errors still give quota and delay."""
    failure = failure_of_status(429, body)
    assert (failure.kind, failure.quota_id, failure.retry_after) == (FailureKind.QUOTA_DAY, DAY, 7.5)


def test_html_is_told_in_words() -> None:
    """A proxy's page shows as its text."""
    page = "<html><head><style>p {color: red}</style></head><body><h1>502.</h1><p>That is\nan error.</p>"
    assert failure_of_status(502, page).message == "HTTP 502: 502. That is an error."


@pytest.mark.parametrize("body", ["", "null", "{}", "  "])
def test_nothing_is_told_as_nothing(body: str) -> None:
    """A body without words gives a message that says so."""
    assert failure_of_status(404, body) == Failure(FailureKind.MODEL, "HTTP 404: no message")


def test_the_replacement_of_a_model_stays_readable() -> None:
    """The sentence that names the model to use instead reaches the user."""
    failure = failure_of_status(404, _error(404, "No longer available. Please use models/gemini-x."))
    assert "models/gemini-x" in failure.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "message", "details", "quotaId", "quotaValue", "retryDelay", "reason", "detail"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(status=st.integers(0, 700), body=st.text() | JSON.map(json.dumps))
def test_every_body_gives_a_storable_failure(status: int, body: str) -> None:
    """Any status with any text or JSON: no exception, one line of valid Unicode, a finite wait."""
    failure = failure_of_status(status, body)
    assert len(failure.message) <= 500
    assert failure.message.encode().splitlines() == [failure.message.encode()]
    assert failure.retry_after is None or 0 <= failure.retry_after < 700_000
