/* SPDX-License-Identifier: Apache-2.0 */
/* The table of sessions, and the only place where keypairs rotate (whitepaper §6.3, kernel noise.c). */
#include "jv/session.h"

#include "jv/path.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct jv_table {
    struct jv_session *rows;
    uint32_t capacity;
    uint32_t touched;   /* rows below have been used at least once */
    uint32_t free_head; /* recycled slots, linked through stage_head of unused rows */
    uint32_t used;
    uint32_t window_bits;
    uint32_t spares; /* of `spare` */
    uint64_t *spare; /* whole bitmaps, linked through their first word */
    struct jv_index_key key;
};

static uint32_t first_bits(const struct jv_table *t) {
    return t->window_bits <= JV_REPLAY_BITS_SMALL ? t->window_bits : JV_REPLAY_BITS_FIRST;
}

struct jv_table *jv_table_new(uint32_t capacity, uint32_t window_bits,
                              const uint8_t seed[JV_INDEX_SEED_BYTES]) {
    struct jv_table *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    if (capacity == 0 || capacity > JV_INDEX_SLOTS) {
        errno = EINVAL;
        goto fail;
    }
    /* Anonymous memory costs nothing until a row is touched, so the bound may be generous. */
    t->rows = mmap(NULL, (size_t)capacity * sizeof *t->rows, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->rows == MAP_FAILED)
        goto fail;
    (void)madvise(t->rows, (size_t)capacity * sizeof *t->rows, MADV_HUGEPAGE); /* advice, see route.c */
    t->capacity = capacity;
    t->window_bits = window_bits;
    t->free_head = JV_SESSION_NONE;
    jv_index_key_init(&t->key, seed);
    return t;
fail:
    free(t);
    return NULL;
}

static void control_free(struct jv_control *control) {
    if (!control)
        return;
    sodium_memzero(control, sizeof *control);
    free(control);
}

static void data_free(struct jv_data_keys **data) {
    if (!*data)
        return;
    jv_hot_leave(&(*data)->send);
    jv_hot_leave(&(*data)->recv);
    sodium_memzero(*data, sizeof **data);
    free(*data);
    *data = NULL;
}

/* All but one suite's; 0: all. */
static void data_keep(struct jv_keypair *kp, unsigned suite) {
    for (unsigned other = JV_SUITE_AES256GCM; other < JV_SUITE_END; other++)
        if (other != suite)
            data_free(&kp->data[other - JV_SUITE_AES256GCM]);
}

static void keypair_free(struct jv_keypair **kp) {
    if (!*kp)
        return;
    control_free((*kp)->control);
    data_keep(*kp, 0);
    free((*kp)->grown);
    sodium_memzero(*kp, sizeof **kp); /* its bitmaps hold nothing secret */
    free(*kp);
    *kp = NULL;
}

/* --- windows that grow
 * --------------------------------------------------------------------------------------------------- */

static uint64_t *take_spare(struct jv_table *t) {
    uint64_t *const spare = t->spare;
    if (spare) {
        memcpy(&t->spare, spare, sizeof t->spare);
        t->spares--;
    }
    return spare;
}

void jv_table_stock_windows(struct jv_table *t) {
    if (first_bits(t) == t->window_bits)
        return;
    while (t->spares < JV_SPARE_WINDOWS) {
        uint64_t *const spare = malloc(jv_replay_bytes(t->window_bits));
        if (!spare)
            return;
        memcpy(spare, &t->spare, sizeof t->spare);
        t->spare = spare;
        t->spares++;
    }
}

void jv_table_grow_window(struct jv_table *t, struct jv_keypair *kp) {
    if (kp->grown || first_bits(t) == t->window_bits)
        return;
    uint64_t *const words = take_spare(t);
    if (words && jv_replay_grow(&kp->window, words, t->window_bits) == 0)
        kp->grown = words;
}

/* --- the table
 * --------------------------------------------------------------------------------------------------- */

void jv_table_free(struct jv_table *t) {
    if (!t)
        return;
    for (uint32_t slot = 0; slot < t->touched; slot++) {
        jv_session_erase(&t->rows[slot]);
        jv_paths_free(t->rows[slot].paths);
    }
    for (uint64_t *spare; (spare = take_spare(t));)
        free(spare);
    munmap(t->rows, (size_t)t->capacity * sizeof *t->rows);
    sodium_memzero(t, sizeof *t);
    free(t);
}

struct jv_session *jv_table_add(struct jv_table *t) {
    uint32_t slot = t->free_head;
    if (slot != JV_SESSION_NONE)
        t->free_head = t->rows[slot].next_free;
    else if (t->touched < t->capacity)
        slot = t->touched++;
    else
        return NULL;
    struct jv_session *s = &t->rows[slot];
    const uint16_t generation =
        s->generation; /* goes on, so that indices of the slot's last owner stay stale */
    memset(s, 0, sizeof *s);
    s->slot = slot;
    s->generation = generation;
    s->used = true;
    s->stage_head = s->stage_tail = JV_STAGE_NONE;
    t->used++;
    return s;
}

