/* SPDX-License-Identifier: Apache-2.0 */
/* Expanded AES-256-GCM keys of the sessions that carry data now. Bounded, so that a hundred thousand sessions
 * do not hold 1 KB each; a key without one is expanded for every packet. */
#ifndef JV_HOT_H
#define JV_HOT_H

#include "jv/aead.h"

#define JV_HOT_KEYS 64 /* 33 KB: the directions of 32 busy sessions, within the second-level cache */

struct jv_hot_slot {
    _Alignas(16) uint8_t schedule[JV_AEAD_SCHEDULE_BYTES];
    struct jv_aead_key *owner; /* NULL = free */
};

/* Zeroed before its first use, 16-byte aligned. */
struct jv_hot {
    struct jv_hot_slot slot[JV_HOT_KEYS];
    uint32_t next; /* gives way next, in turn */
};

/* A key that is used now; a no-op for one that is hot, or needs no schedule. */
static inline void jv_hot_touch(struct jv_hot *hot, struct jv_aead_key *key) {
    if (jv_likely(key->schedule || key->suite != JV_SUITE_AES256GCM))
        return;
    struct jv_hot_slot *slot = &hot->slot[hot->next];
    hot->next = (hot->next + 1) % JV_HOT_KEYS;
    if (slot->owner)
        (void)jv_aead_detach(slot->owner);
    slot->owner = key;
    jv_aead_attach(key, slot->schedule);
}

/* Before a key is freed: its schedule is wiped and its place is free. */
static inline void jv_hot_leave(struct jv_aead_key *key) {
    uint8_t *schedule = jv_aead_detach(key);
    if (schedule)
        jv_container_of(schedule, struct jv_hot_slot, schedule)->owner = NULL;
}

/* A key that a thread takes with it beyond the lock, wiped when it is done. */
struct jv_hot_copy {
    struct jv_aead_key key;
    _Alignas(16) uint8_t schedule[JV_AEAD_SCHEDULE_BYTES];
};

static inline void jv_hot_wipe(struct jv_hot_copy *copy) {
    jv_aead_key_wipe(&copy->key);
}

/* Zeroed or wiped before its first use. */
static inline void jv_hot_take(struct jv_hot *hot, struct jv_aead_key *key, struct jv_hot_copy *copy) {
    jv_hot_touch(hot, key);
    if (copy->key.schedule && !key->schedule)
        jv_hot_wipe(copy);
    copy->key = *key;
    if (!key->schedule)
        return;
    memcpy(copy->schedule, key->schedule, sizeof copy->schedule);
    copy->key.schedule = copy->schedule;
}

#endif
