/* SPDX-License-Identifier: Apache-2.0 */
/* The walk makes the checks of _walk in gateway/frames.py in the same order, so that both name the same
 * fault; tests/unit/frames/test_c_agrees.py compares them. No length is believed before it was compared with
 * what is left. */
#include "jv/frames.h"

enum {
    IGNORE_IF_UNKNOWN = 0x01,
    BOTH_WAYS = JV_TO_GATEWAY | JV_TO_CLIENT,
    /* Behind the mark and its header a HELLO may fill the message: another version's can have any length. */
    HELLO_BODY_MAX = JV_FRAMES_MESSAGE_MAX - 1 - JV_FRAME_HEADER_BYTES,
};

/* Indexed by type. */
static const struct shape {
    uint16_t least, most; /* bytes of the body */
    uint8_t directions;
} shapes[JV_FRAME_TYPES] = {
    [JV_FRAME_HELLO] = {32, HELLO_BODY_MAX, JV_TO_GATEWAY},
    [JV_FRAME_WELCOME] = {193, 641, JV_TO_CLIENT},
    [JV_FRAME_REFUSE] = {22, 22, JV_TO_CLIENT},
    [JV_FRAME_PROBE] = {JV_PROBE_BODY_BYTES, JV_PROBE_BODY_BYTES, BOTH_WAYS},
    [JV_FRAME_PROBE_ACK] = {JV_PROBE_ACK_BODY_BYTES, JV_PROBE_ACK_BODY_BYTES, BOTH_WAYS},
    [JV_FRAME_CHALLENGE] = {10, 10, BOTH_WAYS},
    [JV_FRAME_RESPONSE] = {9, 9, BOTH_WAYS},
    [JV_FRAME_REATTACH_REQUEST] = {20, 20, JV_TO_GATEWAY},
    [JV_FRAME_REATTACH_ACK] = {17, 17, JV_TO_CLIENT},
    [JV_FRAME_REATTACH_REJECT] = {22, 22, JV_TO_CLIENT},
    [JV_FRAME_SWITCH_ADVICE] = {3, 3, JV_TO_CLIENT},
    [JV_FRAME_PATH_CLOSE] = {3, 3, BOTH_WAYS},
    [JV_FRAME_PING] = {8, 8, BOTH_WAYS},
    [JV_FRAME_PONG] = {8, 8, BOTH_WAYS},
    [JV_FRAME_TERMINATE] = {2, 2, BOTH_WAYS},
};

static bool known(uint8_t type) {
    return type != JV_FRAME_END && type < JV_FRAME_TYPES;
}

/* Splits the frame at p off; len > 0. 0 or a fault. */
static int next_frame(const uint8_t *p, size_t len, struct jv_frame *out) {
    if (len < JV_FRAME_HEADER_BYTES)
        return JV_FRAMES_TRUNCATED;
    *out = (struct jv_frame){
        .body = p + JV_FRAME_HEADER_BYTES,
        .body_bytes = jv_get_le16(p + 2),
        .type = p[0],
    };
    return out->body_bytes > len - JV_FRAME_HEADER_BYTES ? JV_FRAMES_TRUNCATED : 0;
}

static int check_head(const struct jv_frame *f, uint8_t flags, enum jv_frame_direction direction) {
    const struct shape *shape;

    if (!known(f->type))
        return flags & IGNORE_IF_UNKNOWN ? 0 : JV_FRAMES_UNKNOWN;
    shape = &shapes[f->type];
    if (!(shape->directions & (unsigned)direction))
        return JV_FRAMES_DIRECTION;
    if (flags & ~IGNORE_IF_UNKNOWN)
        return JV_FRAMES_FLAGS;
    if (f->body_bytes < shape->least || f->body_bytes > shape->most)
        return JV_FRAMES_BODY_LENGTH;
    return 0;
}

