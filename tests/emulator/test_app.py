"""The emulator from outside, without a socket: keys, models, quotas, answers, faults, counters."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from pipeline.emulator import Settings
from pipeline.emulator.bodies import VERTEX_EXHAUSTED
from tests.emulator.conftest import LABELS, MODEL, PATH, Desk, Got, asking, live

pytestmark = pytest.mark.anyio
CLOUD = f"/v1beta1/projects/p/locations/global/publishers/google/models/{MODEL}:generateContent"


@pytest.mark.parametrize(
    ("key", "status", "word"),
    [
        (None, 403, "unregistered callers"),
        ("", 400, "API key not valid"),
        ("bad-1", 400, "API key not valid"),
    ],
)
async def test_a_wrong_key_is_refused(key: str | None, status: int, word: str) -> None:
    """No key is another fault than a key that is not valid."""
    got = await Desk(Settings()).ask(key=key)
    assert got.status == status
    assert word in got.message


@pytest.mark.parametrize(
    ("token", "status"), [("Bearer t", 200), ("Bearer bad", 401), ("t", 401), (None, 401)]
)
async def test_the_cloud_path_wants_a_token(token: str | None, status: int) -> None:
    """A bearer token in the authorization header; a key does not help."""
    assert (await Desk(Settings()).ask(path=CLOUD, key=token, header="authorization")).status == status


@pytest.mark.parametrize("path", [PATH, CLOUD])
async def test_an_unknown_model_is_not_found(path: str) -> None:
    """The message names the model."""
    header, key = ("authorization", "Bearer t") if path == CLOUD else ("x-goog-api-key", "k")
    got = await Desk(Settings()).ask(path=path.replace(MODEL, "gemini-x"), key=key, header=header)
    assert got.status == 404
    assert "models/gemini-x" in got.message


async def test_an_answer_has_the_api_s_shape() -> None:
    """Candidates, usage whose parts add up, the model, an id, and the marks of an emulator."""
    got = await Desk(Settings()).ask(asking("Review: great", LABELS))
    usage = got.json["usageMetadata"]
    assert got.status == 200
    assert got.json["candidates"][0]["finishReason"] == "STOP"
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]
    assert "thoughtsTokenCount" not in usage
    assert got.json["modelVersion"] == MODEL
    assert got.json["responseId"]
    assert got.headers["x-gemini-service-tier"] == "standard"
    assert got.headers["content-length"] == str(len(got.content))


@pytest.mark.parametrize(("path", "status"), [(PATH, 200), (f"/v1/models/{MODEL}:embedContent", 404)])
async def test_every_answer_says_that_it_is_emulated(path: str, status: int) -> None:
    """Nobody takes an answer of rules for one of a model."""
    got = await Desk(Settings()).ask(path=path)
    assert (got.status, bool(got.headers["x-rowmill-emulator"])) == (status, True)


async def test_equal_requests_get_equal_answers() -> None:
    """There is no chance in it: two emulators answer alike, and a seed may change the answer."""
    body = asking("Review: it is a thing", LABELS)
    first, second = [(await Desk(Settings()).ask(body)).content for _ in range(2)]
    assert first == second


async def test_the_cap_cuts_the_answer() -> None:
    """The text ends in the middle, and exactly the cap is billed."""
    desk = Desk(Settings())
    whole = await desk.ask(asking("Review: great", LABELS))
    cut = await desk.ask(asking("Review: great", LABELS, maxOutputTokens=5))
    assert cut.json["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert cut.json["usageMetadata"]["candidatesTokenCount"] == 5
    assert whole.text.startswith(cut.text)
    assert len(cut.text) < len(whole.text)


async def test_thoughts_are_under_the_cap_too() -> None:
    """A cap that thoughts use up leaves nothing to see."""
    thinking = {"thinkingLevel": "high"}
    got = await Desk(Settings()).ask(asking("great", LABELS, maxOutputTokens=20, thinkingConfig=thinking))
    assert got.json["candidates"][0]["content"] == {"role": "model"}
    assert got.json["usageMetadata"]["thoughtsTokenCount"] == 20


async def test_a_prefilled_answer_is_refused() -> None:
    """Models of the third generation want the user to speak last."""
    turns = [{"role": role, "parts": [{"text": "x"}]} for role in ("user", "model")]
    assert (await Desk(Settings()).ask({"contents": turns})).status == 400


async def test_tokens_can_be_counted() -> None:
    """The count is that of the answer's usage, and it uses up no quota."""
    desk = Desk(Settings(rpm=1))
    path = PATH.replace("generateContent", "countTokens")
    counted = [await desk.ask(asking("a longer text"), path=path) for _ in range(3)]
    answered = await desk.ask(asking("a longer text"))
    assert {got.json["totalTokens"] for got in counted} == {
        answered.json["usageMetadata"]["promptTokenCount"]
    }


