/* SPDX-License-Identifier: Apache-2.0 */
/* The trie against a list of prefixes that is searched whole, and the rules of ownership. */
#include "jv/route.h"

#include <errno.h>
#include <stdlib.h>

#include "check.h"

static struct jv_prefix v4(uint32_t address, uint8_t len) {
    struct jv_prefix p = {.family = 4, .len = len};

    jv_put_be32(p.addr, address);
    return p;
}

static struct jv_prefix v6(uint64_t hi, uint64_t lo, uint8_t len) {
    struct jv_prefix p = {.family = 6, .len = len};

    jv_put_be64(p.addr, hi);
    jv_put_be64(p.addr + 8, lo);
    return p;
}

static uint32_t look4(const struct jv_routes *r, uint32_t address) {
    uint8_t bytes[4];

    jv_put_be32(bytes, address);
    return jv_route_lookup4(r, bytes);
}

static uint32_t insert(struct jv_routes *r, struct jv_prefix p, uint32_t slot) {
    uint32_t previous = 12345;

    CHECK(jv_routes_insert(r, &p, slot, &previous) == 0);
    return previous;
}

static void test_empty(void) {
    struct jv_routes *r = jv_routes_new(10);
    struct jv_prefix p = v4(0, 0);
    uint8_t address[16] = {0};

    CHECK(look4(r, 0x0a000001) == JV_ROUTE_NONE);
    CHECK(jv_route_lookup6(r, address) == JV_ROUTE_NONE);
    CHECK(jv_routes_remove(r, &p, 0) == -ENOENT);
    CHECK(jv_routes_remove_all(r, 0) == 0);
    CHECK(jv_routes_count(r) == 0);
    jv_routes_free(r);
    jv_routes_free(NULL);
}

static void test_longest_wins(void) {
    struct jv_routes *r = jv_routes_new(10);

    insert(r, v4(0, 0), 1);
    insert(r, v4(0x0a000000, 8), 2);
    insert(r, v4(0x0a0a0000, 16), 3);
    insert(r, v4(0x0a0a0a0a, 32), 4);
    CHECK(look4(r, 0xc0a80001) == 1);
    CHECK(look4(r, 0x0aff0001) == 2);
    CHECK(look4(r, 0x0a0aff01) == 3);
    CHECK(look4(r, 0x0a0a0a0a) == 4);
    CHECK(look4(r, 0x0a0a0a0b) == 3);
    jv_routes_free(r);
}

static void test_families_are_apart(void) {
    struct jv_routes *r = jv_routes_new(10);
    uint8_t address[16] = {0};

    insert(r, v6(0, 0, 0), 6);
    CHECK(look4(r, 0) == JV_ROUTE_NONE);
    CHECK(jv_route_lookup6(r, address) == 6);
    insert(r, v4(0, 0), 4);
    CHECK(look4(r, 0) == 4 && jv_route_lookup6(r, address) == 6);
    jv_routes_free(r);
}

static void test_last_insert_owns(void) {
    struct jv_routes *r = jv_routes_new(10);
    struct jv_prefix p = v4(0x0a000000, 8);

    CHECK(insert(r, p, 1) == JV_ROUTE_NONE);
    CHECK(insert(r, p, 2) == 1);
    CHECK(insert(r, v4(0x0a636363, 8), 2) == 2); /* bits behind the length do not matter */
    CHECK(jv_routes_count(r) == 1);
    CHECK(jv_routes_remove(r, &p, 1) == -ENOENT); /* not its any more */
    CHECK(look4(r, 0x0a000001) == 2);
    CHECK(jv_routes_remove(r, &p, 2) == 0);
    CHECK(look4(r, 0x0a000001) == JV_ROUTE_NONE);
    jv_routes_free(r);
}

