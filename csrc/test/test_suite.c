/* SPDX-License-Identifier: Apache-2.0 */
/* Data under the suites of our own, between a client and a gateway: sealed, opened, and refused by name. */
#include "bed.h"

#include "engine_internal.h"

#include <sodium.h>

static const uint8_t data_key[2][32] = {{11}, {12}};
static const unsigned suites[] = {JV_SUITE_AES256GCM, JV_SUITE_AEGIS128L};

static struct jv_session *row(const struct end *x) {
    return jv_table_get(x->engine->table, x->slot);
}

/* A second handshake whose keypairs offer both suites, so far as this machine has them. */
static void offer(struct bed *b) {
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &b->client : &b->gateway;
        CHECK(jv_engine_new_index(x->engine, x->slot, &x->index) == 0);
    }
    for (int i = 0; i < 2; i++) {
        struct end *x = i ? &b->client : &b->gateway;
        struct jv_keys keys = bed_keys_of(x, bed_other(b, x), i == 1);
        for (size_t n = 0; n < JV_ARRAY_LEN(suites); n++)
            if (jv_aead_available(suites[n])) {
                keys.data_send[suites[n]] = data_key[i];
                keys.data_recv[suites[n]] = data_key[1 - i];
            }
        CHECK(jv_engine_install(x->engine, x->slot, &keys, b->now_ns) == 0);
    }
    bed_settle(b);
    b->client.events = b->gateway.events = 0;
}

static void choose(struct end *x, unsigned suite) {
    CHECK(jv_engine_choose_suite(x->engine, x->slot, x->index, suite) == 0);
}

static void open_with(struct bed *b, unsigned suite) {
    bed_open(b);
    offer(b);
    choose(&b->gateway, suite);
    choose(&b->client, suite);
}

/* The next datagram for the gateway, taken from its socket. */
static size_t capture(struct bed *b, uint8_t *datagram, size_t most) {
    CHECK(jv_engine_pump_tun(b->client.engine, b->now_ns) >= 0);
    const ssize_t n = recv(b->gateway.udp[0], datagram, most, 0);
    CHECK(n > 0);
    return n > 0 ? (size_t)n : 0;
}

static int bring(struct bed *b, const uint8_t *datagram, size_t len) {
    const struct jv_endpoint *to = &b->gateway.at[0];
    CHECK(sendto(b->client.udp[0], datagram, len, 0, (const struct sockaddr *)&to->remote.v4,
                 sizeof to->remote.v4) == (ssize_t)len);
    CHECK(jv_engine_pump_udp(b->gateway.engine, 0, b->now_ns) >= 0);
    return bed_take(&b->gateway);
}

#define FOR_EACH_SUITE(suite)                                                                                \
    for (size_t n_ = 0, suite = suites[0]; n_ < JV_ARRAY_LEN(suites); suite = suites[++n_ % 2])              \
        if (!jv_aead_available((unsigned)suite))                                                             \
            printf("# %s: not offered here\n", jv_aead_name((unsigned)suite));                               \
        else

static void every_size_arrives_both_ways(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        struct jv_session_stats stats;
        open_with(&b, (unsigned)suite);
        for (size_t payload = 0; payload <= MTU - 20; payload += 13) {
            bed_put(&b, &b.client, payload);
            bed_put(&b, &b.gateway, payload);
            bed_settle(&b);
            CHECK(bed_take(&b.client) == 1 && bed_take(&b.gateway) == 1);
        }
        CHECK(jv_engine_stats(b.client.engine, b.client.slot, &stats) == 0 && stats.suite == suite);
        CHECK(bed_count(&b.gateway, JV_CTR_DROP_REPLAY_SEEN) == 0);
        bed_close(&b);
    }
}

static void the_header_says_what_it_is(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        uint8_t datagram[2048];
        open_with(&b, (unsigned)suite);
        const uint64_t counter = row(&b.client)->current->send_counter;
        bed_put(&b, &b.client, 44);
        const size_t n = capture(&b, datagram, sizeof datagram);
        CHECK(n == 16 + 64 + jv_aead_tag_bytes((unsigned)suite));
        CHECK(datagram[0] == 5 && datagram[1] == suite && datagram[2] == 1 && datagram[3] == 0);
        CHECK(jv_get_le32(datagram + 4) == b.gateway.index && jv_get_le64(datagram + 8) == counter);
        CHECK(bring(&b, datagram, n) == 1 && bring(&b, datagram, n) == 0);
        CHECK(bed_count(&b.gateway, JV_CTR_DROP_REPLAY_SEEN) == 1);
        bed_close(&b);
    }
}

