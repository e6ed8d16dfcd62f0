"""The command line: exit codes, messages, precedence, secrets."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from pipeline import cli
from pipeline.cli.app import BUG
from pipeline.executors.halt import WORDS
from tests.conftest import Emulator, Project, emulating

ROOT = Path(__file__).parent.parent
KEY = "AIzaSy-not-a-key-but-looks-like-one-0123"


@dataclass(frozen=True)
class Said:
    """What a command has printed and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """Runs the command in this process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Said:
        """Run `rowmill` with these words."""
        self.monkeypatch.setattr(sys, "argv", ["rowmill", *map(str, words)])
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        printed = self.capsys.readouterr()
        return Said(int(ended.value.code or 0), printed.out, printed.err)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """Return the command in an environment of its own."""
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "GEMINI_", "ROWMILL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ROWMILL_STATE_DIR", str(tmp_path / "state"))
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating("--fault", "finish-safety~<finish-safety>") as running:
        yield running


def test_no_key_names_both_ways_out(shell: Shell, project: Project) -> None:
    """Without a key nothing falls back to the emulator silently."""
    project.rows(["good"])
    said = shell("run", project.job)
    assert said.code == 2
    assert "GEMINI_API_KEY" in said.err
    assert "--offline" in said.err
    assert not (project.folder / ".rowmill").exists()


def test_any_text_is_a_key_for_the_emulator(shell: Shell, project: Project) -> None:
    """Who gives an address on this machine and no key is told so, who gives another is not."""
    project.rows(["good"])
    here = shell("run", project.job, "--base-url", "http://127.0.0.1:8600")
    there = shell("run", project.job, "--base-url", "https://gateway.example.com")
    assert (here.code, there.code) == (2, 2)
    assert "`GEMINI_API_KEY=any`" in here.err
    assert "emulate" not in there.err


def test_the_emulator_says_how_to_ask_it() -> None:
    """Its address is the result; the command stands beside it."""
    command = [sys.executable, "-m", "pipeline", "emulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        server.terminate()
        _, said = server.communicate(timeout=30)
    assert f"`GEMINI_API_KEY=any rowmill run jobs/sentiment.toml --tier 1 --base-url {address}`" in said


def test_offline_says_that_no_model_answered(shell: Shell, project: Project) -> None:
    """A run on the emulator says so in the summary and in the table."""
    project.rows(["good", "bad"])
    said = shell("run", project.job, "--offline")
    assert said.code == 0
    assert "not from a model" in said.err
    assert set(project.table()["_source"]) == {"emulator"}


def test_a_row_that_cannot_be_rendered_is_not_worth_a_retry(shell: Shell, project: Project) -> None:
    """The hint says so, in the run that finds it and in the next one, which asks nothing."""
    project.rows(["good", "bad"])
    project.change("{{ text }}", "{{ text }}{{ '!' if text == 'good' else text + 1 }}")
    for _ in range(2):
        said = shell("run", project.job, "--offline")
        assert said.code == 1
        assert "mend the row or `prompt.row`" in said.err
        assert "asks again" not in said.err


def test_json_is_all_that_stands_on_stdout(shell: Shell, project: Project, emulator: Emulator) -> None:
    """With `--json` standard output is one JSON document and standard error stays empty."""
    project.rows(["good", "<finish-safety>"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    said = shell("run", project.job, "--base-url", emulator.address, "--json")
    report = json.loads(said.out)
    assert (said.code, report["exit_code"], report["ok"], report["failed"]) == (1, 1, 1, 1)
    assert report["this_run"]["failures"] == {"safety": 1}
    assert said.err == ""


def test_quiet_prints_nothing(shell: Shell, project: Project) -> None:
    """With `--quiet` a run that went well says nothing."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet") == Said(0, "", "")


def test_show_prints_the_first_rows(shell: Shell, project: Project) -> None:
    """`--show` prints that many results on standard output, and no more."""
    project.rows(["good", "bad", "good"])
    said = shell("run", project.job, "--offline", "--show", 2)
    assert said.out.count("ok") == 2
    assert "positive" in said.out


