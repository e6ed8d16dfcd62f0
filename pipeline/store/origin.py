"""The mark of a run folder that holds answers of the emulator: an empty file, which stays.

A row that took the answer of another, out of the cache or the journal, does not say in its part who gave it.
"""

from pipeline.disk import sync_folder
from pipeline.errors import StoreError
from pipeline.store.folder import CONTINUE, Folder

MARK = "emulated"


def mark_emulated(folder: Folder) -> None:
    """Mark a folder, durably, before such rows are written to a part. Raises StoreError."""
    path = folder.path / MARK
    try:
        if not path.exists():
            path.touch()
            sync_folder(folder.path)
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc


def is_emulated(folder: Folder) -> bool:
    """Tell whether answers there are known to be the emulator's."""
    return (folder.path / MARK).exists()
