"""Questions before something goes: Ctrl-C ends them at once, and nothing has gone."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.conftest import Project
from tests.test_cli import Shell, inherited, shell

__all__ = ["shell"]
TRIES = 3  # a signal between the question and the wait for its answer may be heard late


def answered(project: Project, words: list[str], number: int) -> tuple[int, str]:
    """Run a command on a terminal and send a signal to its question; return the code and what was said."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "pipeline", *words]
    with (
        inherited(number, signal.SIG_DFL),
        subprocess.Popen(
            command, cwd=project.folder, stdin=end, stdout=subprocess.DEVNULL, stderr=end
        ) as asking,
    ):
        os.close(end)
        said = b""
        while b"[y/N]: " not in said:
            said += os.read(terminal, 1_000)
        for _ in range(TRIES):
            asking.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                asking.wait(5)
                break
        code = asking.poll()
        if code is None:
            asking.kill()
    with suppress(OSError):  # the other end is closed
        while more := os.read(terminal, 1_000):
            said += more
    os.close(terminal)
    return -1 if code is None else code, " ".join(said.decode().split())


@pytest.mark.parametrize("words", [["clean"], ["cache", "prune", "--all"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_question(shell: Shell, project: Project, words: list[str], number: int) -> None:
    """Without another key; everything stays, and the message says so."""
    project.rows(["good"])
    assert shell("run", project.job, "--offline", "--quiet").code == 0
    code, said = answered(project, words, number)
    assert code == 3
    assert "nothing was removed" in said
    assert "--yes" in said
    assert "goes on" not in said
    assert shell("status", project.job, "--offline").out.startswith("labels: 1 rows, 1 ok")
