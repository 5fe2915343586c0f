/* SPDX-License-Identifier: Apache-2.0 */
/* What goes in comes out, in order and whole, also across the end of the ring and between two threads. */
#include "jv/ring.h"

#include <pthread.h>

#include "check.h"

static void test_sizes(void) {
    CHECK(jv_ring_new(0) == NULL);
    CHECK(jv_ring_new(63) == NULL);
    CHECK(jv_ring_new(96) == NULL);
    CHECK(jv_ring_new(UINT32_C(1) << 31) == NULL);
    jv_ring_free(NULL);
}

static void test_empty_and_full(void) {
    struct jv_ring *ring = jv_ring_new(64);
    uint32_t bytes;

    CHECK(jv_ring_peek(ring, &bytes) == NULL);
    CHECK(jv_ring_record_max(ring) == 24);
    CHECK(jv_ring_reserve(ring, 25) == NULL);
    for (int i = 0; i < 2; i++) {
        CHECK(jv_ring_reserve(ring, 24) != NULL);
        jv_ring_commit(ring, 24);
    }
    CHECK(jv_ring_reserve(ring, 0) == NULL);
    CHECK(jv_ring_peek(ring, &bytes) != NULL && bytes == 24);
    jv_ring_consume(ring);
    CHECK(jv_ring_reserve(ring, 24) != NULL);
    jv_ring_free(ring);
}

static void test_nothing_before_commit(void) {
    struct jv_ring *ring = jv_ring_new(128);
    uint32_t bytes;
    char *record = jv_ring_reserve(ring, 40);

    CHECK(record != NULL && jv_ring_peek(ring, &bytes) == NULL);
    record = jv_ring_reserve(ring, 8); /* starts over */
    memcpy(record, "abc", 3);
    jv_ring_commit(ring, 3);
    CHECK(memcmp(jv_ring_peek(ring, &bytes), "abc", 3) == 0 && bytes == 3);
    jv_ring_consume(ring);
    CHECK(jv_ring_reserve(ring, 8) != NULL);
    jv_ring_commit(ring, 1000); /* no more than was reserved */
    CHECK(jv_ring_peek(ring, &bytes) != NULL && bytes == 8);
    jv_ring_free(ring);
}

#define RECORDS 200000

static uint32_t length_of(uint32_t i) {
    uint64_t seed = i;

    return (uint32_t)(next_random(&seed) % 121);
}

static bool produce(struct jv_ring *ring, uint32_t i) {
    uint8_t *record = jv_ring_reserve(ring, length_of(i) + (i % 3 ? 0 : 20));

    if (!record)
        return false;
    memset(record, (int)(i & 0xff), length_of(i));
    jv_ring_commit(ring, length_of(i));
    return true;
}

static bool consume(struct jv_ring *ring, uint32_t i) {
    uint32_t bytes;
    const uint8_t *record = jv_ring_peek(ring, &bytes);

    if (!record)
        return false;
    CHECK(bytes == length_of(i));
    for (uint32_t at = 0; at < bytes; at++)
        CHECK(record[at] == (i & 0xff));
    CHECK(((uintptr_t)record & 7) == 0);
    jv_ring_consume(ring);
    return true;
}

static void test_random_order_of_work(void) {
    struct jv_ring *ring = jv_ring_new(512);
    uint32_t in = 0, out = 0;
    uint64_t seed = 3;

    while (out < RECORDS) {
        if (next_random(&seed) % 2 && in < RECORDS)
            in += produce(ring, in);
        else
            out += consume(ring, out);
        CHECK(out <= in);
    }
    jv_ring_free(ring);
}

static void *producer(void *ring) {
    for (uint32_t i = 0; i < RECORDS;)
        i += produce(ring, i);
    return NULL;
}

static void test_two_threads(void) {
    struct jv_ring *ring = jv_ring_new(4096);
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, producer, ring) == 0);
    for (uint32_t i = 0; i < RECORDS;)
        i += consume(ring, i);
    pthread_join(thread, NULL);
    jv_ring_free(ring);
}

int main(void) {
    RUN(test_sizes);
    RUN(test_empty_and_full);
    RUN(test_nothing_before_commit);
    RUN(test_random_order_of_work);
    RUN(test_two_threads);
    return failures();
}