static void every_bit_of_the_header_is_authenticated(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        uint8_t datagram[2048];
        open_with(&b, (unsigned)suite);
        bed_put(&b, &b.client, 44);
        const size_t n = capture(&b, datagram, sizeof datagram);
        for (unsigned bit = 0; bit < 8 * 16; bit++) {
            datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
            CHECK(bring(&b, datagram, n) == 0);
            datagram[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        CHECK(bed_count(&b.gateway, JV_CTR_DROP_AUTH) > 0);
        CHECK(bring(&b, datagram, n) == 1);
        bed_close(&b);
    }
}

static void only_what_was_chosen_is_opened(void) {
    struct bed b;
    uint8_t datagram[2048];
    bed_open(&b);
    offer(&b);
    if (!jv_aead_available(JV_SUITE_AES256GCM) || !jv_aead_available(JV_SUITE_AEGIS128L)) {
        printf("# one of the suites is not offered here\n");
        bed_close(&b);
        return;
    }
    choose(&b.client, JV_SUITE_AES256GCM);
    bed_put(&b, &b.client, 44);
    const size_t n = capture(&b, datagram, sizeof datagram);
    CHECK(bring(&b, datagram, n) == 0 && bed_count(&b.gateway, JV_CTR_DROP_SUITE) == 1);
    choose(&b.gateway, JV_SUITE_AEGIS128L);
    CHECK(bring(&b, datagram, n) == 0 && bed_count(&b.gateway, JV_CTR_DROP_SUITE) == 2);
    CHECK(jv_engine_choose_suite(b.gateway.engine, b.gateway.slot, b.gateway.index, JV_SUITE_AES256GCM) ==
          -ENOENT);
    CHECK(jv_engine_choose_suite(b.gateway.engine, b.gateway.slot, b.gateway.index,
                                 JV_SUITE_CHACHA20POLY1305) == -ENOENT);
    datagram[1] = JV_SUITE_END;
    CHECK(bring(&b, datagram, n) == 0 && bed_count(&b.gateway, JV_CTR_DROP_SUITE) == 3);
    datagram[1] = 255;
    CHECK(bring(&b, datagram, n) == 0 && bed_count(&b.gateway, JV_CTR_DROP_SUITE) == 4);
    bed_close(&b);
}

/* The client asks: whatever it offered is taken until WELCOME, nothing before, and type 4 throughout. */
static void what_was_offered_is_taken_while_the_answer_is_open(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        bed_open(&b);
        offer(&b);
        choose(&b.gateway, (unsigned)suite);
        bed_put(&b, &b.gateway, 44);
        bed_settle(&b);
        CHECK(bed_take(&b.client) == 0 && bed_count(&b.client, JV_CTR_DROP_SUITE) == 1);
        choose(&b.client, JV_SUITE_CONTROL);
        bed_put(&b, &b.gateway, 44);
        bed_put(&b, &b.client, 44);
        bed_settle(&b);
        CHECK(bed_take(&b.client) == 1 && bed_take(&b.gateway) == 1);
        bed_close(&b);
    }
}

static void the_plain_suite_takes_no_type_5_data(void) {
    struct bed b;
    bed_open(&b);
    offer(&b);
    choose(&b.client, JV_SUITE_CHACHA20POLY1305);
    CHECK(!jv_keypair_data(row(&b.client)->current, JV_SUITE_AES256GCM));
    CHECK(!jv_keypair_data(row(&b.client)->current, JV_SUITE_AEGIS128L));
    CHECK(row(&b.client)->current->opens == 0);
    bed_put(&b, &b.client, 44);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1);
    bed_close(&b);
}

static void a_duplicate_names_no_path(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        uint8_t first[2048], second[2048];
        open_with(&b, (unsigned)suite);
        CHECK(jv_engine_duplicate(b.client.engine, b.client.slot, 1, 2, b.now_ns + SECOND_NS, b.now_ns) == 0);
        bed_put(&b, &b.client, 44);
        const size_t n = capture(&b, first, sizeof first);
        CHECK(recv(b.gateway.udp[1], second, sizeof second, 0) == (ssize_t)n);
        CHECK(memcmp(first, second, n) == 0 && first[2] == 0);
        CHECK(bring(&b, first, n) == 1 && bring(&b, second, n) == 0);
        bed_close(&b);
    }
}