async def test_quotas_hold_for_each_model_by_itself() -> None:
    """The request above the limit is refused until the window has passed; another model is free."""
    desk = Desk(Settings(rpm=2))
    statuses = [(await desk.ask()).status for _ in range(3)]
    other = await desk.ask(path=PATH.replace("3.1", "3.5"))
    desk.now += 60
    assert statuses == [200, 200, 429]
    assert other.status == 200
    assert (await desk.ask()).status == 200


async def test_the_cloud_names_no_quota() -> None:
    """A refusal on the cloud path has one sentence and no details."""
    desk = Desk(Settings(rpm=1))
    got = [await desk.ask(path=CLOUD, key="Bearer t", header="authorization") for _ in range(2)]
    assert [one.status for one in got] == [200, 429]
    assert "details" not in got[1].json["error"]


async def test_the_day_has_a_quota_of_its_own() -> None:
    """It ends with the Pacific day, whatever the other clock says."""
    desk = Desk(Settings(rpd=1))
    statuses = [(await desk.ask()).status for _ in range(2)]
    desk.wall += 24 * 3600
    assert [*statuses, (await desk.ask()).status] == [200, 429, 200]


@pytest.mark.parametrize(("fault", "left"), [("503@1", 1), ("400-argument@1", 1), ("429-bare@1", 2)])
async def test_failed_requests_use_up_quota_and_refused_ones_do_not(fault: str, left: int) -> None:
    """Of two requests a fault takes one, unless it stands for a quota."""
    desk = Desk(Settings(rpm=2, faults=(fault,)))
    statuses = [(await desk.ask()).status for _ in range(4)]
    assert statuses.count(200) == left


@pytest.mark.parametrize(("path", "header"), [(PATH, "x-goog-api-key"), (CLOUD, "authorization")])
async def test_above_its_capacity_it_refuses_without_a_reason(path: str, header: str) -> None:
    """Of three at once two are answered; the third is refused before they are, and holds no place itself."""
    desk, got = Desk(Settings(capacity=2, latency=0.1, rpm=3)), list[Got]()

    async def ask() -> None:
        got.append(await desk.ask(path=path, key="Bearer t", header=header))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
    assert [one.status for one in got] == [429, 200, 200]
    assert got[0].json["error"].keys() == {"code", "message", "status"}
    assert got[0].message == VERTEX_EXHAUSTED
    await ask()  # the refused one has used up no quota either
    assert got[-1].status == 200


async def test_capacity_changes_while_it_runs() -> None:
    """None in flight are allowed, then any number."""
    desk, statuses = Desk(Settings()), []
    for capacity in (0, None):
        await desk.ask({"capacity": capacity}, path="/emulator/settings")
        statuses.append((await desk.ask()).status)
    assert statuses == [429, 200]


