/* SPDX-License-Identifier: Apache-2.0 */
/* The same ciphertext a second time: duplication while a path is suspect (session.md §6), copies downstream
 * to an address under validation (§7). Sealed once, so the other end's replay window removes the second; its
 * type 4 header names no path, and a type 5 data header must carry path_id 0 while this goes on. */
#include "engine_internal.h"

static uint32_t datagrams(const struct jv_train *train) {
    return (train->len + train->segment_bytes - 1) / train->segment_bytes;
}

static void send_again(struct jv_engine *e, const struct jv_train *train, const struct jv_endpoint *to,
                       enum jv_counter counter) {
    struct jv_train again = {
        .data = train->data, .len = train->len, .segment_bytes = train->segment_bytes, .to = to};
    jv_count_add(&e->counters, counter, datagrams(train));
    (void)jv_engine_transmit(e, to->socket, &again, 1);
}

static struct jv_path *second_path(struct jv_paths *p) {
    if (!p->bound)
        return NULL;
    if (p->bound->id == p->dup_a)
        return jv_paths_by_id(p, p->dup_b);
    return p->bound->id == p->dup_b ? jv_paths_by_id(p, p->dup_a) : NULL;
}

/* The datagrams of the train that the address has earned. */
static struct jv_train within_budget(struct jv_visitor *v, const struct jv_train *train) {
    struct jv_train part = *train;
    const uint64_t earned = JV_AMPLIFICATION_FACTOR * v->earned_bytes;
    const uint64_t left = earned > v->tx_bytes ? earned - v->tx_bytes : 0;
    if (part.len > left)
        part.len = (uint32_t)(left - left % part.segment_bytes);
    v->tx_bytes += part.len;
    return part;
}

void jv_extra_train(struct jv_engine *e, struct jv_session *s, const struct jv_train *train) {
    struct jv_paths *p = s->paths;
    struct jv_path *second = e->now_ns < p->dup_until_ns ? second_path(p) : NULL;
    if (second) {
        send_again(e, train, &second->endpoint, JV_CTR_TX_DUPLICATES);
        jv_paths_sent(e, s, second, datagrams(train), train->len, true);
    }
    for (unsigned i = 0; p->visitor && i < JV_VISITORS_MAX; i++) {
        struct jv_visitor *v = &p->visitor[i];
        if (e->now_ns >= v->copy_until_ns)
            continue;
        const struct jv_train part = within_budget(v, train);
        if (part.len > 0)
            send_again(e, &part, &v->endpoint, JV_CTR_TX_COPIES);
    }
}
