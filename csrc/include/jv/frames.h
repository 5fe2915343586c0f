/* SPDX-License-Identifier: Apache-2.0 */
/* Jump frames inside a control message (protocol.md §2), as far as C has to know them: whether a whole
 * message is well-formed, and the two frames that are sealed and answered here, PROBE and PROBE_ACK.
 * A message that the walk refuses does nothing; what it accepts Python still reads field by field. */
#ifndef JV_FRAMES_H
#define JV_FRAMES_H

#include "jv/common.h"

#define JV_FRAMES_MARK        0x01 /* the first byte of the plaintext */
#define JV_FRAMES_MAX         16
#define JV_FRAMES_MESSAGE_MAX 1200
#define JV_FRAMES_PMTU_MAX    65000 /* a PMTU probe alone */
#define JV_FRAME_HEADER_BYTES 4

enum jv_frame_type {
    JV_FRAME_END = 0,
    JV_FRAME_HELLO = 1,
    JV_FRAME_WELCOME = 2,
    JV_FRAME_REFUSE = 3,
    JV_FRAME_PROBE = 4,
    JV_FRAME_PROBE_ACK = 5,
    JV_FRAME_CHALLENGE = 6,
    JV_FRAME_RESPONSE = 7,
    JV_FRAME_REATTACH_REQUEST = 8,
    JV_FRAME_REATTACH_ACK = 9,
    JV_FRAME_REATTACH_REJECT = 10,
    JV_FRAME_SWITCH_ADVICE = 11,
    JV_FRAME_PATH_CLOSE = 12,
    JV_FRAME_PING = 13,
    JV_FRAME_PONG = 14,
    JV_FRAME_TERMINATE = 15,
    JV_FRAME_TYPES
};

enum jv_frame_direction {
    JV_TO_GATEWAY = 1,
    JV_TO_CLIENT = 2,
};

/* The order of Fault in gateway/framefields.py. */
enum jv_frame_fault {
    JV_FRAMES_NOT = -1,         /* empty, or the first byte is not the mark */
    JV_FRAMES_LONG = -2,        /* over 1200 bytes and not a PMTU probe */
    JV_FRAMES_NONE = -3,        /* nothing but padding */
    JV_FRAMES_MANY = -4,        /* more than JV_FRAMES_MAX */
    JV_FRAMES_TRUNCATED = -5,   /* a header or a body goes beyond the message */
    JV_FRAMES_UNKNOWN = -6,     /* a type that is not ours to ignore */
    JV_FRAMES_DIRECTION = -7,   /* against its direction */
    JV_FRAMES_FLAGS = -8,       /* reserved bits in a known frame */
    JV_FRAMES_BODY_LENGTH = -9, /* not as long as its type says */
    JV_FRAMES_PADDING = -10,    /* not all zero */
    JV_FRAMES_LIST_COUNT = -11, /* only Python reads lists */
    JV_FRAMES_VALUE = -12,      /* jv_probe_get and jv_probe_ack_get */
};

/* One known frame. body points into the message. */
struct jv_frame {
    const uint8_t *body;
    uint16_t body_bytes;
    uint8_t type;
};

/* How many known frames the plaintext p[0..len) holds (0 when all are unknown and may be ignored), or a
 * fault. Entries beyond the result have no meaning. HELLO and WELCOME, whose lists vary, are held to their
 * least and greatest length only. */
JV_API int jv_frames_walk(const uint8_t *p, size_t len, enum jv_frame_direction direction,
                          struct jv_frame out[JV_FRAMES_MAX]) JV_NONNULL JV_WARN_UNUSED;

#define JV_PROBE_BODY_BYTES      43
#define JV_PROBE_ACK_BODY_BYTES  50
#define JV_PROBE_FRAME_BYTES     (JV_FRAME_HEADER_BYTES + JV_PROBE_BODY_BYTES)
#define JV_PROBE_ACK_FRAME_BYTES (JV_FRAME_HEADER_BYTES + JV_PROBE_ACK_BODY_BYTES)

/* Counters are of the path, times of the sender's monotonic clock. */
struct jv_probe {
    uint64_t seq, tx_time_ns, tx_packets, tx_bytes, binding_epoch;
    uint8_t path_id;       /* never 0 */
    uint8_t bound_path_id; /* 0 = no binding */
    bool pmtu;             /* alone in its message, which may be longer than 1200 bytes */
};

struct jv_probe_ack {
    uint64_t seq, echo_time_ns, hold_time_ns, rx_packets, rx_bytes, binding_epoch;
    uint8_t path_id;
    uint8_t bound_path_id;
};

/* Write a frame at out (JV_PROBE_FRAME_BYTES, JV_PROBE_ACK_FRAME_BYTES) and return its size. The caller puts
 * the mark before the first frame of a message and zeros behind the last. */
JV_API size_t jv_probe_put(uint8_t *out, const struct jv_probe *probe) JV_NONNULL;
JV_API size_t jv_probe_ack_put(uint8_t *out, const struct jv_probe_ack *ack) JV_NONNULL;

/* Read a frame that the walk gave. 0, or JV_FRAMES_BODY_LENGTH (another type's), or JV_FRAMES_VALUE: path_id
 * 0 or reserved flags; the whole message is refused then. */
JV_API int jv_probe_get(const struct jv_frame *frame, struct jv_probe *out) JV_NONNULL JV_WARN_UNUSED;
JV_API int jv_probe_ack_get(const struct jv_frame *frame, struct jv_probe_ack *out) JV_NONNULL JV_WARN_UNUSED;

#endif
