/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: records come out in the order and with the length and bytes they went in, and nothing that was
 * refused comes out at all. */
#include "jv/ring.h"

#include "fuzz.h"

#define CAPACITY 256
#define QUEUE    64

static void check_record(struct jv_ring *ring, uint8_t expect_bytes, uint8_t expect_value) {
    uint32_t bytes;
    const uint8_t *record = jv_ring_peek(ring, &bytes);

    MUST(record != NULL && bytes == expect_bytes);
    for (uint32_t i = 0; i < bytes; i++)
        MUST(record[i] == expect_value);
    jv_ring_consume(ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape tape = {data, size};
    struct jv_ring *ring = jv_ring_new(CAPACITY);
    struct {
        uint8_t bytes, value;
    } queue[QUEUE];
    unsigned in = 0, out = 0;
    uint32_t bytes;

    MUST(ring != NULL);
    while (tape.left > 0) {
        uint8_t what = take8(&tape), reserve = take8(&tape),
                commit = reserve ? take8(&tape) % (reserve + 1) : 0;
        uint8_t *record = what & 1 ? jv_ring_reserve(ring, reserve) : NULL;

        if (record) {
            MUST(in - out < QUEUE && reserve <= jv_ring_record_max(ring));
            memset(record, what, commit);
            jv_ring_commit(ring, commit);
            queue[in % QUEUE].bytes = commit;
            queue[in++ % QUEUE].value = what;
        } else if (in != out) {
            check_record(ring, queue[out % QUEUE].bytes, queue[out % QUEUE].value);
            out++;
        } else {
            MUST(jv_ring_peek(ring, &bytes) == NULL);
        }
    }
    for (; out != in; out++)
        check_record(ring, queue[out % QUEUE].bytes, queue[out % QUEUE].value);
    jv_ring_free(ring);
    return 0;
}
