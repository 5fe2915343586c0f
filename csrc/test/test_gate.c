/* SPDX-License-Identifier: Apache-2.0 */
/* What the gate promises: bounded memory, a rate for each kind of source, and that no flood of one kind keeps
 * another kind out. */
#include "jv/gate.h"

#include <arpa/inet.h>

#include "check.h"

#define SECOND_NS UINT64_C(1000000000)
#define FLOOD     50000 /* messages a second */

static const uint8_t key[JV_GATE_KEY_BYTES] = {1, 2, 3};
static uint64_t now_ns, seed;

static struct jv_gate *open_gate(void) {
    struct jv_gate *g = jv_gate_new(key);
    CHECK(g != NULL);
    now_ns = 1000 * SECOND_NS;
    seed = 1;
    return g;
}

static struct jv_endpoint at(uint32_t ipv4, uint16_t port) {
    struct jv_endpoint e = {.socket = 0};
    const uint32_t address = htonl(ipv4);
    CHECK(jv_endpoint_set(&e, AF_INET, (const uint8_t *)&address, port, 0) == 0);
    return e;
}

static struct jv_endpoint forged(void) {
    const uint64_t random = next_random(&seed);
    return at((uint32_t)random, (uint16_t)(random >> 32 | 1));
}

struct passed {
    unsigned prior, strangers, rate, source;
};

static void judge(struct jv_gate *g, const struct jv_endpoint *from, bool has_mac2, bool pressed,
                  struct passed *p) {
    switch (jv_gate_judge(g, from, has_mac2, pressed, now_ns)) {
    case JV_GATE_PRIOR:
        p->prior++;
        break;
    case JV_GATE_STRANGER:
        p->strangers++;
        break;
    case JV_GATE_OVER_RATE:
        p->rate++;
        break;
    case JV_GATE_OVER_SOURCE:
        p->source++;
        break;
    }
}

/* Every message from another forged source; half of them bring a mac2, which anybody can make up. */
static struct passed flood(struct jv_gate *g, unsigned ms) {
    struct passed p = {0};
    for (unsigned i = 0; i < ms * (FLOOD / 1000); i++) {
        const struct jv_endpoint from = forged();
        now_ns += SECOND_NS / FLOOD;
        judge(g, &from, i & 1, true, &p);
    }
    return p;
}

static bool passes(struct jv_gate *g, const struct jv_endpoint *from, bool has_mac2) {
    const enum jv_gate_verdict verdict = jv_gate_judge(g, from, has_mac2, true, now_ns);
    return verdict == JV_GATE_PRIOR || verdict == JV_GATE_STRANGER;
}

static void a_calm_gate_lets_everything_pass(void) {
    struct jv_gate *g = open_gate();
    struct passed p = {0};
    for (uint32_t i = 0; i < 2000; i++) {
        const struct jv_endpoint from = at(0x0a000000 + i, 51820);
        now_ns += SECOND_NS / 1000;
        judge(g, &from, false, true, &p);
    }
    CHECK(p.rate == 0 && p.source == 0);
    CHECK(p.strangers > 1990); /* the filters are never sure */
    jv_gate_free(g);
}

static void strangers_get_their_rate_and_no_more(void) {
    struct jv_gate *g = open_gate();
    const size_t bytes = jv_gate_bytes(g);
    (void)flood(g, 1000); /* bursts are spent */
    const struct passed p = flood(g, 10000);
    CHECK(p.strangers > 10 * JV_GATE_STRANGER_PER_S - 100 && p.strangers < 10 * JV_GATE_STRANGER_PER_S + 300);
    CHECK(p.prior < FLOOD * 10 / 20); /* wrong answers of the filters */
    CHECK(p.rate > FLOOD * 10 / 2);
    CHECK(p.source < FLOOD * 10 / 1000);
    CHECK(jv_gate_bytes(g) == bytes && bytes < 2 << 20);
    jv_gate_free(g);
}