async def test_a_broken_answer_gives_its_place_back() -> None:
    """What ends in a fault is not in flight any more."""
    desk = Desk(Settings(capacity=1, faults=("reset@1", "503@2")))
    with pytest.raises(ConnectionResetError):
        await desk.ask()
    assert [(await desk.ask()).status for _ in range(2)] == [503, 200]


async def test_the_token_that_it_grants_opens_the_cloud_path() -> None:
    """Any account gets one, so that the SDK can ask as on Vertex AI."""
    desk = Desk(Settings())
    granted = (await desk.ask(b"grant_type=any", path="/token", key=None)).json
    token = f"{granted['token_type']} {granted['access_token']}"
    assert granted["expires_in"] == 3600
    assert (await desk.ask(path=CLOUD, key=token, header="authorization")).status == 200


async def test_a_body_that_is_refused_uses_up_no_quota() -> None:
    """It never came to the model."""
    desk = Desk(Settings(rpm=1))
    assert (await desk.ask({"contents": []})).status == 400
    assert (await desk.ask()).status == 200


async def test_too_long_a_prompt_is_refused_for_itself() -> None:
    """Without a token quota the context window is the limit."""
    got = await Desk(Settings()).ask(asking("7 " * 1_100_000))
    assert got.status == 400
    assert "token count exceeds" in got.message


@pytest.mark.parametrize(("kind", "body"), [("html200", b"<!DOCTYPE"), ("garbage200", b"{")])
async def test_a_foreign_body_comes_with_200(kind: str, body: bytes) -> None:
    """Something between model and client answered, and the model is not paid."""
    desk = Desk(Settings(faults=(f"{kind}@1",)))
    got = await desk.ask()
    assert got.status == 200
    assert got.content.startswith(body)
    assert (await desk.stats())["answered"] == 0


async def test_a_trickled_body_is_whole_in_the_end() -> None:
    """It comes in pieces."""
    desk = Desk(Settings(faults=("trickle:0@1",)))
    assert (await desk.ask(asking("great", LABELS))).text == (await desk.ask(asking("great", LABELS))).text


async def test_a_connection_that_cannot_be_broken_raises() -> None:
    """In this process there is no socket to break."""
    with pytest.raises(ConnectionResetError):
        await Desk(Settings(faults=("reset@1",))).ask()


async def test_everything_is_counted() -> None:
    """Requests, answers, statuses, tokens, and answers to requests that were answered before."""
    desk = Desk(Settings(faults=("503@2",)))
    got = [await desk.ask(asking(text)) for text in ("a", "a", "a", "b")]
    stats = await desk.stats()
    usages: list[dict[str, Any]] = [one.json["usageMetadata"] for one in got if one.status == 200]
    assert stats["requests"] == 4
    assert stats["by_status"] == {"200": 3, "503": 1}
    assert (stats["answered"], stats["distinct"], stats["repeated"]) == (3, 2, 1)
    assert stats["prompt_tokens"] == sum(usage["promptTokenCount"] for usage in usages)
    assert stats["output_tokens"] == sum(usage["candidatesTokenCount"] for usage in usages)
    assert (stats["most_in_flight"], stats["rate_limited"]) == (1, 0)


async def test_another_configuration_is_another_request() -> None:
    """The same text with another cap is not a repetition."""
    desk = Desk(Settings())
    for limit in (50, 60):
        await desk.ask(asking("a", maxOutputTokens=limit))
    assert (await desk.stats())["repeated"] == 0


async def test_pace_changes_while_it_runs() -> None:
    """The next request has the new latency; what is not named stays."""
    desk = Desk(Settings(latency=600, jitter=0.0, rpm=9))
    got = await desk.ask({"latency": 0}, path="/emulator/settings")
    quotas = {"rpm": 9, "tpm": None, "rpd": None, "capacity": None}
    assert got.json.items() >= {"latency": 0, "jitter": 0.0, **quotas}.items()
    assert (got.json["faults"], got.json["batch_jobs"], got.json["cancel_keeps"]) == ([], 100, True)
    with anyio.fail_after(5):
        assert (await desk.ask()).status == 200


