"""The emulator as a process: its one line, its end, broken connections, and the real SDK against it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from google import genai
from google.genai import errors, types

from tests.conftest import Emulator, emulating
from tests.emulator.conftest import LABELS, MODEL, PATH, asking

COMMAND = [sys.executable, "-m", "pipeline.emulator"]
FAULTS = ("hang", "reset", "cut", "trickle:0.4", "slow:0.3", "502-html")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator in which a text that holds a fault's name meets it."""
    flags = [flag for fault in FAULTS for flag in ("--fault", f"{fault}~<{fault}>")]
    with emulating(*flags, "--fault", "429-minute:7.36~<429>") as running:
        yield running


def post(emulator: Emulator, text: str, timeout: float = 10) -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection(urlsplit(emulator.address).netloc, timeout=timeout)
    try:
        connection.request("POST", PATH, json.dumps(asking(text)), {"x-goog-api-key": "key"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_hanging_request_ends_when_the_client_leaves(emulator: Emulator) -> None:
    """The client waits in vain, and the emulator goes on."""
    with pytest.raises(TimeoutError):
        post(emulator, "<hang>", timeout=0.3)
    assert post(emulator, "good")[0] == 200


def test_a_reset_connection_has_no_answer(emulator: Emulator) -> None:
    """Not one byte comes back."""
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        post(emulator, "<reset>")


def test_a_cut_answer_ends_in_the_middle(emulator: Emulator) -> None:
    """About half of what the header promises arrives."""
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(emulator, "<cut>")
    assert caught.value.expected is not None
    assert len(caught.value.partial) == pytest.approx(caught.value.expected, abs=1)


@pytest.mark.parametrize("fault", ["trickle:0.4", "slow:0.3"])
def test_a_late_answer_is_whole(emulator: Emulator, fault: str) -> None:
    """It only takes its time."""
    start = time.monotonic()
    status, body = post(emulator, f"<{fault}>")
    assert time.monotonic() - start >= float(fault.partition(":")[2]) - 0.05
    assert (status, json.loads(body)["modelVersion"]) == (200, MODEL)


@pytest.mark.parametrize("port", ["0", "18765"])
def test_it_says_where_it_listens_and_ends_well(port: str) -> None:
    """One line on stdout, none on stderr, and exit code 0 after either signal."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [*COMMAND, "--port", port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            server.send_signal(number)
            out, err = server.communicate(timeout=20)
        assert line.startswith("emulator listening on http://127.0.0.1:")
        assert (server.returncode, out, err) == (0, "", "")


def test_it_ends_quietly_with_a_request_in_flight() -> None:
    """What is not answered within a second is cut off, without a word."""
    with subprocess.Popen(
        [*COMMAND, "--latency", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
        connection.request("POST", PATH, json.dumps(asking()), {"x-goog-api-key": "key"})
        while not Emulator(address).stats()["requests"]:
            pass
        server.terminate()
        _, err = server.communicate(timeout=20)
        connection.close()
    assert (server.returncode, err) == (0, "")


def test_the_log_is_fresh_while_it_runs_and_whole_at_its_end(tmp_path: Path) -> None:
    """Lines come to the file within a second without another request, and the last ones with SIGTERM."""
    log = tmp_path / "log.csv"
    command = [*COMMAND, "--rpm", "1", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        emulator = Emulator(server.stdout.readline().split()[-1])
        before = time.monotonic()
        assert post(emulator, "good")[0] == 200
        after = time.monotonic()
        while len(log.read_text().splitlines()) < 2:
            assert time.monotonic() < after + 5
        assert post(emulator, "good")[0] == 429
        server.terminate()
    first, second = (line.split(",") for line in log.read_text().splitlines()[1:])
    assert before <= float(first[0]) + 1e-6
    assert float(first[0]) <= after <= float(second[0])
    assert (first[1:], second[1:]) == (["200", "1"], ["429", "1"])


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """One line on stderr and exit code 2."""
    command = [*COMMAND, "--log", str(tmp_path / "none" / "log.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"emulator: cannot write {command[-1]}: No such file or directory\n"


def test_an_answer_comes_in_one_piece(emulator: Emulator) -> None:
    """Head and body are one segment, so that a client wakes once."""
    where = urlsplit(emulator.address)
    body = json.dumps(asking()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nx-goog-api-key: k\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        got = connection.recv(65_536)
    told, _, content = got.partition(b"\r\n\r\n")
    assert f"content-length: {len(content)}".encode() in told.lower()
    assert content.endswith(b"}")


def test_a_taken_port_is_told(emulator: Emulator) -> None:
    """One line on stderr and exit code 2."""
    port = str(urlsplit(emulator.address).port)
    done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"emulator: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_wrong_fault_is_told() -> None:
    """The message of the settings, and exit code 2."""
    done = subprocess.run(
        [*COMMAND, "--fault", "506@1"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "unknown kind `506`" in done.stderr


def test_it_ends_with_the_process_that_started_it() -> None:
    """A parent that is killed leaves no server behind."""
    script = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'pipeline.emulator', '--port', '0', '--exit-with-parent']\n"
        "with subprocess.Popen(command) as child:\n    child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("emulator listening")
        parent.kill()
        assert parent.stdout.read() == ""  # the pipe closes when the last process that holds it is gone


def test_it_ends_in_silence_where_nobody_waits_for_its_address() -> None:
    """The process that started it was killed before it listened."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, "--exit-with-parent"], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.anyio
async def test_the_real_sdk_reads_answers_and_errors(emulator: Emulator) -> None:
    """google-genai gets typed usage and text, and its ClientError has the details of a 429."""
    async with aiohttp.ClientSession() as session:
        client = genai.Client(api_key="key", http_options=options(emulator, session))
        config = types.GenerateContentConfig(
            system_instruction="You label reviews.",
            max_output_tokens=200,
            response_mime_type="application/json",
            response_json_schema=LABELS,
            thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.MINIMAL),
            automatic_continuation=False,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        answer = await client.aio.models.generate_content(
            model=MODEL, contents="Review: a great kettle", config=config
        )
        with pytest.raises(errors.ClientError) as caught:
            await client.aio.models.generate_content(model=MODEL, contents="<429>", config=config)
        await client.aio.aclose()
        client.close()
    assert json.loads(answer.text or "")["label"] == "positive"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.prompt_token_count
    assert caught.value.code == 429
    assert caught.value.details["error"]["details"][-1]["retryDelay"] == "7s"


def options(emulator: Emulator, session: aiohttp.ClientSession) -> types.HttpOptions:
    """Return how the SDK is told to use an emulator, without retries of its own."""
    return types.HttpOptions(
        base_url=emulator.address,
        api_version="v1beta",
        timeout=20_000,
        retry_options=types.HttpRetryOptions(attempts=1),
        aiohttp_client=session,
    )
