/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever the bytes are, the frames of an accepted message lie inside it, in order, without
 * overlap; a longer message than 1200 bytes holds one PMTU probe; and a probe that was read is written back
 * as the same bytes. */
#include "jv/frames.h"

#include "fuzz.h"

static void check_probe(const struct jv_frame *f) {
    uint8_t again[JV_PROBE_FRAME_BYTES];
    struct jv_probe probe;

    if (jv_probe_get(f, &probe) != 0)
        return;
    MUST(f->type == JV_FRAME_PROBE && probe.path_id != 0);
    MUST(jv_probe_put(again, &probe) == sizeof(again));
    MUST(memcmp(again + JV_FRAME_HEADER_BYTES, f->body, f->body_bytes) == 0);
}

static void check_ack(const struct jv_frame *f) {
    uint8_t again[JV_PROBE_ACK_FRAME_BYTES];
    struct jv_probe_ack ack;

    if (jv_probe_ack_get(f, &ack) != 0)
        return;
    MUST(f->type == JV_FRAME_PROBE_ACK && ack.path_id != 0);
    MUST(jv_probe_ack_put(again, &ack) == sizeof(again));
    MUST(memcmp(again + JV_FRAME_HEADER_BYTES, f->body, f->body_bytes) == 0);
}

static void check_walk(const uint8_t *data, size_t size, enum jv_frame_direction direction) {
    struct jv_frame frames[JV_FRAMES_MAX];
    int found = jv_frames_walk(data, size, direction, frames);
    const uint8_t *at = data + 1;

    MUST(found >= JV_FRAMES_PADDING && found <= JV_FRAMES_MAX);
    MUST(found < 0 || (size > 1 && data[0] == JV_FRAMES_MARK));
    for (int i = 0; i < found; i++) {
        MUST(frames[i].type > JV_FRAME_END && frames[i].type < JV_FRAME_TYPES);
        MUST(frames[i].body >= at + JV_FRAME_HEADER_BYTES);
        at = frames[i].body + frames[i].body_bytes;
        MUST(at <= data + size);
        check_probe(&frames[i]);
        check_ack(&frames[i]);
    }
    if (found >= 0 && size > JV_FRAMES_MESSAGE_MAX)
        MUST(found == 1 && frames[0].type == JV_FRAME_PROBE);
}

/* Builds a message whose headers are mostly right, so that the walk gets beyond the first. */
static void check_built(const uint8_t *data, size_t size) {
    static const uint8_t usual[JV_FRAME_TYPES] = {0, 64, 193, 22, 43, 50, 10, 9, 20, 17, 22, 3, 3, 8, 8, 2};
    uint8_t built[2 * JV_FRAMES_MESSAGE_MAX] = {JV_FRAMES_MARK};
    struct tape t = {data, size};
    size_t len = 1;

    for (int i = take8(&t) % (JV_FRAMES_MAX + 2); i > 0 && len < JV_FRAMES_MESSAGE_MAX; i--) {
        uint8_t type = take8(&t) % (JV_FRAME_TYPES + 1), odd = take8(&t);
        uint16_t bytes = (uint16_t)((type < JV_FRAME_TYPES ? usual[type] : 7) + (odd > 250));

        built[len] = type;
        built[len + 1] = odd % 4 == 0;
        jv_put_le16(built + len + 2, bytes);
        for (len += JV_FRAME_HEADER_BYTES; bytes > 0; bytes--)
            built[len++] = take8(&t);
    }
    check_walk(built, len + take8(&t), JV_TO_GATEWAY);
    check_walk(built, len, JV_TO_CLIENT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_walk(data, size, JV_TO_GATEWAY);
    check_walk(data, size, JV_TO_CLIENT);
    check_built(data, size);
    return 0;
}
