"""A run looks at its input while it asks: at a few files each time, at very many now and then."""

from pathlib import Path

import pytest

from pipeline import lookout as subject
from pipeline.input.source import Source, open_source
from pipeline.lookout import Lookout


def opened(path: Path) -> Source:
    """Write an input and open it."""
    path.write_text("id,text\n1,one\n")
    return open_source(path, key=["id"], used=["text"])


def test_a_change_is_seen_at_the_next_look(tmp_path: Path) -> None:
    """That other files change, or that it is read, is none."""
    path = tmp_path / "rows.csv"
    lookout = Lookout(opened(path))
    path.read_bytes()
    (tmp_path / "other.csv").write_text("id\n")
    assert not lookout.look()
    path.rename(tmp_path / "away")
    assert lookout.look()


def test_very_many_files_are_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at ten thousand files takes time, and there is one for every part."""
    monkeypatch.setattr(subject, "FEW", 0)
    lookout = Lookout(opened(tmp_path / "rows.csv"))
    assert not lookout.look()
    (tmp_path / "rows.csv").unlink()
    assert not lookout.look()
    monkeypatch.setattr(subject, "EVERY", 0.0)
    lookout = Lookout(opened(tmp_path / "rows.csv"))
    assert not lookout.look()
    (tmp_path / "rows.csv").unlink()
    assert lookout.look()