static void test_arguments(void) {
    struct jv_routes *r = jv_routes_new(2);
    struct jv_prefix bad[] = {v4(0, 33), v6(0, 0, 129), v4(0, 0), v4(0, 0)}, full = v4(3, 32);
    uint32_t previous;

    bad[2].family = 0;
    bad[3].family = 10;
    for (size_t i = 0; i < JV_ARRAY_LEN(bad); i++) {
        CHECK(jv_routes_insert(r, &bad[i], 1, &previous) == -EINVAL);
        CHECK(jv_routes_remove(r, &bad[i], 1) == -EINVAL);
    }
    full.len = 32;
    CHECK(jv_routes_insert(r, &full, JV_ROUTE_SLOT_MAX + 1, &previous) == -EINVAL);
    insert(r, v4(1, 32), JV_ROUTE_SLOT_MAX);
    insert(r, v6(1, 1, 128), 1);
    CHECK(jv_routes_insert(r, &full, 1, &previous) == -ENOSPC);
    CHECK(insert(r, v4(1, 32), 9) == JV_ROUTE_SLOT_MAX); /* moving one needs no room */
    CHECK(look4(r, 3) == JV_ROUTE_NONE && look4(r, 1) == 9);
    jv_routes_free(r);
}

/* Of hosts (len 32) and of trie nodes (shorter), taken out one by one or all at once. */
static void fill_and_empty(struct jv_routes *r, uint8_t len, bool one_by_one, uint32_t first) {
    for (uint32_t i = 0; i < 1000; i++)
        CHECK(insert(r, v4(first + i * 2654435761u, len), i % 10) == JV_ROUTE_NONE);
    CHECK(jv_routes_count(r) == 1000);
    for (uint32_t i = 0; one_by_one && i < 1000; i++) {
        struct jv_prefix p = v4(first + i * 2654435761u, len);

        CHECK(jv_routes_remove(r, &p, i % 10) == 0);
    }
    for (uint32_t owner = 0; !one_by_one && owner < 10; owner++)
        CHECK(jv_routes_remove_all(r, owner) == 100);
    CHECK(jv_routes_count(r) == 0);
}

static void test_memory_is_used_again(void) {
    struct jv_routes *r = jv_routes_new(1000);
    size_t bytes = 0;

    for (unsigned round = 0; round < 40; round++) {
        fill_and_empty(r, round & 1 ? 32 : 30, round & 2, round * 19088743u);
        if (round == 3)
            bytes = jv_routes_bytes(r);
    }
    CHECK(jv_routes_bytes(r) == bytes && bytes <= 4096 * 32 + 2048 * 24);
    jv_routes_free(r);
}

/* --- model --- */

#define MODEL_MAX 400

struct row {
    struct jv_prefix prefix;
    uint32_t slot;
};

static struct row model[MODEL_MAX];
static size_t model_count;

static bool same_bits(const uint8_t *a, const uint8_t *b, unsigned bits) {
    if (memcmp(a, b, bits / 8) != 0)
        return false;
    return bits % 8 == 0 || ((a[bits / 8] ^ b[bits / 8]) & (0xff00u >> bits % 8 & 0xff)) == 0;
}

static struct row *model_find(const struct jv_prefix *p) {
    for (size_t i = 0; i < model_count; i++)
        if (model[i].prefix.family == p->family && model[i].prefix.len == p->len &&
            same_bits(model[i].prefix.addr, p->addr, p->len))
            return &model[i];
    return NULL;
}

static uint32_t model_lookup(uint8_t family, const uint8_t *address) {
    const struct row *best = NULL;

    for (size_t i = 0; i < model_count; i++)
        if (model[i].prefix.family == family &&
            same_bits(model[i].prefix.addr, address, model[i].prefix.len) &&
            (!best || model[i].prefix.len > best->prefix.len))
            best = &model[i];
    return best ? best->slot : JV_ROUTE_NONE;
}

/* Few distinct bits, so that prefixes nest and collide. */
static struct jv_prefix random_prefix(uint64_t *seed) {
    struct jv_prefix p = {.family = next_random(seed) % 2 ? 4 : 6};

    for (int i = 0; i < 16; i++)
        p.addr[i] = (uint8_t)(next_random(seed) & 0x81);
    p.len = (uint8_t)(next_random(seed) % (p.family == 4 ? 33 : 129));
    return p;
}

