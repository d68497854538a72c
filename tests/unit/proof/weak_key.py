"""A repository whose key costs no time: restic spends half a second on each opening, so that nobody guesses passwords.
The tests open theirs a thousand times, and their password is no secret."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305


def weaken(repository: Path, password: str) -> None:
    """Put a key with the least work in the place of the only one."""
    (path,) = (repository / "keys").iterdir()
    key = json.loads(path.read_bytes())
    plain = _open(_derived(password, key), base64.b64decode(key["data"]))
    key |= {"N": 2, "r": 1, "p": 1}
    key["data"] = base64.b64encode(_close(_derived(password, key), plain)).decode()
    content = json.dumps(key).encode()
    path.unlink()
    (repository / "keys" / hashlib.sha256(content).hexdigest()).write_bytes(content)


def _derived(password: str, key: dict[str, object]) -> tuple[bytes, bytes, bytes]:
    made = hashlib.scrypt(
        password.encode(),
        salt=base64.b64decode(str(key["salt"])),
        n=int(str(key["N"])),
        r=int(str(key["r"])),
        p=int(str(key["p"])),
        maxmem=1 << 28,
        dklen=64,
    )
    return made[:32], made[32:48], made[48:]


def _crypt(key: bytes, initial: bytes, content: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(initial)).encryptor().update(content)


def _mac(mac_key: bytes, mac_r: bytes, nonce: bytes, content: bytes) -> bytes:
    pad = Cipher(algorithms.AES(mac_key), modes.ECB()).encryptor().update(nonce)  # Poly1305-AES, as restic has it
    return Poly1305.generate_tag(mac_r + pad, content)


def _open(keys: tuple[bytes, bytes, bytes], sealed: bytes) -> bytes:
    nonce, content, tag = sealed[:16], sealed[16:-16], sealed[-16:]
    assert _mac(keys[1], keys[2], nonce, content) == tag
    return _crypt(keys[0], nonce, content)


def _close(keys: tuple[bytes, bytes, bytes], plain: bytes) -> bytes:
    nonce = os.urandom(16)
    content = _crypt(keys[0], nonce, plain)
    return nonce + content + _mac(keys[1], keys[2], nonce, content)
