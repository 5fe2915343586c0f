/* SPDX-License-Identifier: Apache-2.0 */
/* The walk over every truncation, every type and length, and the two frames that C writes. Messages lie in
 * heap blocks of their exact size, so that a read beyond them ends the program. */
#include "jv/frames.h"

#include <stdlib.h>

#include "check.h"

static const struct jv_probe probe = {
    .path_id = 3,
    .seq = 0x0102030405060708,
    .tx_time_ns = 81234000000,
    .tx_packets = 1000,
    .tx_bytes = 1420000,
    .binding_epoch = 2,
    .bound_path_id = 3,
};
static const struct jv_probe_ack ack = {
    .path_id = 255,
    .seq = UINT64_MAX,
    .echo_time_ns = 81234000000,
    .hold_time_ns = 1500,
    .rx_packets = 998,
    .rx_bytes = 1417160,
    .binding_epoch = 2,
};
static struct jv_frame found[JV_FRAMES_MAX];
static uint8_t message[70000];

static int walk_way(const uint8_t *p, size_t len, enum jv_frame_direction direction) {
    uint8_t *copy = malloc(len ? len : 1);
    int rc;

    memcpy(copy, p, len);
    rc = jv_frames_walk(copy, len, direction, found);
    for (int i = 0; i < rc; i++)
        found[i].body = p + (found[i].body - copy); /* the copy goes away */
    free(copy);
    return rc;
}

static int walk(size_t len) {
    return walk_way(message, len, JV_TO_CLIENT);
}

/* A frame of this type with a zero body at message[at]; returns where it ends. */
static size_t put_zero(size_t at, uint8_t type, uint8_t flags, uint16_t body_bytes) {
    message[at] = type;
    message[at + 1] = flags;
    jv_put_le16(message + at + 2, body_bytes);
    memset(message + at + JV_FRAME_HEADER_BYTES, 0, body_bytes);
    return at + JV_FRAME_HEADER_BYTES + body_bytes;
}

static size_t begin(void) {
    memset(message, 0, sizeof(message));
    message[0] = JV_FRAMES_MARK;
    return 1;
}

static void test_probe_comes_back(void) {
    struct jv_probe out;
    struct jv_probe_ack out_ack;
    size_t len = begin();

    len += jv_probe_put(message + len, &probe);
    len += jv_probe_ack_put(message + len, &ack);
    CHECK(len == 1 + JV_PROBE_FRAME_BYTES + JV_PROBE_ACK_FRAME_BYTES);
    CHECK(walk(len) == 2 && walk_way(message, len, JV_TO_GATEWAY) == 2);
    CHECK(jv_probe_get(&found[0], &out) == 0);
    CHECK(out.seq == probe.seq && out.tx_time_ns == probe.tx_time_ns && out.tx_packets == probe.tx_packets);
    CHECK(out.tx_bytes == probe.tx_bytes && out.binding_epoch == 2 && out.path_id == 3);
    CHECK(out.bound_path_id == 3 && !out.pmtu);
    CHECK(jv_probe_ack_get(&found[1], &out_ack) == 0);
    CHECK(out_ack.seq == ack.seq && out_ack.echo_time_ns == ack.echo_time_ns);
    CHECK(out_ack.hold_time_ns == 1500 && out_ack.rx_packets == 998 && out_ack.rx_bytes == 1417160);
    CHECK(out_ack.binding_epoch == 2 && out_ack.path_id == 255 && out_ack.bound_path_id == 0);
    CHECK(jv_probe_get(&found[1], &out) == JV_FRAMES_BODY_LENGTH);
    CHECK(jv_probe_ack_get(&found[0], &out_ack) == JV_FRAMES_BODY_LENGTH);
}

static void test_probe_values(void) {
    struct jv_probe out;
    struct jv_probe_ack out_ack;
    size_t len = begin(), second;

    second = len += jv_probe_put(message + len, &probe);
    len += jv_probe_ack_put(message + len, &ack);
    message[5] = 0; /* path_id */
    message[second + 4] = 0;
    CHECK(walk(len) == 2);
    CHECK(jv_probe_get(&found[0], &out) == JV_FRAMES_VALUE);
    CHECK(jv_probe_ack_get(&found[1], &out_ack) == JV_FRAMES_VALUE);
    message[5] = 1;
    message[5 + 42] = 2; /* a flag that does not exist */
    CHECK(jv_probe_get(&found[0], &out) == JV_FRAMES_VALUE);
    message[5 + 42] = 1;
    CHECK(jv_probe_get(&found[0], &out) == 0 && out.pmtu);
}