/* A stock client sends again after 5 s, ours sooner. Whatever became of the first try, the second passes. */
static void a_returning_source_is_not_starved(void) {
    struct jv_gate *g = open_gate();
    (void)flood(g, 2000);
    for (uint32_t i = 0; i < 20; i++) {
        const struct jv_endpoint client = at(0xc0000200 + i, 40000);
        (void)passes(g, &client, false);
        (void)flood(g, i & 1 ? 5333 : 500);
        CHECK(passes(g, &client, false)); /* is sent a cookie */
        (void)flood(g, i & 1 ? 5333 : 500);
        CHECK(passes(g, &client, true));
    }
    jv_gate_free(g);
}

/* Of a session: it is not asked to come twice, not even while others claim to return or to answer. */
static void a_known_source_is_not_starved(void) {
    struct jv_gate *g = open_gate();
    const struct jv_endpoint client = at(0xc0000201, 40000);
    jv_gate_expect(g, &client, now_ns);
    for (int minute = 0; minute < 4; minute++) {
        struct passed p = {0};
        now_ns += 58 * SECOND_NS;
        (void)flood(g, 1000);
        for (uint32_t i = 0; i < FLOOD; i++) { /* each source twice, as if it returned */
            const struct jv_endpoint from = at(0x0b000000 + i / 2, 7);
            now_ns += SECOND_NS / FLOOD;
            judge(g, &from, i & 2, true, &p);
        }
        CHECK(passes(g, &client, false));
        CHECK(p.rate > FLOOD / 4);
    }
    now_ns += 600 * SECOND_NS;
    struct passed p = {0};
    judge(g, &client, false, true, &p);
    CHECK(p.strangers == 1); /* forgotten */
    jv_gate_free(g);
}

static void one_source_has_its_share_while_others_wait(void) {
    struct jv_gate *g = open_gate();
    struct passed calm = {0}, pressed = {0};
    for (int i = 0; i < 1000; i++) {
        const struct jv_endpoint from =
            at(0x0a000001, (uint16_t)(1 + i)); /* its ports are its own to choose */
        now_ns += SECOND_NS / 1000;
        judge(g, &from, false, i >= 500, i < 500 ? &calm : &pressed);
    }
    CHECK(calm.source == 0);
    CHECK(pressed.strangers + pressed.prior < JV_GATE_SOURCE_PER_S && pressed.source > 450);
    const struct jv_endpoint other = at(0x0a000002, 1);
    CHECK(passes(g, &other, false));
    jv_gate_free(g);
}

/* Whoever forges a client's address and port can use up that client's share, and nobody else's. */
static void a_forged_known_source_harms_itself_only(void) {
    struct jv_gate *g = open_gate();
    struct passed p = {0};
    const struct jv_endpoint victim = at(0xc0000201, 40000), other = at(0xc0000201, 40001);
    jv_gate_expect(g, &victim, now_ns);
    jv_gate_expect(g, &other, now_ns);
    for (int i = 0; i < FLOOD; i++) {
        now_ns += SECOND_NS / FLOOD;
        judge(g, &victim, false, true, &p);
    }
    CHECK(p.prior < 2 * JV_GATE_SOURCE_PER_S + 32 && p.rate == 0);
    CHECK(passes(g, &other, false));
    jv_gate_free(g);
}

static void sources_of_ipv6_are_told_apart_by_their_64(void) {
    struct jv_gate *g = open_gate();
    struct passed p = {0};
    for (int i = 0; i < 1000; i++) {
        struct jv_endpoint from = {.socket = 0};
        const uint8_t address[16] = {0x20, 1, 0xd, 0xb8, [14] = (uint8_t)(i >> 8), [15] = (uint8_t)i};
        CHECK(jv_endpoint_set(&from, AF_INET6, address, 51820, 0) == 0);
        judge(g, &from, false, true, &p);
    }
    CHECK(p.strangers == 32 && p.source == 968);
    jv_gate_free(g);
}

int main(void) {
    RUN(a_calm_gate_lets_everything_pass);
    RUN(strangers_get_their_rate_and_no_more);
    RUN(a_returning_source_is_not_starved);
    RUN(a_known_source_is_not_starved);
    RUN(one_source_has_its_share_while_others_wait);
    RUN(a_forged_known_source_harms_itself_only);
    RUN(sources_of_ipv6_are_told_apart_by_their_64);
    return failures();
}
