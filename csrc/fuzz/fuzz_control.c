/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: whatever plaintext a peer seals as a control message, the engine goes on; what it hands up is
 * exactly what came, from a well-formed message; a binding, a path's place and its address stay as they were;
 * and a refused message is counted once.
 *
 * The first byte of an input says which way and in which message it travels and how much time passes. */
#include "engine_internal.h"

#include "fuzz.h"

struct bed {
    struct jv_engine *engine;
    struct jv_session *session;
    struct jv_msg msg;
};

static struct bed open_bed(bool client) {
    static const uint8_t key[32] = {1};
    const struct jv_engine_config config = {
        .sessions = 2,
        .prefixes = 2,
        .window_bits = 128,
        .limits = {.rekey_after_ns = 120 * JV_NS_PER_S,
                   .reject_after_ns = 180 * JV_NS_PER_S,
                   .keepalive_ns = 10 * JV_NS_PER_S,
                   .rekey_timeout_ns = 5 * JV_NS_PER_S,
                   .rekey_after_messages = UINT64_C(1) << 60,
                   .reject_after_messages = UINT64_C(1) << 61},
        .client = client,
    };
    const uint8_t there[4] = {127, 0, 0, 1};
    struct bed b = {.engine = jv_engine_new(&config, JV_NS_PER_S)};
    uint32_t slot;
    struct jv_keys keys = {
        .send = key, .recv = key, .control_send = key, .control_recv = key, .initiator = true};
    MUST(b.engine && jv_engine_add_session(b.engine, &slot) == 0);
    MUST(jv_engine_new_index(b.engine, slot, &keys.local_index) == 0);
    MUST(jv_endpoint_set(&b.msg.from, AF_INET, there, 9, 0) == 0);
    MUST(jv_engine_set_path(b.engine, slot, 1, &b.msg.from, JV_NS_PER_S) == 0);
    MUST(jv_engine_bind(b.engine, slot, 1, 5, JV_NS_PER_S) == 0);
    MUST(jv_engine_install(b.engine, slot, &keys, JV_NS_PER_S) == 0);
    b.session = jv_table_get(b.engine->table, slot);
    return b;
}

static void check_events(struct bed *b, const uint8_t *plain, size_t len) {
    const struct jv_event *event;
    unsigned controls = 0;
    while ((event = jv_engine_peek(b->engine)) != NULL) {
        if (event->kind == JV_EVENT_CONTROL) {
            MUST(event->len == len && memcmp(event->data, plain, len) == 0);
            controls++;
        }
        MUST(event->slot == b->session->slot);
        jv_engine_consume(b->engine);
    }
    MUST(controls <= 1);
}

static struct bed beds[2];

static void close_beds(void) {
    for (int i = 0; i < 2; i++)
        jv_engine_free(beds[i].engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2)
        return 0;
    struct bed *b = &beds[data[0] & 1];
    if (!beds[0].engine && !beds[1].engine)
        (void)atexit(close_beds);
    if (!b->engine)
        *b = open_bed(data[0] & 1);
    struct jv_engine *e = b->engine;
    struct jv_path *path = b->session->paths->bound;
    const struct jv_arrival a = {.msg = &b->msg,
                                 .session = b->session,
                                 .kp = b->session->current,
                                 .at = data[0] & 4 ? NULL : path,
                                 .path = data[0] & 4 ? NULL : path,
                                 .bytes = (uint32_t)size + 31,
                                 .type = data[0] & 2 ? JV_TYPE_TRANSPORT : JV_TYPE_JUMP,
                                 .newest = data[0] & 8};
    e->now_ns += (data[0] >> 4) * 50 * JV_NS_PER_MS;
    b->session->current->birth_ns = e->now_ns; /* its keys never age */
    b->session->due.erase_ns = 0;
    const uint64_t bad = e->counters.n[JV_CTR_DROP_CONTROL_FRAMES], all = e->counters.n[JV_CTR_RX_CONTROL];
    jv_control_message(e, &a, data + 1, (uint32_t)size - 1);
    MUST(e->counters.n[JV_CTR_RX_CONTROL] == all + 1 && e->counters.n[JV_CTR_DROP_CONTROL_FRAMES] <= bad + 1);
    check_events(b, data + 1, size - 1);
    jv_engine_tick(e, e->now_ns);
    MUST(b->session->paths->bound == path && path->id == 1 && b->session->paths->epoch == 5);
    MUST(jv_endpoint_same_remote(&path->endpoint, &b->msg.from) && b->session->paths->used == 1);
    return 0;
}