static bool all_zero(const uint8_t *p, size_t len) {
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static bool asks_pmtu(const struct jv_frame *f) {
    return f->type == JV_FRAME_PROBE && f->body[JV_PROBE_BODY_BYTES - 1] == 1;
}

int jv_frames_walk(const uint8_t *p, size_t len, enum jv_frame_direction direction,
                   struct jv_frame out[JV_FRAMES_MAX]) {
    size_t at = 1;
    int seen = 0, found = 0, fault;

    if (len == 0 || p[0] != JV_FRAMES_MARK)
        return JV_FRAMES_NOT;
    if (len > JV_FRAMES_PMTU_MAX)
        return JV_FRAMES_LONG;
    for (; at < len && p[at] != JV_FRAME_END; seen++) {
        struct jv_frame f;

        if (seen == JV_FRAMES_MAX)
            return JV_FRAMES_MANY;
        fault = next_frame(p + at, len - at, &f);
        if (!fault)
            fault = check_head(&f, p[at + 1], direction);
        if (fault)
            return fault;
        at += JV_FRAME_HEADER_BYTES + (size_t)f.body_bytes;
        if (known(f.type))
            out[found++] = f;
    }
    if (!all_zero(p + at, len - at))
        return JV_FRAMES_PADDING;
    if (seen == 0)
        return JV_FRAMES_NONE;
    if (len > JV_FRAMES_MESSAGE_MAX && !(seen == 1 && found == 1 && asks_pmtu(&out[0])))
        return JV_FRAMES_LONG;
    return found;
}

/* --- the two frames of the packet path --- */

static uint8_t *put_header(uint8_t *out, enum jv_frame_type type, uint16_t body_bytes) {
    out[0] = (uint8_t)type;
    out[1] = 0;
    jv_put_le16(out + 2, body_bytes);
    return out + JV_FRAME_HEADER_BYTES;
}

size_t jv_probe_put(uint8_t *out, const struct jv_probe *probe) {
    uint8_t *body = put_header(out, JV_FRAME_PROBE, JV_PROBE_BODY_BYTES);

    body[0] = probe->path_id;
    jv_put_le64(body + 1, probe->seq);
    jv_put_le64(body + 9, probe->tx_time_ns);
    jv_put_le64(body + 17, probe->tx_packets);
    jv_put_le64(body + 25, probe->tx_bytes);
    jv_put_le64(body + 33, probe->binding_epoch);
    body[41] = probe->bound_path_id;
    body[42] = probe->pmtu;
    return JV_PROBE_FRAME_BYTES;
}

size_t jv_probe_ack_put(uint8_t *out, const struct jv_probe_ack *ack) {
    uint8_t *body = put_header(out, JV_FRAME_PROBE_ACK, JV_PROBE_ACK_BODY_BYTES);

    body[0] = ack->path_id;
    jv_put_le64(body + 1, ack->seq);
    jv_put_le64(body + 9, ack->echo_time_ns);
    jv_put_le64(body + 17, ack->hold_time_ns);
    jv_put_le64(body + 25, ack->rx_packets);
    jv_put_le64(body + 33, ack->rx_bytes);
    jv_put_le64(body + 41, ack->binding_epoch);
    body[49] = ack->bound_path_id;
    return JV_PROBE_ACK_FRAME_BYTES;
}

int jv_probe_get(const struct jv_frame *frame, struct jv_probe *out) {
    const uint8_t *body = frame->body;

    if (frame->type != JV_FRAME_PROBE || frame->body_bytes != JV_PROBE_BODY_BYTES)
        return JV_FRAMES_BODY_LENGTH;
    if (body[0] == 0 || body[42] > 1)
        return JV_FRAMES_VALUE;
    *out = (struct jv_probe){
        .path_id = body[0],
        .seq = jv_get_le64(body + 1),
        .tx_time_ns = jv_get_le64(body + 9),
        .tx_packets = jv_get_le64(body + 17),
        .tx_bytes = jv_get_le64(body + 25),
        .binding_epoch = jv_get_le64(body + 33),
        .bound_path_id = body[41],
        .pmtu = body[42] == 1,
    };
    return 0;
}

int jv_probe_ack_get(const struct jv_frame *frame, struct jv_probe_ack *out) {
    const uint8_t *body = frame->body;

    if (frame->type != JV_FRAME_PROBE_ACK || frame->body_bytes != JV_PROBE_ACK_BODY_BYTES)
        return JV_FRAMES_BODY_LENGTH;
    if (body[0] == 0)
        return JV_FRAMES_VALUE;
    *out = (struct jv_probe_ack){
        .path_id = body[0],
        .seq = jv_get_le64(body + 1),
        .echo_time_ns = jv_get_le64(body + 9),
        .hold_time_ns = jv_get_le64(body + 17),
        .rx_packets = jv_get_le64(body + 25),
        .rx_bytes = jv_get_le64(body + 33),
        .binding_epoch = jv_get_le64(body + 41),
        .bound_path_id = body[49],
    };
    return 0;
}
