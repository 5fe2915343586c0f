/* SPDX-License-Identifier: Apache-2.0 */
/* head belongs to the producer, tail to the consumer; each reads the other's with acquire and publishes its
 * own with release. Both count bytes for ever and wrap as integers, so full and empty differ without a spare
 * byte. */
#include "jv/ring.h"

#include <stdatomic.h>
#include <stdlib.h>

#define RECORD_ALIGN 8u
#define SKIP         UINT32_MAX /* header of the gap before the ring's end */

struct record {
    uint32_t bytes; /* of the body, or SKIP */
    uint32_t reserved;
    uint8_t body[];
};

_Static_assert(sizeof(struct record) == RECORD_ALIGN, "bodies stay aligned");

struct jv_ring {
    uint32_t mask;
    uint32_t reserved_at, reserved_bytes; /* producer: what reserve found */
    _Alignas(JV_CACHE_LINE) _Atomic uint32_t head;
    _Alignas(JV_CACHE_LINE) _Atomic uint32_t tail;
    _Alignas(JV_CACHE_LINE) uint8_t memory[];
};

struct jv_ring *jv_ring_new(uint32_t capacity_bytes) {
    struct jv_ring *ring;

    if (capacity_bytes < 64 || capacity_bytes > UINT32_C(1) << 30 || (capacity_bytes & (capacity_bytes - 1)))
        return NULL;
    ring = aligned_alloc(JV_CACHE_LINE, sizeof(*ring) + capacity_bytes);
    if (!ring)
        return NULL;
    memset(ring, 0, sizeof(*ring));
    ring->mask = capacity_bytes - 1;
    return ring;
}

void jv_ring_free(struct jv_ring *ring) {
    free(ring);
}

static uint32_t capacity(const struct jv_ring *ring) {
    return ring->mask + 1;
}

static struct record *record_at(struct jv_ring *ring, uint32_t position) {
    return (struct record *)(ring->memory + (position & ring->mask));
}

static uint32_t record_bytes(uint32_t body_bytes) {
    return (uint32_t)sizeof(struct record) + ((body_bytes + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1));
}

uint32_t jv_ring_record_max(const struct jv_ring *ring) {
    return capacity(ring) / 2 - (uint32_t)sizeof(struct record);
}

void *jv_ring_reserve(struct jv_ring *ring, uint32_t bytes) {
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    uint32_t to_end = capacity(ring) - (head & ring->mask), need, gap;

    if (bytes > jv_ring_record_max(ring))
        return NULL;
    need = record_bytes(bytes);
    gap = need > to_end ? to_end : 0;
    if (gap + need > capacity(ring) - (head - tail))
        return NULL;
    if (gap)
        record_at(ring, head)->bytes = SKIP;
    ring->reserved_at = head + gap;
    ring->reserved_bytes = bytes;
    return record_at(ring, ring->reserved_at)->body;
}

uint32_t jv_ring_waiting_bytes(const struct jv_ring *ring) {
    return atomic_load_explicit(&ring->head, memory_order_relaxed) -
           atomic_load_explicit(&ring->tail, memory_order_relaxed);
}

void jv_ring_commit(struct jv_ring *ring, uint32_t bytes) {
    if (bytes > ring->reserved_bytes)
        bytes = ring->reserved_bytes;
    record_at(ring, ring->reserved_at)->bytes = bytes;
    atomic_store_explicit(&ring->head, ring->reserved_at + record_bytes(bytes), memory_order_release);
}

const void *jv_ring_peek(struct jv_ring *ring, uint32_t *bytes) {
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);

    if (tail == head)
        return NULL;
    if (record_at(ring, tail)->bytes == SKIP) {
        tail += capacity(ring) - (tail & ring->mask);
        atomic_store_explicit(&ring->tail, tail, memory_order_release);
    }
    *bytes = record_at(ring, tail)->bytes;
    return record_at(ring, tail)->body;
}

void jv_ring_consume(struct jv_ring *ring) {
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

    atomic_store_explicit(&ring->tail, tail + record_bytes(record_at(ring, tail)->bytes),
                          memory_order_release);
}