def test_flags_win_over_environment_and_job_file(shell: Shell, project: Project) -> None:
    """Flags over environment over job file."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shell.monkeypatch.setenv("ROWMILL_STATUS_RPD", "7")
    assert json.loads(shell("status", project.job, "--json").out)["requests_per_day"] == 7
    assert json.loads(shell("status", project.job, "--json", "--rpd", 9).out)["requests_per_day"] == 9


def test_status_tells_how_far_a_job_is(shell: Shell, project: Project, emulator: Emulator) -> None:
    """Rows, cost and today's requests, without a request; nothing is written by asking."""
    project.rows(["good", "<finish-safety>", "bad"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    at = ("--base-url", emulator.address)
    before = json.loads(shell("status", project.job, *at, "--json").out)
    assert (before["pending"], before["requests_today"]) == (3, 0)
    assert not (project.folder / ".rowmill").exists()
    shell("run", project.job, *at)
    after = json.loads(shell("status", project.job, *at, "--json").out)
    assert (after["ok"], after["failed"], after["pending"], after["requests_today"]) == (2, 1, 0, 3)
    assert "3 rows, 2 ok, 1 failed, 0 pending" in shell("status", project.job, *at).out


def test_a_count_that_cannot_be_read_is_not_zero(shell: Shell, project: Project) -> None:
    """Who plans by what is left of the quota must not be told that nothing was asked."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    state = Path(os.environ["ROWMILL_STATE_DIR"])
    state.mkdir()
    (state / "ledger.sqlite").write_text("no database at all" * 100)
    said = shell("status", project.job)
    assert "requests today: not known" in said.out
    assert "cannot be read: file is not a database" in said.err
    assert json.loads(shell("status", project.job, "--json").out)["requests_today"] is None


def test_schema_prints_what_is_sent_and_what_comes_out(shell: Shell, project: Project) -> None:
    """The JSON schema comes first, then the Arrow schema; without an input its columns are left out."""
    said = shell("schema", project.job)
    assert '"enum"' in said.out
    assert "label: dictionary" in said.out
    assert "does not exist" in said.err
    assert said.code == 0


def test_input_and_output_flags_start_from_the_working_folder(shell: Shell, project: Project) -> None:
    """Paths on the command line are the shell's, paths in the job file are the project's."""
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    pl.DataFrame({"id": ["1"], "text": ["good"]}).write_csv(elsewhere / "other.csv")
    shell.monkeypatch.chdir(elsewhere)
    said = shell("run", project.job, "--offline", "--input", "other.csv", "--output", "here.csv")
    assert said.code == 0
    assert pl.read_csv(elsewhere / "here.csv").height == 1


@pytest.mark.parametrize("fault", ["403-echo", "400-key"])
def test_the_key_is_never_shown(shell: Shell, project: Project, fault: str) -> None:
    """The API echoes keys; neither messages nor files nor the summary hold them."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--fault", f"{fault}@1") as echoing:
        said = shell("run", project.job, "--base-url", echoing.address, "--json")
    assert said.code == 5
    assert KEY not in said.out + said.err
    files = [path for path in project.folder.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_an_unknown_flag_is_a_usage_error(shell: Shell, project: Project) -> None:
    """Usage errors have exit code 2."""
    assert shell("run", project.job, "--ofline").code == 2


def test_a_bug_is_not_taken_for_failed_rows(shell: Shell, project: Project) -> None:
    """An error that nobody foresaw shows its traceback and has an exit code of its own."""
    project.rows(["good"])
    shell.monkeypatch.setattr(cli.jobs, "run_job", lambda *_, **__: 1 / 0)
    said = shell("run", project.job, "--offline")
    assert said.code == BUG
    assert "ZeroDivisionError" in said.err


def spoil(project: Project, what: str) -> None:
    """Break one thing of a project."""
    rows, schema = project.folder / "rows.csv", project.folder / "schemas" / "label.py"
    match what:
        case "missing file":
            rows.unlink()
        case "empty file":
            rows.write_text("")
        case "unreadable encoding":
            rows.write_bytes("id,text\n1,schön\n".encode("latin-1"))
        case "ragged CSV":
            rows.write_text("id,text\n1,good,extra\n")
        case "short CSV":
            rows.write_text("id,text\n1\n2,good\n")
        case "missing key column":
            project.change('key = ["id"]', 'key = ["ident"]')
        case "duplicate keys":
            rows.write_text("id,text\n1,good\n1,bad\n")
        case "template column":
            project.change("{{ text }}", "{{ texts }}")
        case "schema does not import":
            schema.write_text("import no_such_module")
        case "no Pydantic model":
            schema.write_text("class Label: ...")
        case "schema for no API":
            schema.write_text("import pydantic\nclass Label(pydantic.BaseModel):\n    x: object\n")
        case "output not writable":
            (project.folder / "out").write_text("a file")
        case "output is a link":
            (project.folder / "out").symlink_to("nowhere")
        case "output is a pipe":
            (project.folder / "out").mkdir()
            os.mkfifo(project.output)
        case "output is a folder":
            project.output.mkdir(parents=True)
        case "name too long":
            project.change("out/labels", "out/" + "x" * 250)
        case "output is input":
            project.change("out/labels.parquet", "rows.csv")
        case "unknown key":
            project.change("[limits]", "[limits]\nrmp = 5")
        case "retired model":
            project.change("gemini-3.1-flash-lite", "gemini-3.1-flash-lite-preview")
        case "clash of names":
            rows.write_text("id,text,label\n1,good,x\n")
        case "no TOML":
            project.job.write_text("name = ")
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing file", "does not exist"),
        ("empty file", "is empty"),
        ("unreadable encoding", "UTF-8"),
        ("ragged CSV", "line 2"),
        ("short CSV", "line 2"),
        ("missing key column", "`id`"),
        ("duplicate keys", "same key `1`"),
        ("template column", "`text`"),
        ("schema does not import", "no_such_module"),
        ("no Pydantic model", "not a Pydantic model"),
        ("schema for no API", "`x`"),
        ("output not writable", "cannot be written"),
        ("output is a link", "leads to no folder"),
        ("output is a pipe", "no file that can be replaced"),
        ("output is a folder", "is a folder"),
        ("name too long", "its name is too long"),
        ("output is input", "input itself"),
        ("unknown key", "`rpm`"),
        ("retired model", "`gemini-3.1-flash-lite`"),
        ("clash of names", "prefix"),
        ("no TOML", "TOML"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(shell: Shell, project: Project, what: str, says: str) -> None:
    """Exit code 2, one line that names the fault, a hint, and nothing written."""
    project.rows(["good", "bad"])
    spoil(project, what)
    before = sorted(project.folder.rglob("*"))
    said = shell("run", project.job, "--offline")
    error, blank, hint = said.err.strip().split("\n")
    assert said.code == 2
    assert error.startswith("error: ")
    assert blank == ""
    assert hint.startswith("hint: ")
    assert says in said.err
    assert [path for path in sorted(project.folder.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("name", ["rows.csv", "x" * 300])
def test_a_run_folder_that_cannot_be_made_is_found_in_the_plan(
    shell: Shell, project: Project, name: str
) -> None:
    """Exit code 4, and nothing was asked or written."""
    project.rows(["good"])
    said = shell("run", project.job, "--offline", "--runs-dir", project.folder / name)
    assert said.code == 4
    assert "error: the run folder `" in said.err
    assert "` cannot be made: " in said.err


def test_a_second_run_of_the_same_job_is_refused(shell: Shell, project: Project) -> None:
    """While one process runs a job another gets exit code 4 and is told which process that is."""
    project.rows([f"good {n}" for n in range(50)])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--latency", "30") as slow, started(project, slow) as first:
        wait_for(lambda: (project.folder / ".rowmill").exists() and slow.stats()["requests"] > 0)
        said = shell("run", project.job, "--base-url", slow.address)
        first.kill()
        first.wait()
    assert said.code == 4
    assert f"process {first.pid}" in said.err


def started(
    project: Project, emulator: Emulator, *flags: str, command: str = "run", before: Sequence[str] = ()
) -> "subprocess.Popen[str]":
    """Start a run, or another command on a job, as a process of its own."""
    environment = {**os.environ, "GEMINI_API_KEY": KEY, "ROWMILL_STATE_DIR": str(project.folder / "state")}
    words = [
        *before,
        sys.executable,
        "-m",
        "pipeline",
        command,
        str(project.job),
        "--base-url",
        emulator.address,
        *flags,
    ]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)


def wait_for(condition: "object", seconds: float = 30.0) -> None:
    """Wait until something outside this process is true."""
    ends = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < ends, "it never came true"
        time.sleep(0.02)


def test_ctrl_c_while_libraries_are_loaded_is_a_stop() -> None:
    """It is told in a line, not by a traceback out of somebody's import."""
    code = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "polars":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from pipeline.cli import main
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("stopped before anything was done: run the same command again")


@contextmanager
def inherited(signum: int, how: signal.Handlers) -> Iterator[None]:
    """Let processes of the block begin with a signal ignored or not, however these tests were started."""
    before = signal.signal(signum, how)
    try:
        yield
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_and_the_same_command_continues(project: Project, signum: int) -> None:
    """Ctrl-C, SIGTERM and a closed terminal let what is in flight end; nothing is asked twice."""
    project.rows([f"good {n}" for n in range(400)])
    with emulating("--latency", "0.2") as emulator, inherited(signum, signal.SIG_DFL):
        with started(project, emulator, "--concurrency", "8") as first:
            wait_for(lambda: emulator.stats()["answered"] >= 20)
            for _ in range(1 + (signum == signal.SIGHUP)):  # which comes twice with a closed terminal
                first.send_signal(signum)
            _, err = first.communicate(timeout=30)
        assert first.returncode == 3
        assert f"stopped before the end by {WORDS[signal.Signals(signum)]}" in err
        assert "run the same command again" in err
        with started(project, emulator, "--concurrency", "200") as second:
            second.communicate(timeout=60)
        assert second.returncode == 0
        assert emulator.stats()["repeated"] == 0
    assert project.table().height == 400
    assert set(project.table()["_status"]) == {"ok"}


def test_an_ignored_hang_up_stops_nothing(project: Project) -> None:
    """Under `nohup` a run goes on when its terminal is closed."""
    project.rows([f"good {n}" for n in range(100)])
    with emulating("--latency", "0.2") as emulator, inherited(signal.SIGHUP, signal.SIG_IGN):
        with started(project, emulator, "--concurrency", "8") as process:
            wait_for(lambda: emulator.stats()["answered"] >= 20)
            process.send_signal(signal.SIGHUP)
            process.communicate(timeout=60)
        assert process.returncode == 0


def test_a_signal_waits_for_what_is_paid_for_and_a_second_one_does_not(project: Project) -> None:
    """After the first, all that was in flight is answered and kept; the second ends the run at once."""
    project.rows([f"good {n}" for n in range(400)])
    with emulating("--latency", "0.2") as emulator:
        with started(project, emulator, "--concurrency", "8") as first:
            wait_for(lambda: emulator.stats()["answered"] >= 8)
            emulator.change(latency=7)
            time.sleep(1)
            first.send_signal(signal.SIGTERM)
            first.communicate(timeout=30)
        assert first.returncode == 3
        assert emulator.stats()["answered"] == emulator.stats()["requests"]
        with started(project, emulator, "--concurrency", "8") as second:
            before = emulator.stats()["requests"]
            wait_for(lambda: emulator.stats()["requests"] > before)
            for _ in range(2):
                second.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            _, err = second.communicate(timeout=5)
        assert second.returncode == 3
        dropped = emulator.stats()["requests"] - before
        assert f"{dropped} request" in err
        assert "in flight" in err
        assert "may be paid for again" in err
        assert "nothing twice" not in err


@pytest.mark.parametrize("command", ["status", "estimate", "verify", "runs"])
def test_looking_at_a_job_leaves_no_file_behind(
    shell: Shell, project: Project, emulator: Emulator, command: str
) -> None:
    """Neither beside the journal nor beside the count that all runs share; nothing is written to, either."""
    project.rows(["good", "bad"])
    state = project.folder / "state"
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shell.monkeypatch.setenv("ROWMILL_STATE_DIR", str(state))
    at = ("--base-url", emulator.address)
    assert shell("run", project.job, *at, "--limit", "1").code == 0
    assert (state / "ledger.sqlite").exists()

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in project.folder.rglob("*") if path.is_file()}

    before = files()
    shell(command, project.job, *(at if command != "runs" else ()))
    assert files() == before


def test_answers_that_stand_in_the_journal_are_seen(shell: Shell, project: Project) -> None:
    """After SIGKILL `status` counts what the journal has, and the next run says so before it takes it."""
    project.rows([f"good number {n}" for n in range(60)])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--latency", "0.05") as emulator:
        with started(project, emulator, "--concurrency", "4") as process:
            wait_for(lambda: emulator.stats()["answered"] >= 30)
            process.kill()
            process.communicate()
        said = json.loads(shell("status", project.job, "--base-url", emulator.address, "--json").out)
        assert (said["ok"], said["pending"]) == (0, 60)
        assert 26 <= said["replied"] <= 40
        told = shell("status", project.job, "--base-url", emulator.address).out
        assert (
            f"{said['replied']} of them have their reply already, for ${said['replied_cost_usd']:.4f})"
            in told
        )
        before = emulator.stats()["requests"]
        last = shell("run", project.job, "--base-url", emulator.address)
        assert (
            f"{60 - said['replied']} rows to ask, 0 done before, {said['replied']} with a reply" in last.err
        )
        assert emulator.stats()["requests"] - before == 60 - said["replied"]
        each = project.table()["_cost_usd"].sum() / 60
        assert said["replied_cost_usd"] == pytest.approx(said["replied"] * each, rel=0.1)


def test_another_address_is_called_that(shell: Shell, project: Project) -> None:
    """Who asks the emulator after an API, or the other way round, is told that the address differs."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    shell("run", project.job, "--offline", "--quiet")
    assert "differs in `address`" in shell("status", project.job).out
    assert "differs in `address`" in shell("verify", project.job).err
    listed = shell("runs", "--runs-dir", project.folder / ".rowmill").out
    assert "endpoint" not in listed


def test_a_full_disk_ends_with_a_summary_of_what_is_kept(project: Project) -> None:
    """A limit on the size of files stands for it; no more is asked again than was in flight."""
    project.rows([f"good {n}" for n in range(2_000)])
    with emulating("--latency", "0.05") as emulator:
        limited = ["bash", "-c", 'ulimit -f 400; exec "$@"', "-"]
        with started(project, emulator, "--concurrency", "8", before=limited) as first:
            _, err = first.communicate(timeout=60)
        assert first.returncode == 4
        answered = emulator.stats()["answered"]
        said = re.search(
            r"(\d[\d,]*) ok.* pending(?: \((\d[\d,]*) of them with a reply in the journal)?", err
        )
        assert said is not None, err
        kept = sum(int(number.replace(",", "")) for number in said.groups("0"))
        assert answered - 8 <= kept <= answered, (err, emulator.stats())
        assert "this run: " in err
        assert "the answers come from the local emulator" in err
        assert re.search(r"; \d+ requests? in flight w(as|ere) dropped", err)
        assert "what was in flight is asked once more and may be paid for again" in err
        with started(project, emulator, "--concurrency", "8") as second:
            second.communicate(timeout=60)
        assert second.returncode == 0
        assert emulator.stats()["repeated"] <= 8


def test_a_disk_that_is_full_at_once_has_nothing_in_flight(project: Project) -> None:
    """Where no request was made nothing can be paid for again, and nobody says so."""
    project.rows(["good"])
    command = [sys.executable, "-m", "pipeline", "run", str(project.job), "--offline"]
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "-", *command]
    ended = subprocess.run(limited, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4
    assert "replies.sqlite` cannot be opened" in ended.stderr
    assert "in flight" not in ended.stderr


def test_sigkill_repeats_only_what_was_in_flight(project: Project) -> None:
    """Killed five times: the same table, and only requests in flight were sent twice."""
    project.rows([f"good number {n}" for n in range(600)])
    workers, kills = 16, 5
    with emulating("--latency", "0.05") as emulator:
        for turn in range(kills):
            with started(project, emulator, "--concurrency", str(workers)) as process:
                goal = 90 * (turn + 1)
                wait_for(lambda goal=goal: emulator.stats()["answered"] >= goal)
                process.kill()
                process.communicate()
        with started(project, emulator, "--concurrency", str(workers)) as last:
            last.communicate(timeout=60)
        repeated = emulator.stats()["repeated"]
    broken = project.table().drop("_latency_ms")
    assert last.returncode == 0
    assert repeated <= kills * workers
    other = Project(project.folder / "unbroken")
    for name in ("jobs", "schemas"):
        (other.folder / name).mkdir(parents=True)
    other.job.write_text(project.job.read_text())
    (other.folder / "schemas" / "label.py").write_text((project.folder / "schemas" / "label.py").read_text())
    other.rows([f"good number {n}" for n in range(600)])
    with emulating() as emulator:
        other.run(emulator.address)
    assert broken.equals(other.table().drop("_latency_ms"))


def test_sigterm_while_the_table_is_written_is_a_stop(project: Project) -> None:
    """After the questions a signal still ends with 3, and the same command writes the table."""
    project.change('key = ["id"]', "key = []")
    project.rows(["good", "bad"] * 300_000)
    with emulating() as emulator:
        with started(project, emulator) as first:
            wait_for(lambda: any((project.folder / "out").glob("*.tmp")), 60)
            first.terminate()
            _, err = first.communicate(timeout=30)
        assert first.returncode == 3
        assert "stopped before the end by SIGTERM" in err
        assert not project.output.exists()
        assert not list((project.folder / "out").iterdir())
        with started(project, emulator) as second:
            second.communicate(timeout=60)
        assert (second.returncode, emulator.stats()["requests"]) == (0, 2)


def test_a_closed_stderr_does_not_end_the_run(project: Project) -> None:
    """When nobody reads the progress any more the run goes on."""
    project.rows([f"good {n}" for n in range(30)])
    with (
        emulating("--latency", "0.3") as emulator,
        started(project, emulator, "--concurrency", "2") as process,
    ):
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(timeout=60) == 0
    assert project.table().height == 30


def test_a_key_in_the_address_is_refused(shell: Shell, project: Project) -> None:
    """An address is stored and shown, so it may hold no secret."""
    project.rows(["good"])
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    said = shell("run", project.job, "--base-url", "http://127.0.0.1:9/?key=SECRET")
    assert said.code == 2
    assert "SECRET" not in said.err


def test_verify_says_what_is_wrong_and_what_to_do(shell: Shell, project: Project) -> None:
    """Exit code 0 where all is well, 4 where not, 2 for a job that never ran; a line for each finding."""
    project.rows(["good", "bad"])
    assert shell("verify", project.job, "--offline").code == 2
    shell("run", project.job, "--offline", "--quiet")
    well = shell("verify", project.job, "--offline")
    assert (well.code, well.out) == (0, "")
    assert "all is well" in well.err
    project.output.unlink()
    wrong = shell("verify", project.job, "--offline")
    assert wrong.code == 4
    assert wrong.out.startswith(f"{project.output}: the output is missing")
    assert "`rowmill run JOB`" in wrong.out
    assert "same command" not in wrong.out
    told = json.loads(shell("verify", project.job, "--offline", "--json").out)
    assert (told["exit_code"], len(told["findings"]), told["output_compared"]) == (4, 1, True)


def test_runs_lists_and_clean_removes(shell: Shell, project: Project) -> None:
    """`runs` shows a finished run, `clean` asks before it removes it, and the table stays."""
    project.rows(["good", "bad"])
    assert "no runs" in shell("runs", project.job).err
    shell("run", project.job, "--offline", "--quiet")
    (run,) = json.loads(shell("runs", project.job, "--json").out)
    assert (run["state"], run["answered"], run["failed"], run["replies"]) == ("finished", 2, 0, 2)
    shown = shell("runs", project.job).out
    assert run["run"] in shown
    assert "finished" in shown
    for answer, code, left in [("", 2, 1), ("n\n", 0, 1), ("y\n", 0, 0)]:
        shell.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
        said = shell("clean", project.job)
        assert said.code == code
        assert "paid for again" in said.err
        assert run["run"] in said.err
        assert len(json.loads(shell("runs", project.job, "--json").out)) == left
    assert project.table().height == 2
    assert "nothing to remove" in shell("clean", project.job, "--yes").err


def test_clean_keeps_what_it_was_not_told_of(shell: Shell, project: Project) -> None:
    """Unfinished and young runs stay; a run that is named goes even when it is unfinished."""
    project.rows(["good", "bad"])
    shell("run", project.job, "--offline", "--quiet")
    (run,) = json.loads(shell("runs", project.job, "--json").out)
    assert "kept" in shell("clean", project.job, "--older-than", "1h", "--yes").err
    (Path(run["run_folder"]) / "finished.json").unlink()
    shell.monkeypatch.chdir(project.folder / "jobs")  # the project is that of the job files here
    assert f"kept: {run['run']} (unfinished)" in shell("clean", "--yes").err
    assert shell("clean", "labels/zz", "--yes").code == 2
    assert shell("clean", "--older-than", "soon").code == 2
    assert "removed 1 run" in shell("clean", run["run"], "--yes").err
    assert json.loads(shell("runs", "--json").out) == []


def test_runs_and_clean_take_the_same_names(shell: Shell, project: Project) -> None:
    """A job by its file or its name, a run by a beginning; an unfinished one goes only by its own name."""
    project.rows(["good"])
    shell("run", project.job, "--offline", "--quiet")
    shell.monkeypatch.chdir(project.folder)
    (run,) = json.loads(shell("runs", "--json").out)
    for name in ("labels", run["run"], run["run"][:10], "jobs/labels.toml"):
        assert json.loads(shell("runs", name, "--json").out) == [run]
    for command in ("runs", "clean"):
        said = shell(command, "label")
        assert (said.code, "`label` names no run" in said.err) == (2, True)
    (Path(run["run_folder"]) / "finished.json").unlink()
    assert "nothing to remove" in shell("clean", "labels", "--yes").err
    project.change('name = "labels"', 'name = "other"')
    assert "no runs of job `other` in" in shell("runs", project.job).err
    assert "removed 1 run" in shell("clean", run["run"][:10], "--yes").err


def test_clean_removes_what_was_set_aside_alone(shell: Shell, project: Project) -> None:
    """After asking, in finished runs too; the run stays and its answers with it."""
    project.rows(["good", "bad"])
    shell("run", project.job, "--offline", "--quiet")
    (run,) = json.loads(shell("runs", project.job, "--json").out)
    kept = Path(run["run_folder"]) / "parts" / "part-0000009.damaged"
    kept.write_text("x")
    assert "notice: " in shell("verify", project.job, "--offline").out
    shell.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"n\n")))
    assert str(kept) in shell("clean", project.job, "--damaged").err
    assert kept.exists()
    assert "removed 1 damaged file, 1 B" in shell("clean", project.job, "--damaged", "--yes").err
    assert not kept.exists()
    assert json.loads(shell("runs", project.job, "--json").out)[0]["answered"] == 2
    assert "nothing to remove" in shell("clean", "--damaged", project.job).err


def test_a_run_that_runs_is_neither_verified_nor_removed(shell: Shell, project: Project) -> None:
    """Both say which process it is; `runs` shows it."""
    project.rows(["good"] * 3)
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with emulating("--latency", "30") as slow, started(project, slow) as first:
        wait_for(lambda: slow.stats()["requests"] > 0)
        (run,) = json.loads(shell("runs", project.job, "--json").out)
        verified = shell("verify", project.job, "--base-url", slow.address)
        named = shell("clean", run["run"], "--runs-dir", project.folder / ".rowmill", "--yes")
        passed = shell("clean", project.job, "--all", "--yes")
        first.kill()
        first.wait()
    assert run["state"] == "running"
    assert (verified.code, named.code, passed.code) == (4, 4, 0)
    assert all(f"process {first.pid}" in said for said in (verified.err, named.err, run["running"]))
    assert "(running)" in passed.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_messages_stops_no_run(project: Project, emulator: Emulator) -> None:
    """Where what is said cannot be written, the run goes on in silence and ends with its own code."""
    project.rows(["good"])
    command = [sys.executable, "-m", "pipeline", "run", str(project.job), "--base-url", emulator.address]
    env = os.environ | {"GEMINI_API_KEY": KEY, "ROWMILL_STATE_DIR": str(project.folder / "state")}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, stderr=full, stdout=full)
    assert done.returncode == 0
    assert project.table()["_status"].to_list() == ["ok"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_results_that_cannot_be_written_end_with_what_to_do(project: Project) -> None:
    """It is no fault of Rowmill, and what was answered is kept."""
    project.rows(["good"])
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pipeline", "run", str(project.job), "--offline", "--json"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 4
    assert ended.stderr.startswith("error: standard output cannot be written: No space left on device")
    assert "what was answered is kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception" not in ended.stderr


def test_a_reader_that_has_seen_enough_ends_nothing(project: Project) -> None:
    """`| head -1` is quiet, and the exit code is that of the command."""
    project.rows(["good"])
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "pipeline", "run", str(project.job), "--offline", "--json"]
    ended = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (0, "")
