# SPDX-License-Identifier: Apache-2.0
"""The primitives against published vectors, and against pyca/cryptography as an oracle.

Invariants: a wrong tag, key size or low-order point raises the project's own error, and a failed open tells nothing
but that it failed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from gateway import crypto
from gateway.errors import AuthError, CryptoError, HostError

KEYS = st.binary(min_size=32, max_size=32)
COUNTERS = st.integers(0, 2**64 - 1)
DATA = st.binary(max_size=300)


def published(path: str) -> Iterator[dict[str, str]]:
    """Yield the records of a ``NAME = VALUE`` file of cryptography-vectors."""
    with cryptography_vectors.open_vector_file(path, "r") as lines:
        record: dict[str, str] = {}
        for line in (*lines, ""):
            name, separator, value = line.strip().partition(" = ")
            if separator:
                record[name] = value
            elif record and not line.strip():
                yield record
                record = {}


# --- X25519: RFC 7748 -------------------------------------------------------------------------------------------

X25519_VECTORS = list(published("asymmetric/X25519/rfc7748.txt"))
# Points of small order, from RFC 7748 §6.1's advice as tabulated by https://cr.yp.to/ecdh.html#validate.
LOW_ORDER_POINTS = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


@pytest.mark.parametrize("vector", X25519_VECTORS, ids=lambda v: v["COUNT"])
def test_x25519_published(vector: dict[str, str]) -> None:
    scalar, u = bytes.fromhex(vector["INPUT_SCALAR"]), bytes.fromhex(vector["INPUT_U"])
    assert crypto.x25519(scalar, u).hex() == vector["OUTPUT_U"]


def test_x25519_iterated_1000_times() -> None:
    """RFC 7748 §5.2."""
    scalar = u = bytes([9]) + bytes(31)
    for _ in range(1000):
        scalar, u = crypto.x25519(scalar, u), scalar
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_diffie_hellman() -> None:
    """RFC 7748 §6.1."""
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert (
        crypto.x25519_public(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    shared = crypto.x25519(bob, alice_public)
    assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize("point", LOW_ORDER_POINTS)
def test_low_order_points_are_refused(point: str) -> None:
    with pytest.raises(CryptoError, match="low-order"):
        crypto.x25519(bytes(range(32)), bytes.fromhex(point))


@given(KEYS)
def test_clamping_does_not_change_the_public_key(private: bytes) -> None:
    clamped = crypto.clamp(private)
    assert clamped[0] & 7 == 0
    assert clamped[31] & 0xC0 == 0x40
    assert crypto.clamp(clamped) == clamped
    assert crypto.x25519_public(clamped) == crypto.x25519_public(private)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_wrong_sizes_are_refused(size: int) -> None:
    bad, good = bytes(size), bytes(32)
    refused: tuple[tuple[Any, ...], ...] = (
        (crypto.x25519, bad, good),
        (crypto.x25519, good, bad),
        (crypto.x25519_public, bad),
        (crypto.clamp, bad),
        (crypto.chacha20poly1305_encrypt, bad, 0, b"", b""),
        (crypto.chacha20poly1305_decrypt, bad, 0, bytes(16), b""),
        (crypto.xchacha20poly1305_encrypt, bad, bytes(24), b"", b""),
        (crypto.xchacha20poly1305_decrypt, good, bad, bytes(16), b""),
    )
    for function, *arguments in refused:
        with pytest.raises(CryptoError, match="bytes, not"):
            function(*arguments)


# --- ChaCha20-Poly1305: RFC 8439 ----------------------------------------------------------------------------------

# The handshake's nonce is 0^32 || LE64(counter): published vectors whose nonce has that form, RFC 8439 §A.5 first.
CHACHA_VECTORS = [
    v for v in published("ciphers/ChaCha20Poly1305/openssl.txt") if v["IV"].startswith("00000000")
]


@pytest.mark.parametrize("vector", CHACHA_VECTORS, ids=lambda v: v["COUNT"])
def test_chacha20poly1305_published(vector: dict[str, str]) -> None:
    key, ad = bytes.fromhex(vector["Key"]), bytes.fromhex(vector["AAD"])
    counter = int.from_bytes(bytes.fromhex(vector["IV"])[4:], "little")
    plain, sealed = bytes.fromhex(vector["Plaintext"]), bytes.fromhex(vector["Ciphertext"] + vector["Tag"])
    if "Result" in vector:
        with pytest.raises(AuthError):
            crypto.chacha20poly1305_decrypt(key, counter, sealed, ad)
    else:
        assert crypto.chacha20poly1305_encrypt(key, counter, plain, ad) == sealed
        assert crypto.chacha20poly1305_decrypt(key, counter, sealed, ad) == plain


def test_the_chacha_vectors_hold_the_rfc_and_its_forgeries() -> None:
    assert CHACHA_VECTORS[0]["Key"].startswith("1c9240a5eb55d38af333888604f6b5f0")  # RFC 8439 §A.5
    assert any("Result" in vector for vector in CHACHA_VECTORS)


@given(KEYS, COUNTERS, DATA, DATA)
def test_chacha20poly1305_oracle(key: bytes, counter: int, plain: bytes, ad: bytes) -> None:
    sealed = crypto.chacha20poly1305_encrypt(key, counter, plain, ad)
    nonce = bytes(4) + counter.to_bytes(8, "little")
    assert sealed == ChaCha20Poly1305(key).encrypt(nonce, plain, ad)
    assert crypto.chacha20poly1305_decrypt(key, counter, sealed, ad) == plain


@given(KEYS, COUNTERS, DATA, DATA, st.data())
def test_any_flipped_bit_fails(
    key: bytes, counter: int, plain: bytes, ad: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(crypto.chacha20poly1305_encrypt(key, counter, plain, ad))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthError):
        crypto.chacha20poly1305_decrypt(key, counter, bytes(sealed), ad)


@pytest.mark.parametrize("size", range(16))
def test_shorter_than_a_tag_fails(size: int) -> None:
    with pytest.raises(AuthError):
        crypto.chacha20poly1305_decrypt(bytes(32), 0, bytes(size), b"")
    with pytest.raises(AuthError):
        crypto.xchacha20poly1305_decrypt(bytes(32), bytes(24), bytes(size), b"")


@pytest.mark.parametrize("counter", [-1, 2**64])
def test_counter_range(counter: int) -> None:
    with pytest.raises(CryptoError, match="64 bits"):
        crypto.chacha20poly1305_encrypt(bytes(32), counter, b"", b"")
    with pytest.raises(CryptoError, match="64 bits"):
        crypto.chacha20poly1305_decrypt(bytes(32), counter, bytes(16), b"")


# --- XChaCha20-Poly1305: draft-irtf-cfrg-xchacha-03 §A.3.1 --------------------------------------------------------

XCHACHA_KEY = bytes(range(0x80, 0xA0))
XCHACHA_NONCE = bytes(range(0x40, 0x58))
XCHACHA_AD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
XCHACHA_PLAIN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
XCHACHA_SEALED = bytes.fromhex(
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39"
    "ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
)


def test_xchacha20poly1305_published() -> None:
    sealed = crypto.xchacha20poly1305_encrypt(XCHACHA_KEY, XCHACHA_NONCE, XCHACHA_PLAIN, XCHACHA_AD)
    assert sealed == XCHACHA_SEALED
    opened = crypto.xchacha20poly1305_decrypt(XCHACHA_KEY, XCHACHA_NONCE, XCHACHA_SEALED, XCHACHA_AD)
    assert opened == XCHACHA_PLAIN


@pytest.mark.parametrize("place", ["ciphertext", "tag", "ad", "nonce", "key"])
def test_xchacha20poly1305_forgery(place: str) -> None:
    parts = {
        "key": XCHACHA_KEY,
        "nonce": XCHACHA_NONCE,
        "ciphertext": XCHACHA_SEALED[:-16],
        "tag": XCHACHA_SEALED[-16:],
        "ad": XCHACHA_AD,
    }
    parts[place] = bytes((parts[place][0] ^ 1,)) + parts[place][1:]
    with pytest.raises(AuthError):
        crypto.xchacha20poly1305_decrypt(
            parts["key"], parts["nonce"], parts["ciphertext"] + parts["tag"], parts["ad"]
        )


# --- BLAKE2s: RFC 7693 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", list(published("hashes/blake2/blake2s.txt")), ids=lambda v: v["Len"])
def test_blake2s_published(vector: dict[str, str]) -> None:
    message = bytes.fromhex(vector["Msg"])[: int(vector["Len"]) // 8]
    assert crypto.blake2s(message).hex() == vector["MD"]


def self_test_sequence(size: int, seed: int) -> bytes:
    """The Fibonacci bytes of RFC 7693 §E (selftest_seq)."""
    a, b, out = 0xDEAD4BAD * seed & 0xFFFFFFFF, 1, bytearray()
    for _ in range(size):
        a, b = b, (a + b) & 0xFFFFFFFF
        out.append(b >> 24)
    return bytes(out)


def test_blake2s_self_test() -> None:
    """RFC 7693 §E: one hash over unkeyed and keyed digests of many sizes; ours are those of 32 and of 16 bytes."""
    total = hashlib.blake2s(digest_size=32)
    for out_size in (16, 20, 28, 32):
        for in_size in (0, 3, 64, 65, 255, 1024):
            message, key = self_test_sequence(in_size, in_size), self_test_sequence(out_size, out_size)
            plain = hashlib.blake2s(message, digest_size=out_size).digest()
            keyed = hashlib.blake2s(message, digest_size=out_size, key=key).digest()
            total.update(crypto.blake2s(message) if out_size == 32 else plain)
            total.update(crypto.blake2s_mac(key, message) if out_size == 16 else keyed)
    assert total.hexdigest() == "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe"


@given(st.lists(DATA, max_size=4), KEYS)
def test_parts_are_concatenated(parts: list[bytes], key: bytes) -> None:
    whole = b"".join(parts)
    assert crypto.blake2s(*parts) == crypto.blake2s(whole)
    assert crypto.blake2s_mac(key, *parts) == crypto.blake2s_mac(key, whole)
    assert crypto.hmac_blake2s(key, *parts) == crypto.hmac_blake2s(key, whole)


@pytest.mark.parametrize("size", [0, 33])
def test_mac_key_sizes(size: int) -> None:
    with pytest.raises(CryptoError, match=r"1\.\.32"):
        crypto.blake2s_mac(bytes(size), b"message")


# --- HMAC and KDF: RFC 2104, RFC 5869 -----------------------------------------------------------------------------


@given(st.binary(max_size=200), DATA)
def test_hmac_oracle(key: bytes, data: bytes) -> None:
    assert crypto.hmac_blake2s(key, data) == hmac.digest(key, data, "blake2s")


@given(KEYS, DATA, st.integers(1, 3))
def test_kdf_oracle(key: bytes, data: bytes, n: int) -> None:
    expected = HKDF(hashes.BLAKE2s(32), n * 32, salt=key, info=b"").derive(data)
    assert b"".join(crypto.kdf(key, data, n)) == expected
    assert [len(output) for output in crypto.kdf(key, data, n)] == [32] * n


@pytest.mark.parametrize("n", [0, 4, -1])
def test_kdf_output_count(n: int) -> None:
    with pytest.raises(CryptoError, match=r"1\.\.3"):
        crypto.kdf(bytes(32), b"", n)


def test_constant_time_equal() -> None:
    assert crypto.constant_time_equal(b"same", b"same")
    assert not crypto.constant_time_equal(b"same", b"sama")
    assert not crypto.constant_time_equal(b"same", b"sam")


# --- Ed25519: RFC 8032 ---------------------------------------------------------------------------------------------

# §7.1, TEST 1 to 3: secret key, public key, message, signature.
ED25519_VECTORS = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
)


@pytest.mark.parametrize("vector", ED25519_VECTORS, ids=["TEST 1", "TEST 2", "TEST 3"])
def test_ed25519_published(vector: tuple[str, str, str, str]) -> None:
    seed, public, message, signature = map(bytes.fromhex, vector)
    made, secret = crypto.ed25519_seed_keypair(seed)
    assert made == public
    assert crypto.ed25519_sign(secret, message) == signature
    crypto.ed25519_verify(public, message, signature)


@given(KEYS, DATA, st.integers(0, 511))
def test_ed25519_one_flipped_bit_is_refused(seed: bytes, message: bytes, bit: int) -> None:
    public, secret = crypto.ed25519_seed_keypair(seed)
    forged = bytearray(crypto.ed25519_sign(secret, message))
    forged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthError):
        crypto.ed25519_verify(public, message, bytes(forged))
    with pytest.raises(AuthError):
        crypto.ed25519_verify(public, message + b"x", crypto.ed25519_sign(secret, message))


def test_ed25519_sizes() -> None:
    public, secret = crypto.ed25519_seed_keypair(bytes(32))
    with pytest.raises(CryptoError, match="seed has 31"):
        crypto.ed25519_seed_keypair(bytes(31))
    with pytest.raises(CryptoError, match="secret key has 32"):
        crypto.ed25519_sign(secret[:32], b"")
    with pytest.raises(CryptoError, match="signature has 63"):
        crypto.ed25519_verify(public, b"", bytes(63))


# --- the library ---------------------------------------------------------------------------------------------------


def test_features_follow_the_version() -> None:
    features = crypto.sodium_features()
    numbers = tuple(int(part) for part in features.version.split("."))
    assert features.aegis128l == features.aegis256 == (numbers >= (1, 0, 19))


def test_two_libraries_are_refused() -> None:
    crypto.require_one_sodium(crypto.sodium_features().path)
    with pytest.raises(HostError, match="two libsodium"):
        crypto.require_one_sodium("/usr/lib/elsewhere/libsodium.so.23")
