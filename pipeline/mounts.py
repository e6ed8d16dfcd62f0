"""On which file system a folder lies, since locks and SQLite's log are not safe on those of a network."""

import re
from pathlib import Path

TABLE = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "fuse.ceph", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
        *("fuse.ceph-fuse", "fuse.davfs2", "fuse.mount-s3", "fuse.smbnetfs", "glusterfs", "gpfs", "lustre"),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs"),
    }
)


def network(folder: Path, table: Path = TABLE) -> str | None:
    """Return the type of the network file system that holds `folder`, or None where it is a local one.

    The folder need not exist. None also where the system does not say, as on macOS.
    """
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    kind = _kind(folder.resolve(), lines)
    return kind if kind in NETWORK else None


def _kind(folder: Path, lines: list[str]) -> str:
    """Return the type of the mount that is nearest to the folder; of several at one point, the last one."""
    depth, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split()[4]))
        if folder.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), right.split()[0]
    return kind


def _unescaped(name: str) -> str:
    """Return a name of the table with its blanks, which stand there as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)
