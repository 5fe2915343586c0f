/* SPDX-License-Identifier: Apache-2.0 */
/* Data under the suites of our own (protocol.md §3): type 5, all of its header associated data, counter and
 * replay window shared with type 4 of the same keypair.
 *
 * Order of checks before the tag: receiver index, key age, suite, reserved flags, size, packet limit. */
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
    JV_HOLD(e, 0);
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

static struct jv_aead_key *refuse(struct jv_engine *e, enum jv_counter why) {
    jv_count(&e->counters, why);
    return NULL;
}

struct jv_aead_key *jv_suite_key(struct jv_engine *e, struct jv_keypair *kp, const uint8_t *datagram,
                                 uint32_t len) {
    const unsigned suite = datagram[1];
    const uint64_t counter = jv_get_le64(datagram + 8);
    if (suite >= JV_SUITE_END || !(kp->opens >> suite & 1))
        return refuse(e, JV_CTR_DROP_SUITE);
    if (datagram[3] != 0)
        return refuse(e, JV_CTR_DROP_TYPE);
    if (len < JV_HEADER_BYTES + jv_aead_tag_bytes(suite))
        return refuse(e, JV_CTR_DROP_SHORT);
    if (counter >= (suite == JV_SUITE_AES256GCM ? GCM_PACKETS_MAX : e->limits.reject_after_messages))
        return refuse(e, JV_CTR_DROP_KEY_EXPIRED);
    return &jv_keypair_data(kp, suite)->recv;
}
