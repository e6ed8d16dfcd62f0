"""Which file system a folder lies on."""

from pathlib import Path

import pytest

from pipeline.mounts import network

LINES = """
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 21 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/local\\040disk rw,relatime - xfs /dev/vdb rw
32 21 0:42 / /mnt/a rw - {kind} server rw
33 21 0:43 / /mnt/over rw - cifs server rw
34 21 0:44 / /mnt/over rw - ext4 /dev/vdc rw
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table of mounts."""
    path = tmp_path / "mountinfo"
    path.write_text(LINES.strip().format(kind="fuse.sshfs"))
    return path


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/.runs", None),
        ("/home/me/project/.runs", "nfs4"),
        ("/home/local disk/me", None),
        ("/homestead/me", None),
        ("/mnt/a/b", "fuse.sshfs"),
        ("/mnt/over/b", None),
    ],
)
def test_the_nearest_mount_counts(table: Path, folder: str, kind: str | None) -> None:
    """The longest mount point that holds the folder says, and of two at one point the later."""
    assert network(Path(folder), table) == kind


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "fuse.glusterfs", "9p"])
def test_file_systems_of_a_network_are_known(tmp_path: Path, kind: str) -> None:
    """All the common ones are told apart from local ones."""
    path = tmp_path / "mountinfo"
    path.write_text(LINES.strip().format(kind=kind))
    assert network(Path("/mnt/a"), path) == kind


def test_a_system_that_does_not_say_is_trusted(tmp_path: Path) -> None:
    """Without the table nothing is refused."""
    assert network(tmp_path, tmp_path / "none") is None
