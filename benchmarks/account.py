"""A service account that exists nowhere, with which the real SDK asks an emulator as Vertex AI.

Tests and benchmarks write its file; the emulator grants any account a token.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def private_key() -> str:
    """Make a private key in the form that an account file has."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def write_account(folder: Path, address: str, key: str) -> Path:
    """Write the file of an account that gets its tokens from the server at `address`; return its path."""
    account = {
        "type": "service_account",
        "project_id": "some-other-project",
        "private_key_id": "1",
        "private_key": key,
        "client_email": "rows@example.invalid",
        "client_id": "1",
        "token_uri": f"{address}/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path


def cloud(folder: Path, address: str, key: str) -> dict[str, str]:
    """Return the environment variables with which a run asks the server at `address` as Vertex AI."""
    return {
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_CLOUD_PROJECT": "mill-1",
        "GOOGLE_CLOUD_LOCATION": "global",
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_account(folder, address, key)),
        "NO_PROXY": "127.0.0.1",
    }
