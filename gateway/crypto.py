# SPDX-License-Identifier: Apache-2.0
"""The primitives of the handshake and the control plane: X25519, two AEADs, BLAKE2s, HMAC, KDF, Ed25519.

Rule: no primitive is written here. libsodium (through pysodium) does curves and AEADs, hashlib does BLAKE2s; this
file fixes names, sizes and errors. Every function is pure; the packet path does its own AEAD in C.
Names follow the WireGuard whitepaper §5.4: Hash() is ``blake2s``, Mac() is ``blake2s_mac``, Kdf_n() is ``kdf``.
"""

from __future__ import annotations

import hashlib
import os.path
from hmac import compare_digest
from typing import Final, NamedTuple

from gateway import _sodium
from gateway._sodium import pysodium
from gateway.errors import AuthError, CryptoError, HostError

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16
XNONCE_BYTES: Final = 24
HASH_BYTES: Final = 32
MAC_BYTES: Final = 16
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_COUNTER_END: Final = 1 << 64
_ZERO_KEY: Final = bytes(KEY_BYTES)
_BLOCK_BYTES: Final = 64
_IPAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OPAD: Final = bytes(byte ^ 0x5C for byte in range(256))
# What HMAC pads the second half of a block with, under a key of 32 bytes.
_IPAD_REST: Final = _IPAD[:1] * (_BLOCK_BYTES - HASH_BYTES)
_OPAD_REST: Final = _OPAD[:1] * (_BLOCK_BYTES - HASH_BYTES)
_KDF_OUTPUTS_MAX: Final = 3

_blake2s = hashlib.blake2s
_scalarmult = pysodium.crypto_scalarmult_curve25519
_scalarmult_base = pysodium.crypto_scalarmult_curve25519_base
_chacha_encrypt = pysodium.crypto_aead_chacha20poly1305_ietf_encrypt
_chacha_decrypt = pysodium.crypto_aead_chacha20poly1305_ietf_decrypt
_xchacha_encrypt = pysodium.crypto_aead_xchacha20poly1305_ietf_encrypt
_xchacha_decrypt = pysodium.crypto_aead_xchacha20poly1305_ietf_decrypt
_sign_keypair = pysodium.crypto_sign_seed_keypair
_sign = pysodium.crypto_sign_detached
_sign_verify = pysodium.crypto_sign_verify_detached


# --- X25519 (RFC 7748) ------------------------------------------------------------------------------------------


def x25519(private: bytes, public: bytes) -> bytes:
    """Return the 32-byte shared secret. CryptoError for a wrong size or an all-zero result (§6.1)."""
    _require_size("X25519 private key", private, KEY_BYTES)
    _require_size("X25519 public key", public, KEY_BYTES)
    try:
        shared: bytes = _scalarmult(private, public)
    except ValueError:
        shared = _ZERO_KEY
    if shared == _ZERO_KEY:
        raise CryptoError("X25519: the public key is a low-order point")
    return shared


def x25519_public(private: bytes) -> bytes:
    """Return the 32-byte public key of ``private``."""
    _require_size("X25519 private key", private, KEY_BYTES)
    public: bytes = _scalarmult_base(private)
    return public


def clamp(private: bytes) -> bytes:
    """Return ``private`` with the bits fixed that RFC 7748 §5 fixes, as ``wg genkey`` prints keys."""
    _require_size("X25519 private key", private, KEY_BYTES)
    return bytes((private[0] & 248, *private[1:31], private[31] & 127 | 64))


# --- AEADs ------------------------------------------------------------------------------------------------------


def chacha20poly1305_encrypt(key: bytes, counter: int, plaintext: bytes, ad: bytes) -> bytes:
    """Seal (RFC 8439 §2.8) under the nonce 0^32 || LE64(counter); return ciphertext || 16-byte tag."""
    _require_size("ChaCha20-Poly1305 key", key, KEY_BYTES)
    sealed: bytes = _chacha_encrypt(plaintext, ad, _nonce(counter), key)
    return sealed


def chacha20poly1305_decrypt(key: bytes, counter: int, ciphertext: bytes, ad: bytes) -> bytes:
    """Open what ``chacha20poly1305_encrypt`` sealed. AuthError when it does not verify or is too short."""
    _require_size("ChaCha20-Poly1305 key", key, KEY_BYTES)
    nonce = _nonce(counter)
    try:
        opened: bytes = _chacha_decrypt(ciphertext, ad, nonce, key)
    except ValueError:
        raise AuthError("ChaCha20-Poly1305: the tag does not verify") from None
    return opened


def xchacha20poly1305_encrypt(key: bytes, nonce: bytes, plaintext: bytes, ad: bytes) -> bytes:
    """Seal (draft-irtf-cfrg-xchacha-03 §2) under a 24-byte nonce; return ciphertext || 16-byte tag."""
    _require_size("XChaCha20-Poly1305 key", key, KEY_BYTES)
    _require_size("XChaCha20-Poly1305 nonce", nonce, XNONCE_BYTES)
    sealed: bytes = _xchacha_encrypt(plaintext, ad, nonce, key)
    return sealed


def xchacha20poly1305_decrypt(key: bytes, nonce: bytes, ciphertext: bytes, ad: bytes) -> bytes:
    """Open what ``xchacha20poly1305_encrypt`` sealed. AuthError when it does not verify or is too short."""
    _require_size("XChaCha20-Poly1305 key", key, KEY_BYTES)
    _require_size("XChaCha20-Poly1305 nonce", nonce, XNONCE_BYTES)
    try:
        opened: bytes = _xchacha_decrypt(ciphertext, ad, nonce, key)
    except ValueError:
        raise AuthError("XChaCha20-Poly1305: the tag does not verify") from None
    return opened