async def test_quotas_change_and_windows_stay() -> None:
    """A lower limit holds for what was admitted before it, and null lifts it."""
    desk = Desk(Settings(rpm=3))
    statuses = [(await desk.ask()).status for _ in range(2)]
    await desk.ask({"rpm": 2}, path="/emulator/settings")
    refused = await desk.ask()
    await desk.ask({"rpm": None}, path="/emulator/settings")
    assert [*statuses, refused.status, (await desk.ask()).status] == [200, 200, 429, 200]
    assert refused.json["error"]["details"][1]["violations"][0]["quotaValue"] == "2"
    assert (await desk.stats())["requests"] == 4


async def test_faults_come_and_go() -> None:
    """Numbers of requests go on from the start; an empty list ends all faults."""
    desk = Desk(Settings())
    statuses = [(await desk.ask()).status]
    await desk.ask({"faults": ["503@1", "500@3+"]}, path="/emulator/settings")
    statuses += [(await desk.ask()).status for _ in range(2)]
    await desk.ask({"faults": []}, path="/emulator/settings")
    assert [*statuses, (await desk.ask()).status] == [200, 200, 500, 200]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tier": "paid"}, "`tier` is no setting that can change"),
        ({"rpm": 1.5}, "`rpm` is 1.5, not an integer"),
        ({"tpm": True}, "`tpm` is True, not an integer"),
        ({"rpd": -1}, "`rpd` is -1, not a number from 0"),
        ({"capacity": 0.5}, "`capacity` is 0.5, not an integer"),
        ({"latency": "6"}, "`latency` is '6', not a number"),
        ({"latency": None}, "`latency` is None, not a number"),
        ({"jitter": 1e999}, "`jitter` is inf, not a number from 0"),
        ({"faults": "503@1"}, "`faults` is '503@1', not a list of texts"),
        ({"faults": ["506@1"]}, "unknown kind `506`"),
        (["latency"], "not a JSON object"),
        (b"{", "EOF while parsing"),
    ],
)
async def test_a_wrong_change_is_told_and_changes_nothing(changes: object, complaint: str) -> None:
    """What stands beside it in the same object is not taken either."""
    desk = Desk(Settings())
    sent = {"rpm": 0} | changes if isinstance(changes, dict) else changes
    got = await desk.ask(sent, path="/emulator/settings")
    assert (got.status, complaint in got.message) == (400, True), got.message
    assert (await desk.ask()).status == 200


async def test_the_log_has_a_line_for_each_request_at_the_gate(tmp_path: Path) -> None:
    """Time, status and tokens; a fault that only bends the answer passed the gate."""
    log = tmp_path / "log.csv"
    desk = Desk(Settings(rpm=2, log=str(log), faults=("503@2", "badjson@1")))
    tokens = []
    for text in ("short", "a longer text", "refused"):
        counted = await desk.ask(asking(text), path=PATH.replace("generateContent", "countTokens"))
        tokens.append(counted.json["totalTokens"])
        await desk.ask(asking(text))
        desk.now += 1.5
    await desk.ask(key=None)
    await live(desk.app)
    lines = ["1000.000000,200", "1001.500000,503", "1003.000000,429", "1004.500000,403"]
    wanted = [f"{line},{size}" for line, size in zip(lines, [*tokens, 0], strict=True)]
    assert log.read_text().splitlines() == ["seconds,status,tokens", *wanted]


async def test_a_reset_forgets_counters_quotas_and_script() -> None:
    """The first request after it is the first again."""
    desk = Desk(Settings(rpm=1, faults=("503@1",)))
    assert [(await desk.ask()).status for _ in range(2)] == [503, 429]
    assert (await desk.ask(path="/emulator/reset")).status == 200
    assert (await desk.stats())["requests"] == 0
    assert (await desk.ask()).status == 503