static void model_insert(struct jv_routes *r, const struct jv_prefix *p, uint32_t slot) {
    struct row *row = model_find(p);
    uint32_t expect = row ? row->slot : JV_ROUTE_NONE;

    if (!row && model_count == MODEL_MAX)
        return;
    CHECK(insert(r, *p, slot) == expect);
    if (!row)
        row = &model[model_count++];
    *row = (struct row){*p, slot};
}

static void model_remove(struct jv_routes *r, const struct jv_prefix *p, uint32_t slot) {
    struct row *row = model_find(p);
    bool owned = row && row->slot == slot;

    CHECK(jv_routes_remove(r, p, slot) == (owned ? 0 : -ENOENT));
    if (owned)
        *row = model[--model_count];
}

static void model_remove_all(struct jv_routes *r, uint32_t slot) {
    uint32_t dropped = 0;

    for (size_t i = 0; i < model_count;) {
        if (model[i].slot == slot) {
            model[i] = model[--model_count];
            dropped++;
        } else {
            i++;
        }
    }
    CHECK(jv_routes_remove_all(r, slot) == dropped);
}

static int count_visit(void *ctx, const struct jv_prefix *prefix, uint32_t slot) {
    const struct row *row = model_find(prefix);

    CHECK(row && row->slot == slot);
    ++*(size_t *)ctx;
    return 0;
}

static int stop_visit(void *ctx, const struct jv_prefix *prefix, uint32_t slot) {
    (void)ctx;
    (void)prefix;
    (void)slot;
    return 42;
}

static void compare(struct jv_routes *r, uint64_t *seed) {
    size_t visited = 0;

    for (int i = 0; i < 50; i++) {
        struct jv_prefix at = random_prefix(seed);

        CHECK((at.family == 4 ? jv_route_lookup4 : jv_route_lookup6)(r, at.addr) ==
              model_lookup(at.family, at.addr));
    }
    CHECK(jv_routes_count(r) == model_count);
    CHECK(jv_routes_walk(r, count_visit, &visited) == 0 && visited == model_count);
    CHECK(jv_routes_walk(r, stop_visit, NULL) == (model_count ? 42 : 0));
}

static void test_against_model(void) {
    struct jv_routes *r = jv_routes_new(MODEL_MAX);
    uint64_t seed = 11;

    model_count = 0;
    for (int i = 0; i < 20000; i++) {
        struct jv_prefix p = random_prefix(&seed);
        uint32_t slot = (uint32_t)next_random(&seed) % 5;
        unsigned what = (unsigned)(next_random(&seed) % 200);

        if (what == 0)
            model_remove_all(r, slot);
        else if (what < 110)
            model_insert(r, &p, slot);
        else if (what < 150 || model_count == 0)
            model_remove(r, &p, slot);
        else
            model_remove(r, &model[what % model_count].prefix, slot);
        if (i % 20 == 0)
            compare(r, &seed);
    }
    jv_routes_free(r);
}

/* The deepest possible trie: every length of one address. */
static void test_full_depth(void) {
    struct jv_routes *r = jv_routes_new(200);
    uint8_t address[16];
    size_t visited = 0;

    memset(address, 0xff, sizeof(address));
    model_count = 0;
    for (unsigned len = 0; len <= 128; len++) {
        struct jv_prefix p = v6(UINT64_MAX, UINT64_MAX, (uint8_t)len);

        model_insert(r, &p, len);
        CHECK(jv_route_lookup6(r, address) == len);
    }
    CHECK(jv_routes_walk(r, count_visit, &visited) == 0 && visited == 129);
    for (unsigned len = 129; len-- > 0;) {
        CHECK(jv_route_lookup6(r, address) == len);
        CHECK(jv_routes_remove_all(r, len) == 1);
    }
    CHECK(jv_route_lookup6(r, address) == JV_ROUTE_NONE);
    jv_routes_free(r);
}

int main(void) {
    RUN(test_empty);
    RUN(test_longest_wins);
    RUN(test_families_are_apart);
    RUN(test_last_insert_owns);
    RUN(test_arguments);
    RUN(test_memory_is_used_again);
    RUN(test_against_model);
    RUN(test_full_depth);
    return failures();
}