# --- BLAKE2s (RFC 7693), HMAC (RFC 2104) and the whitepaper's Kdf -----------------------------------------------


def blake2s(*parts: bytes) -> bytes:
    """Return the 32-byte BLAKE2s of the parts' concatenation."""
    return _blake2s(b"".join(parts)).digest()


def blake2s_mac(key: bytes, *parts: bytes) -> bytes:
    """Return the 16-byte keyed BLAKE2s (not HMAC) of the parts' concatenation; the key has 1..32 bytes."""
    if not 1 <= len(key) <= HASH_BYTES:
        raise CryptoError(f"BLAKE2s key has {len(key)} bytes, not 1..{HASH_BYTES}")
    return _blake2s(b"".join(parts), digest_size=MAC_BYTES, key=key).digest()


def hmac_blake2s(key: bytes, *parts: bytes) -> bytes:
    """Return the 32-byte HMAC-BLAKE2s of the parts' concatenation (twice as fast here as ``hmac.digest``)."""
    if len(key) == HASH_BYTES:  # a chaining key or a traffic key: all of them but one
        inner = _blake2s(key.translate(_IPAD) + _IPAD_REST + b"".join(parts)).digest()
        return _blake2s(key.translate(_OPAD) + _OPAD_REST + inner).digest()
    padded = _hmac_key(key)
    inner = _blake2s(padded.translate(_IPAD) + b"".join(parts)).digest()
    return _blake2s(padded.translate(_OPAD) + inner).digest()


def kdf(key: bytes, data: bytes, n: int) -> tuple[bytes, ...]:
    """Return n (1..3) outputs of 32 bytes: HKDF (RFC 5869) with HMAC-BLAKE2s, salt ``key``, no info."""
    if not 1 <= n <= _KDF_OUTPUTS_MAX:
        raise CryptoError(f"kdf makes 1..{_KDF_OUTPUTS_MAX} outputs, not {n}")
    extracted = hmac_blake2s(key, data)
    # An output is a key of HMAC as well: half a block, the other half is padding.
    inner, outer = extracted.translate(_IPAD) + _IPAD_REST, extracted.translate(_OPAD) + _OPAD_REST
    first = _blake2s(outer + _blake2s(inner + b"\1").digest()).digest()
    if n == 1:
        return (first,)
    second = _blake2s(outer + _blake2s(inner + first + b"\2").digest()).digest()
    if n == 2:
        return first, second
    return first, second, _blake2s(outer + _blake2s(inner + second + b"\3").digest()).digest()


def constant_time_equal(a: bytes, b: bytes) -> bool:
    """Compare without telling by time where they differ; the lengths are not secret."""
    return compare_digest(a, b)


# --- Ed25519 (RFC 8032) -----------------------------------------------------------------------------------------


def ed25519_seed_keypair(seed: bytes) -> tuple[bytes, bytes]:
    """Return (32-byte public key, 64-byte secret key) of a 32-byte seed, the RFC's "private key"."""
    _require_size("Ed25519 seed", seed, SEED_BYTES)
    public, secret = _sign_keypair(seed)
    return bytes(public), bytes(secret)


def ed25519_sign(secret: bytes, message: bytes) -> bytes:
    """Return the 64-byte signature (§5.1.6) under a secret key of ``ed25519_seed_keypair``."""
    _require_size("Ed25519 secret key", secret, SEED_BYTES + KEY_BYTES)
    signature: bytes = _sign(message, secret)
    return signature


def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Check a signature (§5.1.7). AuthError when it is not this key's signature of this message."""
    _require_size("Ed25519 public key", public, KEY_BYTES)
    _require_size("Ed25519 signature", signature, SIGNATURE_BYTES)
    try:
        _sign_verify(signature, message, public)
    except ValueError:
        raise AuthError("Ed25519: the signature does not verify") from None


# --- the library ------------------------------------------------------------------------------------------------


class SodiumFeatures(NamedTuple):
    """What the loaded libsodium offers on this CPU."""

    version: str
    path: str
    aes256gcm: bool
    aegis128l: bool
    aegis256: bool


def sodium_features() -> SodiumFeatures:
    """Ask the loaded libsodium, at run time, what it can do."""
    return SodiumFeatures(
        version=_sodium.library_version(),
        path=_sodium.library_path(),
        aes256gcm=bool(_sodium.call_int("crypto_aead_aes256gcm_is_available")),
        aegis128l=_sodium.has_function("crypto_aead_aegis128l_encrypt"),
        aegis256=_sodium.has_function("crypto_aead_aegis256_encrypt"),
    )


def require_one_sodium(c_side_path: str) -> None:
    """Check at start that the C side (``aead.sodium_path()``) uses the file pysodium uses; HostError if not."""
    ours, theirs = os.path.realpath(_sodium.library_path()), os.path.realpath(c_side_path)
    if ours != theirs:
        raise HostError(
            f"two libsodium in one process: Python uses {ours}, C uses {theirs}; run `make build`"
        )


def _require_size(what: str, value: bytes, size_bytes: int) -> None:
    if len(value) != size_bytes:
        raise CryptoError(f"{what} has {len(value)} bytes, not {size_bytes}")


def _nonce(counter: int) -> bytes:
    if not 0 <= counter < _COUNTER_END:
        raise CryptoError("an AEAD counter has 64 bits")
    return b"\0\0\0\0" + counter.to_bytes(8, "little")


def _hmac_key(key: bytes) -> bytes:
    if len(key) > _BLOCK_BYTES:
        key = _blake2s(key).digest()
    return key.ljust(_BLOCK_BYTES, b"\0")
