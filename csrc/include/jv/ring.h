/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of variable-length records between one producer and one consumer, which may be two threads.
 * It never grows and never blocks: when it is full the producer is told, and counts the loss itself. */
#ifndef JV_RING_H
#define JV_RING_H

#include "jv/common.h"

struct jv_ring;

/* capacity_bytes: a power of two from 64 to 2^30; each record costs 8 bytes more, rounded up to 8.
 * NULL when it is not, or memory is short. */
JV_API struct jv_ring *jv_ring_new(uint32_t capacity_bytes) JV_WARN_UNUSED;
JV_API void jv_ring_free(struct jv_ring *ring);

/* The greatest record: half the ring, so that a full-size record always fits an empty ring wherever it
 * stands. */
JV_API uint32_t jv_ring_record_max(const struct jv_ring *ring) JV_NONNULL JV_PURE;

/* Producer. Contiguous, 8-byte aligned memory for a record of up to `bytes`, or NULL: full, or more than
 * jv_ring_record_max(). Nothing is seen by the consumer before commit; reserving again starts over. */
JV_API void *jv_ring_reserve(struct jv_ring *ring, uint32_t bytes) JV_NONNULL JV_WARN_UNUSED;
/* How much waits for the consumer, gaps included: exact to the producer, but for what is being consumed. */
JV_API uint32_t jv_ring_waiting_bytes(const struct jv_ring *ring) JV_NONNULL;
/* Publishes the reserved record with its first `bytes` bytes (at most those reserved). */
JV_API void jv_ring_commit(struct jv_ring *ring, uint32_t bytes) JV_NONNULL;

/* Consumer. The oldest record and its length, or NULL when empty; it stays valid until consume. */
JV_API const void *jv_ring_peek(struct jv_ring *ring, uint32_t *bytes) JV_NONNULL JV_WARN_UNUSED;
/* Drops the record that peek returned. */
JV_API void jv_ring_consume(struct jv_ring *ring) JV_NONNULL;

#endif
