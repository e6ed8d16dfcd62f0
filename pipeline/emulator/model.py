"""The model: one call in, the reply that the API sends for it out, online and in batches alike."""

from base64 import urlsafe_b64encode
from typing import Any

from pipeline.emulator.acts import bend
from pipeline.emulator.counts import Tokens
from pipeline.emulator.generation import Generation
from pipeline.emulator.replies import reply, say
from pipeline.emulator.wire import Call, Route


def respond(
    call: Call, generation: Generation, where: Route, mark: bytes, *, kind: str = "", tier: str = "standard"
) -> tuple[dict[str, Any], Tokens]:
    """Return the reply and what it took; `kind` is an odd fault, `tier` how the usage names the served one.

    The same call always gets the same reply; `mark` is its digest, of which the response's id is made.
    """
    said = say(call, generation)
    if kind:
        said = bend(kind, said, generation.limit)
    name = urlsafe_b64encode(mark).rstrip(b"=").decode()
    return reply(said, where, name, tier), Tokens(said.prompt, said.output + said.thoughts, said.cached)
