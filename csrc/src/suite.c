/* SPDX-License-Identifier: Apache-2.0 */
/* Data under the suites of our own (protocol.md §3): type 5, all of its header associated data, counter and
 * replay window shared with type 4 of the same keypair.
 *
 * Order of checks: receiver index, key age, suite, reserved flags, size, packet limit, tag, replay window. */
#include "engine_internal.h"

#include <errno.h>

/* 2^26 packets keep the advantage against AES-256-GCM negligible with packets of this size. */
#define GCM_PACKETS_MAX (UINT64_C(1) << 26)

uint64_t jv_suite_packets_max(const struct jv_keypair *kp) {
    return kp->seals == JV_SUITE_AES256GCM ? GCM_PACKETS_MAX : UINT64_MAX;
}

size_t jv_suite_tag_bytes(const struct jv_keypair *kp) {
    return kp && kp->seals ? jv_aead_tag_bytes(kp->seals) : JV_TAG_BYTES;
}

int jv_engine_choose_suite(struct jv_engine *e, uint32_t slot, uint32_t local_index, unsigned suite) {
    const struct jv_session *s = jv_table_get(e->table, slot);
    struct jv_keypair *kp = s ? jv_session_keypair(s, local_index) : NULL;
    if (!kp)
        return -ENOENT;
    if (suite == JV_SUITE_CONTROL) {
        jv_keypair_expect(kp);
        return 0;
    }
    return jv_keypair_choose(kp, suite);
}

/* --- outwards
 * ------------------------------------------------------------------------------------------------- */

/* What a second copy may carry must not name a path (extra.c). */
static uint8_t named_path(const struct jv_engine *e, const struct jv_session *s) {
    const struct jv_path *path = s->paths ? jv_paths_data(s->paths) : NULL;
    return path && e->now_ns >= s->paths->extra_until_ns ? path->id : 0;
}

uint32_t jv_suite_seal(struct jv_engine *e, const struct jv_session *s, struct jv_keypair *kp,
                       const uint8_t *plain, uint32_t len, uint8_t *header) {
    struct jv_aead_key *key = &jv_keypair_data(kp, kp->seals)->send;
    const uint64_t counter = kp->send_counter++;
    header[0] = JV_TYPE_JUMP;
    header[1] = kp->seals;
    header[2] = named_path(e, s);
    header[3] = 0;
    jv_put_le32(header + 4, kp->remote_index);
    jv_put_le64(header + 8, counter);
    jv_hot_touch(&e->hot, key);
    jv_aead_seal(key, counter, header, JV_HEADER_BYTES, plain, len, header + JV_HEADER_BYTES);
    return (uint32_t)(JV_HEADER_BYTES + len + jv_aead_tag_bytes(kp->seals));
}

/* --- inwards
 * -------------------------------------------------------------------------------------------------- */

static bool refuse(struct jv_engine *e, enum jv_counter why) {
    jv_count(&e->counters, why);
    return false;
}

static bool open_data(struct jv_engine *e, struct jv_keypair *kp, uint8_t *datagram, uint32_t len) {
    const unsigned suite = datagram[1];
    const uint64_t counter = jv_get_le64(datagram + 8);
    uint8_t *plain = datagram + JV_HEADER_BYTES;
    if (suite >= JV_SUITE_END || !(kp->opens >> suite & 1))
        return refuse(e, JV_CTR_DROP_SUITE);
    if (datagram[3] != 0)
        return refuse(e, JV_CTR_DROP_TYPE);
    if (len < JV_HEADER_BYTES + jv_aead_tag_bytes(suite))
        return refuse(e, JV_CTR_DROP_SHORT);
    if (counter >= (suite == JV_SUITE_AES256GCM ? GCM_PACKETS_MAX : e->limits.reject_after_messages))
        return refuse(e, JV_CTR_DROP_KEY_EXPIRED);
    struct jv_aead_key *key = &jv_keypair_data(kp, suite)->recv;
    jv_hot_touch(&e->hot, key);
    if (jv_aead_open(key, counter, datagram, JV_HEADER_BYTES, plain, len - JV_HEADER_BYTES, plain) != 0)
        return refuse(e, JV_CTR_DROP_AUTH);
    return true;
}

void jv_suite_rx(struct jv_engine *e, const struct jv_msg *msg, uint8_t *datagram, uint32_t len) {
    struct jv_arrival a = {.msg = msg, .bytes = len, .path_id = datagram[2], .type = JV_TYPE_JUMP};
    const uint64_t counter = jv_get_le64(datagram + 8);
    uint8_t *inner = datagram + JV_HEADER_BYTES;
    a.kp = jv_rx_key(e, datagram, &a.session);
    if (!a.kp || !open_data(e, a.kp, datagram, len))
        return;
    jv_rx_locate(&a);
    if (!jv_rx_fresh(e, &a.kp->window, counter)) {
        jv_rx_count(&a); /* a copy is where it came from, whatever it names */
        return;
    }
    jv_control_credit(&a);
    jv_rx_count(&a);
    a.newest = counter == jv_replay_highest(&a.kp->window);
    const uint32_t inner_len = (uint32_t)(len - JV_HEADER_BYTES - jv_aead_tag_bytes(datagram[1]));
    if (inner_len > 0 && inner[0] == JV_FRAMES_MARK) {
        (void)refuse(e, JV_CTR_DROP_CONTROL_FRAMES); /* frames travel as control, under a key of their own */
        return;
    }
    jv_rx_accept(e, &a, inner_len > 0);
    jv_rx_inner(e, &a, inner, inner_len);
}
