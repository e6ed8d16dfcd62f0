"""Replays recorded API traffic through the real client and counts what the client makes of it.

    python benchmarks/replay.py FOLDER_OR_FILE...

A record is a line of a `.jsonl` file with a status (`status` or `http_status`) and a body
(`response_json`, `response_text`, `body` or `body_text`). A server on loopback answers each request with
the next record. Lines of a file named `structured_success` must give a text that is JSON. Records of the
Batch API go through its own readers: jobs, known by their path, and lines of results.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from aiohttp import web

from pipeline.batch import Seen
from pipeline.flow import Failure, Reply, Request
from pipeline.gemini.batches import Batches, open_batches
from pipeline.gemini.client import Client, Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.failures import failure_of_reply
from pipeline.gemini.lines import Job, answer_of_line

STRUCTURED = "structured_success"
GENERATION = Generation("recorded", "", {"type": "object"}, None, None, None, None, ())


@dataclass(frozen=True, slots=True)
class Recorded:
    """One answer of the API as it was recorded."""

    line: int
    status: int
    body: str
    kind: str = "call"  # or `job`, `line` or `error` of a line, of the Batch API


@dataclass(slots=True)
class Count:
    """What the records of one file became."""

    lines: int = 0
    replies: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    not_json: list[int] = field(default_factory=list)
    escaped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Replay:
    """The server's side: answers every request with the record in hand."""

    record: Recorded | None = None

    async def answer(self, _: web.Request) -> web.Response:
        """Answer with the status and the body of the record."""
        assert self.record is not None
        return web.Response(status=self.record.status, text=self.record.body, content_type="application/json")


def records(path: Path) -> Iterator[Recorded]:
    """Read the records of one file."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            status = record.get("status", record.get("http_status"))
            yield Recorded(number, int(status), _body(record), _kind(record))


def _kind(record: dict[str, object]) -> str:
    if record.get("method") == "BATCHLINE":
        return "line"
    if "batch output line" in str(record.get("framing", "")):
        return "error"
    path = str(record.get("url_path", ""))
    return "job" if "/batches/" in path or path.endswith(":batchGenerateContent") else "call"


def _body(record: dict[str, object]) -> str:
    for name in ("response_json", "response_text", "body", "body_text"):
        content = record.get(name)
        if content is not None:
            return content if isinstance(content, str) else json.dumps(content)
    return ""


async def replay(paths: list[Path], verbose: bool) -> dict[str, Count]:
    """Send every record of every file through one client."""
    state = Replay()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", state.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    endpoint = Endpoint(
        "replay", f"http://{host}:{port}", vertex=False, project=None, location=None, api_version="v1beta"
    )
    counts: dict[str, Count] = {}
    try:
        async with (
            open_client(endpoint, GENERATION, timeout_s=30, connections=1) as client,
            open_batches(endpoint, GENERATION.model, timeout_s=30) as batches,
        ):
            for path in paths:
                counts[path.name] = count = Count()
                for record in records(path):
                    state.record = record
                    if record.kind == "call":
                        await _one(client, record, count, structured=path.stem == STRUCTURED, verbose=verbose)
                    else:
                        await _of_batch(batches, record, count)
    finally:
        await runner.cleanup()
    return counts


async def _of_batch(batches: Batches, record: Recorded, count: Count) -> None:
    """Read a job or a line of results; what is understood counts by its state, or as an answer."""
    count.lines += 1
    try:
        if record.kind == "job":
            found = await batches.look("batches/recorded")
            known = isinstance(found, Seen) and bool(found.job and found.state)
            count.kinds[f"job {found.state}" if known and isinstance(found, Seen) else "job not read"] += 1
            return
        name = "error" if record.kind == "error" else "response"
        wrapped = json.dumps({"key": "k", name: json.loads(record.body)})
        line = answer_of_line(wrapped, Job())
    except Exception as exc:  # noqa: BLE001  # an escaped exception is what this looks for
        count.escaped.append(f"line {record.line}: {exc!r}")
        return
    answer = line.answer if line is not None else None
    if not isinstance(answer, Reply):
        count.kinds["line not read" if answer is None else f"line {answer.kind}"] += 1
        return
    count.replies += 1
    failure = failure_of_reply(answer)
    count.kinds[f"line {failure.kind}" if failure else "line answered"] += 1


async def _one(client: Client, record: Recorded, count: Count, *, structured: bool, verbose: bool) -> None:
    count.lines += 1
    request = Request(id=bytes(16), text="recorded", max_output_tokens=None)
    try:
        outcome = await client.ask(request)
        failure = outcome if isinstance(outcome, Failure) else failure_of_reply(outcome)
    except Exception as exc:  # noqa: BLE001  # an escaped exception is what this looks for
        count.escaped.append(f"line {record.line}: {exc!r}")
        return
    if isinstance(outcome, Reply):
        count.replies += 1
        if structured and failure is None and not _is_json(outcome.text):
            count.not_json.append(record.line)
    count.kinds[failure.kind if failure else "answer"] += 1
    if verbose and failure:
        print(
            f"{record.line:5} {record.status} {failure.kind:13} {failure.retry_after} {failure.message[:100]}"
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def table(counts: dict[str, Count]) -> str:
    """Format the counts for people."""
    lines = [f"{'file':28} {'lines':>5} {'replies':>7}  outcomes"]
    for name, count in counts.items():
        kinds = ", ".join(f"{kind} {times}" for kind, times in count.kinds.most_common())
        lines.append(f"{name:28} {count.lines:5} {count.replies:7}  {kinds}")
        lines += [f"  text is not JSON: line {number}" for number in count.not_json]
        lines += [f"  escaped: {escaped}" for escaped in count.escaped]
    return "\n".join(lines)


def main() -> int:
    """Replay the files given; 1 where an exception escaped or a structured text is not JSON."""
    parser = argparse.ArgumentParser(description="replay recorded API traffic through the client")
    parser.add_argument("paths", nargs="+", type=Path, help="`.jsonl` files or folders of them")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each failure")
    given = parser.parse_args()
    files = [f for path in given.paths for f in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    counts = anyio.run(replay, files, given.verbose)
    print(table(counts))
    return 1 if any(count.escaped or count.not_json for count in counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
