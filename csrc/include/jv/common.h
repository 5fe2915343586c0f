/* SPDX-License-Identifier: Apache-2.0 */
/* What every module shares: visibility, attributes, byte order. Unaligned memory is read with memcpy only. */
#ifndef JV_COMMON_H
#define JV_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The library is built with -fvisibility=hidden; JV_API marks what leaves it. */
#define JV_API         __attribute__((visibility("default")))
#define JV_WARN_UNUSED __attribute__((warn_unused_result))
#define JV_NONNULL     __attribute__((nonnull))
#define JV_PURE        __attribute__((pure))

#define jv_likely(x)   __builtin_expect(!!(x), 1)
#define jv_unlikely(x) __builtin_expect(!!(x), 0)

#define JV_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define JV_CACHE_LINE   64

/* The object that holds `member` at address `ptr`. */
#define jv_container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static inline uint16_t jv_swap16(uint16_t v, bool swap) {
    return swap ? __builtin_bswap16(v) : v;
}

static inline uint32_t jv_swap32(uint32_t v, bool swap) {
    return swap ? __builtin_bswap32(v) : v;
}

static inline uint64_t jv_swap64(uint64_t v, bool swap) {
    return swap ? __builtin_bswap64(v) : v;
}

#define JV_HOST_IS_LE (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)

#define JV_DEFINE_BYTE_ORDER(bits)                                                                           \
    static inline uint##bits##_t jv_get_le##bits(const void *p) {                                            \
        uint##bits##_t v;                                                                                    \
        memcpy(&v, p, sizeof(v));                                                                            \
        return jv_swap##bits(v, !JV_HOST_IS_LE);                                                             \
    }                                                                                                        \
    static inline uint##bits##_t jv_get_be##bits(const void *p) {                                            \
        uint##bits##_t v;                                                                                    \
        memcpy(&v, p, sizeof(v));                                                                            \
        return jv_swap##bits(v, JV_HOST_IS_LE);                                                              \
    }                                                                                                        \
    static inline void jv_put_le##bits(void *p, uint##bits##_t v) {                                          \
        v = jv_swap##bits(v, !JV_HOST_IS_LE);                                                                \
        memcpy(p, &v, sizeof(v));                                                                            \
    }                                                                                                        \
    static inline void jv_put_be##bits(void *p, uint##bits##_t v) {                                          \
        v = jv_swap##bits(v, JV_HOST_IS_LE);                                                                 \
        memcpy(p, &v, sizeof(v));                                                                            \
    }

JV_DEFINE_BYTE_ORDER(16)
JV_DEFINE_BYTE_ORDER(32)
JV_DEFINE_BYTE_ORDER(64)

#endif
