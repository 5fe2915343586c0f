/* SPDX-License-Identifier: Apache-2.0 */
/* Invariant: after any changes a lookup answers as a search through all prefixes would, and removing every
 * owner leaves an empty table. */
#include "jv/route.h"

#include "fuzz.h"

#define ROWS 64

struct rows {
    struct jv_prefix prefix[ROWS];
    uint32_t slot[ROWS];
    size_t n;
};

static bool covers(const struct jv_prefix *p, const uint8_t *address) {
    for (unsigned bit = 0; bit < p->len; bit++)
        if ((p->addr[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1)
            return false;
    return true;
}

static size_t find(const struct rows *rows, const struct jv_prefix *p) {
    size_t i = 0;

    while (i < rows->n && !(rows->prefix[i].family == p->family && rows->prefix[i].len == p->len &&
                            covers(p, rows->prefix[i].addr)))
        i++;
    return i;
}

static uint32_t search(const struct rows *rows, const struct jv_prefix *at) {
    uint32_t found = JV_ROUTE_NONE;
    int longest = -1;

    for (size_t i = 0; i < rows->n; i++)
        if (rows->prefix[i].family == at->family && rows->prefix[i].len > longest &&
            covers(&rows->prefix[i], at->addr)) {
            longest = rows->prefix[i].len;
            found = rows->slot[i];
        }
    return found;
}

static struct jv_prefix take_prefix(struct tape *tape, uint8_t what) {
    struct jv_prefix p = {.family = what & 1 ? 4 : 6};

    p.len = (uint8_t)(take8(tape) % (p.family == 4 ? 33 : 129));
    p.addr[0] = take8(tape);
    p.addr[p.len / 8 % 16] ^= take8(tape);
    return p;
}

static void insert(struct jv_routes *r, struct rows *rows, const struct jv_prefix *p, uint32_t slot) {
    size_t at = find(rows, p);
    uint32_t previous;
    int rc = jv_routes_insert(r, p, slot, &previous);

    if (at == ROWS) {
        MUST(rc != 0);
        return;
    }
    MUST(rc == 0 && previous == (at < rows->n ? rows->slot[at] : JV_ROUTE_NONE));
    rows->prefix[at] = *p;
    rows->slot[at] = slot;
    rows->n += at == rows->n;
}

static void remove_one(struct jv_routes *r, struct rows *rows, const struct jv_prefix *p, uint32_t slot) {
    size_t at = find(rows, p);
    bool owned = at < rows->n && rows->slot[at] == slot;

    MUST((jv_routes_remove(r, p, slot) == 0) == owned);
    if (!owned)
        return;
    rows->n--;
    rows->prefix[at] = rows->prefix[rows->n];
    rows->slot[at] = rows->slot[rows->n];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape tape = {data, size};
    struct jv_routes *r = jv_routes_new(ROWS);
    struct rows rows = {.n = 0};
    uint32_t dropped = 0;

    MUST(r != NULL);
    while (tape.left > 0) {
        uint8_t what = take8(&tape);
        struct jv_prefix p = take_prefix(&tape, what);
        uint32_t slot = what >> 6;

        if (what & 2)
            insert(r, &rows, &p, slot);
        else
            remove_one(r, &rows, &p, slot);
        MUST((p.family == 4 ? jv_route_lookup4 : jv_route_lookup6)(r, p.addr) == search(&rows, &p));
        MUST(jv_routes_count(r) == rows.n);
    }
    for (uint32_t slot = 0; slot < 4; slot++)
        dropped += jv_routes_remove_all(r, slot);
    MUST(dropped == rows.n && jv_routes_count(r) == 0);
    jv_routes_free(r);
    return 0;
}
