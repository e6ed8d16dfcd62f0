"""Files and uploads: bytes at offsets, limits, and their end after 48 hours; paths and points in time."""

from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.emulator.batches import Batches, Input
from pipeline.emulator.files import LIFETIME_S, MOST_BYTES, File, Files
from pipeline.emulator.operations import operation, paged
from pipeline.emulator.settings import Settings
from pipeline.emulator.shelf import Asked, Shelf
from pipeline.emulator.times import moment, seconds, stamp
from pipeline.emulator.wire import Refused, Route

pytestmark = pytest.mark.anyio


@dataclass
class Room:
    """Files with a clock of our own."""

    wall: float = 1_795_000_000.0
    files: Files = field(init=False)

    def __post_init__(self) -> None:
        self.files = Files(lambda: self.wall)

    def add(self, content: bytes = b"x") -> File:
        """Add a file."""
        session = self.files.start({}, None, "text/plain", None)
        upload = self.files.upload(session)
        upload.path.write_bytes(content)
        upload.received = len(content)
        return self.files.finalize(session)

    async def take(self, session: str, content: bytes, **headers: str) -> int:
        """Send bytes of an upload; return the status."""
        told = {"x-goog-upload-" + name: value for name, value in headers.items()}
        wanted = operation("POST", "/upload/v1beta/files", f"upload_id={session}".encode())
        assert wanted is not None

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        try:
            taken = await Shelf(self.files).take(Asked(wanted, told, "http://x"), pieces())
        except Refused as refused:
            return refused.answer.status
        return taken.status


@pytest.fixture
def room() -> Iterator[Room]:
    """Return files that are gone after the test."""
    made = Room()
    yield made
    made.files.close()


async def test_a_piece_may_be_sent_again(room: Room) -> None:
    """From any offset that has been reached; a gap is refused."""
    session = room.files.start({"displayName": "n"}, 6, "", None)
    assert await room.take(session, b"abcd", command="upload", offset="0") == 200
    assert await room.take(session, b"CD", command="upload", offset="2") == 200
    assert await room.take(session, b"gh", command="upload", offset="5") == 400
    assert await room.take(session, b"ef", command="upload, finalize", offset="4") == 200
    file = room.files.all()[0]
    assert (file.path.read_bytes(), file.size, file.display) == (b"abCDef", 6, "n")


async def test_an_upload_has_the_size_that_it_declares(room: Room) -> None:
    """Less cannot be finalized, more is not taken, and what was given up is gone."""
    session = room.files.start({}, 3, "", None)
    assert await room.take(session, b"ab", command="upload, finalize", offset="0") == 400
    assert await room.take(session, b"cd", command="upload, finalize", offset="2") == 400
    assert await room.take(session, b"", command="cancel") == 200
    assert await room.take(session, b"", command="upload", offset="0") == 404


def test_a_file_lasts_for_48_hours(room: Room) -> None:
    """Then it is as if it had never been, on disk as well."""
    file = room.add()
    room.wall += LIFETIME_S - 1
    assert room.files.get(file.name) == file
    room.wall += 1
    with pytest.raises(Refused) as caught:
        room.files.get(file.name)
    assert caught.value.answer.status == 403
    assert not file.path.exists()


def test_files_have_a_size_and_share_a_storage(room: Room) -> None:
    """2 GB at most, and together no more than there is; deleting makes room."""
    with pytest.raises(Refused) as caught:
        room.files.start({}, MOST_BYTES + 1, "", None)
    assert caught.value.answer.status == 400
    file = room.add(b"1234")
    with pytest.raises(Refused) as caught:
        room.files.start({}, 7, "", 10)
    assert caught.value.answer.status == 429
    room.files.delete(file.name)
    assert room.files.start({}, 7, "", 10)


def test_a_name_is_given_once(room: Room) -> None:
    """A client may choose it, if nobody has it."""
    session = room.files.start({"name": "files/mine"}, 0, "", None)
    assert room.files.finalize(session).name == "files/mine"
    with pytest.raises(Refused) as caught:
        room.files.start({"name": "mine"}, 0, "", None)
    assert caught.value.answer.status == 409


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("POST", "/upload/v1/files", b"", "upload-start"),
        ("PUT", "/upload/v1beta/files", b"upload_id=x", "upload-bytes"),
        ("GET", "/v1beta/files/x:download", b"alt=media", "file-download"),
        ("GET", "/download/v1beta/files/x:download", b"alt=media", "file-download"),
        ("POST", "/v1/models/m:batchGenerateContent", b"", "batch-create"),
        ("POST", "/v1beta/batches/x:cancel", b"", "batch-cancel"),
        ("PATCH", "/v1beta/cachedContents/x", b"updateMask=ttl", "cache-update"),
        ("POST", "/v1beta/models/m:generateContent", b"", None),
        ("PUT", "/v1beta/files/x", b"", None),
    ],
)
def test_a_path_is_read(method: str, path: str, query: bytes, kind: str | None) -> None:
    """In both versions; what is no operation is left to others."""
    read = operation(method, path, query)
    assert (read.kind if read else None) == kind


@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_pages_together_are_the_whole(things: list[int], size: int) -> None:
    """Each thing once, in order, and no page is too long."""
    found, token = list[int](), ""
    while True:
        page, token = paged(things, (size, token))
        assert len(page) <= size
        found += page
        if not token:
            break
    assert found == things


@given(st.floats(0, 4e9))
def test_a_point_in_time_comes_back(wall: float) -> None:
    """To the microsecond and better."""
    assert moment(stamp(wall)) == pytest.approx(wall, abs=1e-6)


@pytest.mark.parametrize("text", ["10", "s", "1m", ""])
def test_a_wrong_duration_is_told(text: str) -> None:
    """A number and an s, nothing else."""
    with pytest.raises(ValueError, match=r".+"):
        seconds(text)


def test_jobs_of_another_model_have_tokens_of_their_own(room: Room) -> None:
    """The limit is for each model, and jobs that are over do not count."""
    batches, told = Batches(lambda: room.wall), Settings(tier="paid", batch_tokens=10)
    lines = Input(room.files.path("x"), array("Q", [0]), "files/x", tokens=8)
    job = batches.create(Route("v1", "models/a", "a", "", cloud=False), "", lines)
    batches.check(told, "b", 10)
    with pytest.raises(Refused):
        batches.check(told, "a", 3)
    batches.end(job, "SUCCEEDED")
    batches.check(told, "a", 10)