/* Sealed as the client would, with a flag we know nothing of, or with frames inside. */
static void forge(struct bed *b, unsigned suite, uint8_t flags, uint8_t first_byte, int expected,
                  enum jv_counter why) {
    uint8_t datagram[16 + 64 + 32] = {5, (uint8_t)suite, 1, flags};
    struct jv_keypair *kp = row(&b->client)->current;
    const uint64_t before = bed_count(&b->gateway, why);
    uint8_t inner[128];
    (void)bed_packet(inner, true, 44, true);
    inner[0] = first_byte;
    jv_put_le32(datagram + 4, kp->remote_index);
    jv_put_le64(datagram + 8, kp->send_counter);
    jv_aead_seal(&jv_keypair_data(kp, suite)->send, kp->send_counter++, datagram, 16, inner, 64,
                 datagram + 16);
    CHECK(bring(b, datagram, 16 + 64 + jv_aead_tag_bytes(suite)) == expected);
    CHECK(bed_count(&b->gateway, why) == before + 1);
}

static void flags_and_frames_are_refused(void) {
    FOR_EACH_SUITE(suite) {
        struct bed b;
        open_with(&b, (unsigned)suite);
        forge(&b, (unsigned)suite, 0, 0x45, 1, JV_CTR_RX_DATA);
        forge(&b, (unsigned)suite, 1, 0x45, 0, JV_CTR_DROP_TYPE);
        forge(&b, (unsigned)suite, 0, JV_FRAMES_MARK, 0, JV_CTR_DROP_CONTROL_FRAMES);
        bed_close(&b);
    }
}

static void gcm_keys_end_after_2_to_the_26(void) {
    struct bed b;
    if (!jv_aead_available(JV_SUITE_AES256GCM)) {
        printf("# aes-256-gcm: not offered here\n");
        return;
    }
    open_with(&b, JV_SUITE_AES256GCM);
    struct jv_keypair *kp = row(&b.client)->current;
    kp->send_counter = (UINT64_C(1) << 25) - 2 - kp->control->send_counter;
    bed_put(&b, &b.client, 44);
    bed_settle(&b);
    CHECK(!bed_seen(&b.client, JV_EVENT_WANTED, -1));
    bed_put(&b, &b.client, 44);
    bed_settle(&b);
    CHECK(bed_last(&b.client, JV_EVENT_WANTED)->event.reason == JV_WANTED_REKEY);
    kp->send_counter = (UINT64_C(1) << 26) - 1 - kp->control->send_counter;
    for (int i = 0; i < 3; i++)
        bed_put(&b, &b.client, 44);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 3);
    CHECK(row(&b.client)->stage_count == 2);
    bed_close(&b);
}

static void hot_keys_are_bounded_and_wiped(void) {
    static struct jv_hot hot;
    static struct jv_aead_key keys[JV_HOT_KEYS + 8];
    uint8_t bytes[32] = {7}, text[16] = {1}, sealed[JV_ARRAY_LEN(keys)][32], opened[16];
    if (!jv_aead_available(JV_SUITE_AES256GCM)) {
        printf("# aes-256-gcm: not offered here\n");
        return;
    }
    for (size_t i = 0; i < JV_ARRAY_LEN(keys); i++) {
        bytes[1] = (uint8_t)i;
        CHECK(jv_aead_key_init(&keys[i], JV_SUITE_AES256GCM, bytes, sizeof bytes) == 0);
        jv_hot_touch(&hot, &keys[i]);
        CHECK(keys[i].schedule != NULL);
        jv_aead_seal(&keys[i], 5, NULL, 0, text, sizeof text, sealed[i]);
    }
    CHECK(keys[0].schedule == NULL && keys[7].schedule == NULL && keys[8].schedule != NULL);
    for (size_t i = 0; i < JV_ARRAY_LEN(keys); i++)
        CHECK(jv_aead_open(&keys[i], 5, NULL, 0, sealed[i], sizeof sealed[i], opened) == 0);
    for (size_t i = 0; i < JV_ARRAY_LEN(keys); i++)
        jv_hot_leave(&keys[i]);
    for (size_t i = 0; i < JV_HOT_KEYS; i++)
        CHECK(!hot.slot[i].owner && sodium_is_zero(hot.slot[i].schedule, sizeof hot.slot[i].schedule));
}

int main(void) {
    CHECK(jv_aead_init() == 0);
    RUN(every_size_arrives_both_ways);
    RUN(the_header_says_what_it_is);
    RUN(every_bit_of_the_header_is_authenticated);
    RUN(only_what_was_chosen_is_opened);
    RUN(what_was_offered_is_taken_while_the_answer_is_open);
    RUN(the_plain_suite_takes_no_type_5_data);
    RUN(a_duplicate_names_no_path);
    RUN(flags_and_frames_are_refused);
    RUN(gcm_keys_end_after_2_to_the_26);
    RUN(hot_keys_are_bounded_and_wiped);
    return failures();
}
