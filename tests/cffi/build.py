# SPDX-License-Identifier: Apache-2.0
"""Builds the cffi module (API mode: the compiler checks every declaration against the headers) through which tests
reach the parts of libjv that have no Cython wrapper.

It is compiled into build/cffi against the libjv of gateway/_lib, about two seconds, once per test run.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import cffi

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "gateway" / "_lib"
BUNDLED = LIBRARY / "libsodium.so.26"
INTO = ROOT / "build" / "cffi"
NAME = "_jv_for_tests"

DECLARATIONS = """
int jv_aead_init(void);

struct jv_index_key { ...; };
void jv_index_key_init(struct jv_index_key *key, const uint8_t *seed);
uint32_t jv_index_encode(const struct jv_index_key *key, uint32_t slot, uint32_t generation);
void jv_index_decode(const struct jv_index_key *key, uint32_t index, uint32_t *slot, uint32_t *generation);

#define JV_WHEEL_TICK_NS ...
struct jv_timer { uint64_t deadline_ns; ...; };
struct jv_wheel { ...; };
void jv_wheel_init(struct jv_wheel *w, uint64_t now_ns);
bool jv_timer_armed(const struct jv_timer *t);
void jv_wheel_arm(struct jv_wheel *w, struct jv_timer *t, uint64_t deadline_ns);
void jv_wheel_disarm(struct jv_wheel *w, struct jv_timer *t);
typedef void (*jv_wheel_fire)(void *ctx, struct jv_timer *timer);
uint32_t jv_wheel_advance(struct jv_wheel *w, uint64_t now_ns, uint32_t max, jv_wheel_fire fire, void *ctx);
uint64_t jv_wheel_next_deadline(const struct jv_wheel *w);
uint32_t jv_wheel_armed(const struct jv_wheel *w);
extern "Python" void on_fire(void *ctx, struct jv_timer *timer);

#define JV_REPLAY_BITS_SMALL ...
struct jv_table;
struct jv_keys {
    const uint8_t *send, *recv;
    uint32_t local_index, remote_index;
    bool initiator;
    ...;
};
struct jv_keypair { uint32_t local_index; uint64_t heard_ns; ...; };
struct jv_session { struct jv_keypair *current, *next, *previous, *older; ...; };
struct jv_table *jv_table_new(uint32_t capacity, uint32_t window_bits, const uint8_t *seed);
void jv_table_free(struct jv_table *t);
struct jv_session *jv_table_add(struct jv_table *t);
uint32_t jv_session_new_index(struct jv_table *t, struct jv_session *s);
struct jv_keypair *jv_session_keypair(const struct jv_session *s, uint32_t index);
int jv_session_install(struct jv_table *t, struct jv_session *s, const struct jv_keys *keys, uint64_t now_ns);
void jv_session_confirm(struct jv_session *s, uint64_t now_ns);

struct jv_ring;
struct jv_ring *jv_ring_new(uint32_t capacity_bytes);
void jv_ring_free(struct jv_ring *ring);
uint32_t jv_ring_record_max(const struct jv_ring *ring);
void *jv_ring_reserve(struct jv_ring *ring, uint32_t bytes);
void jv_ring_commit(struct jv_ring *ring, uint32_t bytes);
const void *jv_ring_peek(struct jv_ring *ring, uint32_t *bytes);
void jv_ring_consume(struct jv_ring *ring);

#define JV_IP_OK ...
#define JV_IP_SHORT ...
#define JV_IP_VERSION ...
#define JV_IP_LENGTH ...
#define JV_ICMP_TOO_BIG ...
#define JV_ICMP_NO_ROUTE ...
#define JV_ICMP_HOST_UNREACH ...
#define JV_ICMP_ADMIN ...
#define JV_ICMP_BYTES_MAX ...
struct jv_ip {
    const uint8_t *src, *dst;
    uint16_t total_bytes, header_bytes;
    uint8_t version, proto;
    bool fragment, first_fragment;
    ...;
};
int jv_ip_parse(const uint8_t *p, size_t len, struct jv_ip *out);
uint32_t jv_checksum_add(uint32_t sum, const void *data, size_t len);
uint16_t jv_checksum_fold(uint32_t sum);
size_t jv_icmp_reply(int kind, const uint8_t *p, size_t len, uint32_t mtu, uint8_t *out);
"""

SOURCE = """
#include "jv/aead.h"
#include "jv/index.h"
#include "jv/packet.h"
#include "jv/ring.h"
#include "jv/session.h"
#include "jv/wheel.h"
"""


@cache
def load() -> ModuleType:
    """Compile and import; the result has ``ffi`` and ``lib``, libsodium started."""
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source(
        NAME,
        SOURCE,
        # The library keeps the table of sessions to itself, so a copy of it comes with the module.
        sources=[str(ROOT / "csrc" / "src" / "session.c")],
        libraries=["jv", "sodium" if not BUNDLED.exists() else f":{BUNDLED.name}"],
        # Headers of the libsodium that was built, else the system's.
        include_dirs=[
            str(ROOT / "csrc" / "include"),
            *map(str, (ROOT / "build").glob("libsodium-*/include")),
        ],
        library_dirs=[str(LIBRARY)],
        runtime_library_dirs=[str(LIBRARY)],
        extra_compile_args=["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Werror=implicit-function-declaration"],
    )
    INTO.mkdir(parents=True, exist_ok=True)
    path = ffi.compile(tmpdir=str(INTO))
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.lib.jv_aead_init() == 0
    return module