static void test_every_truncation(void) {
    size_t first = begin() + jv_probe_put(message + 1, &probe);
    size_t len = first + jv_probe_ack_put(message + first, &ack);

    CHECK(walk(0) == JV_FRAMES_NOT);
    CHECK(walk(1) == JV_FRAMES_NONE);
    for (size_t cut = 2; cut < len; cut++)
        CHECK(walk(cut) == (cut == first ? 1 : JV_FRAMES_TRUNCATED));
}

static void test_padding(void) {
    size_t len = begin() + jv_probe_put(message + 1, &probe);

    for (size_t padded = len; padded <= JV_FRAMES_MESSAGE_MAX; padded++)
        CHECK(walk(padded) == 1);
    CHECK(walk(JV_FRAMES_MESSAGE_MAX + 1) == JV_FRAMES_LONG);
    message[len + 1] = 1;
    CHECK(walk(len + 1) == 1 && walk(len + 2) == JV_FRAMES_PADDING);
    begin();
    CHECK(walk(2) == JV_FRAMES_NONE && walk(JV_FRAMES_MESSAGE_MAX) == JV_FRAMES_NONE);
    message[0] = 0x45;
    CHECK(walk(100) == JV_FRAMES_NOT);
}

static void test_pmtu_probe(void) {
    struct jv_probe large = probe;
    size_t len = begin();

    large.pmtu = true;
    len += jv_probe_put(message + len, &large);
    CHECK(walk(JV_FRAMES_MESSAGE_MAX + 1) == 1 && walk(JV_FRAMES_PMTU_MAX) == 1);
    CHECK(walk(JV_FRAMES_PMTU_MAX + 1) == JV_FRAMES_LONG);
    len += jv_probe_ack_put(message + len, &ack); /* not alone any more */
    CHECK(walk(len) == 2 && walk(JV_FRAMES_MESSAGE_MAX + 1) == JV_FRAMES_LONG);
}

static void test_too_many(void) {
    size_t len = begin();

    for (int i = 0; i < JV_FRAMES_MAX; i++)
        len = put_zero(len, i % 2 ? JV_FRAME_PONG : 200, 1, 8);
    CHECK(walk(len) == JV_FRAMES_MAX / 2);
    CHECK(walk(put_zero(len, JV_FRAME_PONG, 0, 8)) == JV_FRAMES_MANY);
    CHECK(walk(put_zero(len, 200, 1, 8)) == JV_FRAMES_MANY);
}

static void test_unknown_types(void) {
    for (unsigned type = JV_FRAME_TYPES; type < 256; type++) {
        size_t len = put_zero(begin(), (uint8_t)type, 0, 5);

        CHECK(walk(len) == JV_FRAMES_UNKNOWN);
        message[2] = 0xfe;
        CHECK(walk(len) == JV_FRAMES_UNKNOWN);
        message[2] = 0xff;
        CHECK(walk(len) == 0);
        message[3] = 6;
        CHECK(walk(len) == JV_FRAMES_TRUNCATED);
    }
}

/* Every known type one way at least, reserved flags never, and one range of lengths. */
static void test_every_type_and_length(void) {
    for (uint8_t type = 1; type < JV_FRAME_TYPES; type++) {
        int accepted = 0, runs = 0, before = 0;

        for (uint16_t bytes = 0; bytes <= JV_FRAMES_MESSAGE_MAX - 5; bytes++) {
            size_t len = put_zero(begin(), type, 0, bytes);
            int up = walk_way(message, len, JV_TO_GATEWAY), down = walk(len), now = up == 1 || down == 1;

            CHECK(now || up == JV_FRAMES_BODY_LENGTH || down == JV_FRAMES_BODY_LENGTH);
            accepted += now;
            runs += now && !before;
            before = now;
            message[2] = 2;
            CHECK(walk_way(message, len, JV_TO_GATEWAY) < 0 && walk(len) < 0);
        }
        CHECK(accepted > 0 && runs == 1);
    }
}

static void test_directions(void) {
    size_t len = put_zero(begin(), JV_FRAME_REATTACH_REQUEST, 0, 20);

    CHECK(walk_way(message, len, JV_TO_GATEWAY) == 1);
    CHECK(walk_way(message, len, JV_TO_CLIENT) == JV_FRAMES_DIRECTION);
    len = put_zero(begin(), JV_FRAME_REATTACH_ACK, 0, 17);
    CHECK(walk_way(message, len, JV_TO_GATEWAY) == JV_FRAMES_DIRECTION);
    CHECK(walk_way(message, len, JV_TO_CLIENT) == 1);
}

int main(void) {
    RUN(test_probe_comes_back);
    RUN(test_probe_values);
    RUN(test_every_truncation);
    RUN(test_padding);
    RUN(test_pmtu_probe);
    RUN(test_too_many);
    RUN(test_unknown_types);
    RUN(test_every_type_and_length);
    RUN(test_directions);
    return failures();
}