uint32_t jv_table_count(const struct jv_table *t) {
    return t->used;
}

void jv_table_remove(struct jv_table *t, struct jv_session *s) {
    jv_session_erase(s);
    jv_paths_free(s->paths);
    s->paths = NULL;
    s->used = false;
    s->next_free = t->free_head;
    t->free_head = s->slot;
    t->used--;
}

struct jv_session *jv_table_get(const struct jv_table *t, uint32_t slot) {
    return slot < t->touched && t->rows[slot].used ? &t->rows[slot] : NULL;
}

uint32_t jv_session_new_index(struct jv_table *t, struct jv_session *s) {
    s->generation = (uint16_t)((s->generation + 1) & (JV_INDEX_GENERATIONS - 1));
    return jv_index_encode(&t->key, s->slot, s->generation);
}

struct jv_session *jv_table_by_index(const struct jv_table *t, uint32_t index) {
    uint32_t slot, generation;
    jv_index_decode(&t->key, index, &slot, &generation);
    return jv_table_get(t, slot);
}

/* Its keypairs, which lie in the first line, and where it is counted. */
void jv_table_prefetch(const struct jv_table *t, uint32_t index) {
    uint32_t slot, generation;
    jv_index_decode(&t->key, index, &slot, &generation);
    if (slot >= t->touched)
        return;
    __builtin_prefetch(&t->rows[slot]);
    __builtin_prefetch(&t->rows[slot].endpoint);
    __builtin_prefetch(&t->rows[slot].rx_packets, 1);
}

/* What seals and opens mostly, which the row points to. */
void jv_table_prefetch_keys(const struct jv_table *t, uint32_t index) {
    const struct jv_session *s = jv_table_by_index(t, index);
    const struct jv_keypair *kp = s ? s->current : NULL;
    if (!kp)
        return;
    __builtin_prefetch(kp, 1);
    __builtin_prefetch(&kp->recv);
    __builtin_prefetch(&kp->window, 1);
    __builtin_prefetch(kp->data);
}

struct jv_keypair *jv_session_keypair(const struct jv_session *s, uint32_t index) {
    if (s->current && s->current->local_index == index)
        return s->current;
    if (s->next && s->next->local_index == index)
        return s->next;
    if (s->previous && s->previous->local_index == index)
        return s->previous;
    if (s->older && s->older->local_index == index)
        return s->older;
    return NULL;
}

static int suite0(struct jv_aead_key *key, const uint8_t *bytes) {
    return jv_aead_key_init(key, JV_SUITE_CHACHA20POLY1305, bytes, JV_AEAD_KEY_MAX);
}

static struct jv_control *control_new(const struct jv_keys *keys) {
    struct jv_control *control = calloc(1, sizeof *control);
    if (!control)
        return NULL;
    if (suite0(&control->send, keys->control_send) != 0 || suite0(&control->recv, keys->control_recv) != 0 ||
        jv_replay_init(&control->window, control->words, JV_REPLAY_BITS_CONTROL) != 0) {
        control_free(control);
        return NULL;
    }
    return control;
}

static bool offers(const struct jv_keys *keys, unsigned suite) {
    return keys->data_send[suite] && keys->data_recv[suite];
}

/* -1 when memory is short or a suite does not exist here; the caller frees what was made. */
static int data_fill(struct jv_keypair *kp, const struct jv_keys *keys) {
    for (unsigned suite = JV_SUITE_AES256GCM; suite < JV_SUITE_END; suite++) {
        if (!offers(keys, suite))
            continue;
        struct jv_data_keys *own = calloc(1, sizeof *own);
        kp->data[suite - JV_SUITE_AES256GCM] = own;
        if (!own || jv_aead_key_init(&own->send, suite, keys->data_send[suite], JV_AEAD_KEY_MAX) != 0 ||
            jv_aead_key_init(&own->recv, suite, keys->data_recv[suite], JV_AEAD_KEY_MAX) != 0)
            return -1;
    }
    return 0;
}

static int keypair_fill(struct jv_keypair *kp, const struct jv_table *t, const struct jv_keys *keys,
                        uint64_t now_ns) {
    kp->local_index = keys->local_index;
    kp->remote_index = keys->remote_index;
    kp->initiator = keys->initiator;
    kp->hold = keys->hold;
    kp->birth_ns = now_ns;
    if (keys->control_send && keys->control_recv && !(kp->control = control_new(keys)))
        return -1;
    if (jv_aead_key_init(&kp->send, JV_SUITE_CHACHA20POLY1305, keys->send, JV_AEAD_KEY_MAX) != 0 ||
        jv_aead_key_init(&kp->recv, JV_SUITE_CHACHA20POLY1305, keys->recv, JV_AEAD_KEY_MAX) != 0)
        return -1;
    return data_fill(kp, keys) != 0 ? -1 : jv_replay_init(&kp->window, kp->words, first_bits(t));
}

static struct jv_keypair *keypair_new(const struct jv_table *t, const struct jv_keys *keys, uint64_t now_ns) {
    struct jv_keypair *kp = calloc(1, sizeof *kp + jv_replay_bytes(first_bits(t)));
    if (kp && keypair_fill(kp, t, keys, now_ns) != 0)
        keypair_free(&kp);
    return kp;
}

void jv_keypair_expect(struct jv_keypair *kp) {
    for (unsigned suite = JV_SUITE_AES256GCM; !kp->seals && suite < JV_SUITE_END; suite++)
        if (jv_keypair_data(kp, suite))
            kp->opens |= (uint8_t)(1u << suite);
}

int jv_keypair_choose(struct jv_keypair *kp, unsigned suite) {
    const bool own = suite > JV_SUITE_CHACHA20POLY1305;
    if (suite >= JV_SUITE_END || (own && !jv_keypair_data(kp, suite)) || (!own && kp->seals))
        return -ENOENT;
    data_keep(kp, suite);
    if (!own) {
        kp->opens = 0;
        return 0;
    }
    kp->opens = (uint8_t)(1u << suite);
    kp->seals = (uint8_t)suite;
    return 0;
}

bool jv_keypair_widen(struct jv_keypair *kp) {
    if (jv_replay_size(&kp->window) >= JV_REPLAY_BITS_LARGE - 64)
        return false;
    uint64_t *words = malloc(jv_replay_bytes(JV_REPLAY_BITS_LARGE));
    if (!words || jv_replay_grow(&kp->window, words, JV_REPLAY_BITS_LARGE) != 0) {
        free(words);
        return false;
    }
    free(kp->grown);
    kp->grown = words;
    return true;
}

static uint64_t heard_ns(const struct jv_keypair *kp) {
    return kp ? kp->heard_ns : 0;
}

/* A keypair without a place any more. It stays open as `older` if it comes of a handshake that crossed and
 * the peer was heard under it later than under the one that stays: that is what the peer seals with. */
static void retire(struct jv_session *s, struct jv_keypair *kp, const struct jv_keypair *stays) {
    if (!kp || !kp->crossed || heard_ns(kp) <= heard_ns(stays)) {
        keypair_free(&kp);
        return;
    }
    keypair_free(&s->older);
    s->older = kp;
}

/* `fresh` seals from now on, what sealed before falls back. With a `next` that is not the fresh one both
 * sides have begun at once: the peer may already seal with that one, and goes on with what it had until then.
 */
static void take_over(struct jv_session *s, struct jv_keypair *fresh) {
    struct jv_keypair *const crossed = s->next != fresh ? s->next : NULL;
    struct jv_keypair *const previous = s->previous, *const last = s->current;
    struct jv_keypair *older = s->older;
    s->current = fresh;
    s->previous = crossed ? crossed : last;
    s->older = crossed ? last : NULL;
    s->next = NULL;
    keypair_free(&older); /* two rotations ago: the peer has long moved on */
    retire(s, previous, last);
    if (crossed)
        crossed->crossed = true;
}

/* The responder waits for proof that the initiator has the keys; until then current goes on sealing, and
 * whatever the peer seals with is still opened. A held one that was proven is in use as well. */
static void rotate_responder(struct jv_session *s, struct jv_keypair *fresh) {
    struct jv_keypair *const before = s->next;
    s->next = fresh;
    if (before)
        before->crossed = true;
    retire(s, before, s->current);
}

int jv_session_install(struct jv_table *t, struct jv_session *s, const struct jv_keys *keys,
                       uint64_t now_ns) {
    struct jv_keypair *fresh = keypair_new(t, keys, now_ns);
    if (!fresh)
        return -ENOMEM;
    if (keys->initiator) {
        take_over(s, fresh); /* the initiator may send at once */
        s->latest_handshake_ns = now_ns;
    } else {
        rotate_responder(s, fresh);
    }
    s->wanted = false;
    return 0;
}

void jv_session_confirm(struct jv_session *s, uint64_t now_ns) {
    take_over(s, s->next);
    s->latest_handshake_ns = now_ns;
    s->wanted = false;
}

void jv_session_erase(struct jv_session *s) {
    keypair_free(&s->current);
    keypair_free(&s->next);
    keypair_free(&s->previous);
    keypair_free(&s->older);
}

static void wipe_older(struct jv_keypair **kp, uint64_t now_ns, uint64_t age_ns) {
    if (*kp && now_ns - (*kp)->birth_ns >= age_ns)
        keypair_free(kp);
}

void jv_session_expire(struct jv_session *s, uint64_t now_ns, uint64_t reject_after_ns) {
    wipe_older(&s->previous, now_ns, reject_after_ns);
    wipe_older(&s->older, now_ns, reject_after_ns);
}

static void wipe_unless(struct jv_keypair **kp, uint32_t index) {
    if (*kp && (*kp)->local_index != index)
        keypair_free(kp);
}

void jv_session_keep_only(struct jv_session *s, uint32_t index) {
    wipe_unless(&s->current, index);
    wipe_unless(&s->next, index);
    wipe_unless(&s->previous, index);
    wipe_unless(&s->older, index);
    if (!s->current && s->next && s->next->confirmed) {
        s->current = s->next;
        s->next = NULL;
    }
}
