/* SPDX-License-Identifier: Apache-2.0 */
/* Rotation and the table: which keypair seals and opens after each step, and that a stale index finds
 * nothing. */
#include "jv/session.h"

#include <stdlib.h>

#include "check.h"

static const uint8_t seed[JV_INDEX_SEED_BYTES] = {1, 2, 3};
static const uint8_t secret[32] = {42};

static struct jv_table *new_table(uint32_t capacity) {
    CHECK(jv_aead_init() == 0);
    struct jv_table *t = jv_table_new(capacity, JV_REPLAY_BITS_SMALL, seed);
    CHECK(t != NULL);
    return t;
}

static uint32_t install(struct jv_table *t, struct jv_session *s, bool initiator, uint64_t now_ns) {
    struct jv_keys keys = {.send = secret,
                           .recv = secret,
                           .local_index = jv_session_new_index(t, s),
                           .remote_index = 7,
                           .initiator = initiator};
    CHECK(jv_session_install(t, s, &keys, now_ns) == 0);
    return keys.local_index;
}

static void initiator_seals_at_once(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t first = install(t, s, true, 10), second = install(t, s, true, 20);
    CHECK(s->current->local_index == second && s->previous->local_index == first && !s->next);
    const uint32_t third = install(t, s, true, 30);
    CHECK(s->current->local_index == third && s->previous->local_index == second);
    CHECK(jv_session_keypair(s, first) == NULL);
    CHECK(s->latest_handshake_ns == 30);
    jv_table_free(t);
}

static void responder_waits_for_proof(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t first = install(t, s, false, 10);
    CHECK(!s->current && s->next->local_index == first && s->latest_handshake_ns == 0);
    jv_session_confirm(s, 15);
    CHECK(s->current->local_index == first && !s->next && s->latest_handshake_ns == 15);
    const uint32_t second = install(t, s, false, 20);
    CHECK(s->current->local_index == first && s->next->local_index == second && !s->previous);
    jv_session_confirm(s, 25);
    CHECK(s->current->local_index == second && s->previous->local_index == first);
    jv_table_free(t);
}

static void hear(struct jv_session *s, uint32_t index, uint64_t now_ns) {
    struct jv_keypair *kp = jv_session_keypair(s, index);
    CHECK(kp != NULL);
    if (kp == s->next)
        jv_session_confirm(s, now_ns);
    if (kp)
        kp->heard_ns = now_ns;
}

static void crossing_handshakes_keep_what_the_peer_may_seal_with(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t oldest = install(t, s, true, 5), old = install(t, s, true, 10);
    hear(s, oldest, 11);
    const uint32_t theirs = install(t, s, false, 20), ours = install(t, s, true, 21);
    CHECK(s->current->local_index == ours && s->previous->local_index == theirs && !s->next);
    CHECK(s->older->local_index == old && jv_session_keypair(s, old) == s->older);
    CHECK(jv_session_keypair(s, oldest) == NULL);
    jv_table_free(t);
}

/* Each end seals under its own; the next handshake, of either side, leaves what the other seals with. */
static void rings_that_diverged_survive_the_next_rekey(void) {
    for (int initiator = 0; initiator <= 1; initiator++) {
        struct jv_table *t = new_table(4);
        struct jv_session *s = jv_table_add(t);
        const uint32_t theirs = install(t, s, false, 20), ours = install(t, s, true, 21);
        hear(s, theirs, 22);
        const uint32_t third = install(t, s, initiator, 30);
        hear(s, third, 31);
        CHECK(s->current->local_index == third && s->previous->local_index == ours);
        CHECK(s->older && s->older->local_index == theirs);
        const uint32_t fourth = install(t, s, true, 40);
        CHECK(s->current->local_index == fourth && s->previous->local_index == third && !s->older);
        jv_table_free(t);
    }
}

static void diverged_rings_survive_another_crossing(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t theirs = install(t, s, false, 20);
    (void)install(t, s, true, 21);
    hear(s, theirs, 22);
    const uint32_t next = install(t, s, false, 30), ours = install(t, s, true, 31);
    CHECK(s->current->local_index == ours && s->previous->local_index == next);
    CHECK(s->older->local_index == theirs);
    jv_table_free(t);
}

/* The first message of a held keypair has come, its HELLO has not, and the peer begins again. */
static void a_proven_next_is_not_lost_to_a_newer_one(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    (void)install(t, s, true, 10);
    (void)install(t, s, false, 20);
    const uint32_t proven = install(t, s, false, 25);
    CHECK(!s->older); /* nothing ever came under the one before it */
    s->next->heard_ns = 26;
    const uint32_t newest = install(t, s, false, 30);
    CHECK(s->next->local_index == newest && s->older->local_index == proven);
    jv_table_free(t);
}

static void an_older_keypair_goes_with_the_others(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t old = install(t, s, true, 10);
    (void)install(t, s, false, 20);
    (void)install(t, s, true, 21);
    CHECK(s->older->local_index == old);
    jv_session_keep_only(s, old);
    CHECK(s->older && !s->current && !s->previous && !s->next);
    jv_session_erase(s);
    CHECK(!s->older && jv_session_keypair(s, old) == NULL);
    jv_table_free(t);
}

static void an_index_is_good_for_one_keypair(void) {
    struct jv_table *t = new_table(4);
    struct jv_session *s = jv_table_add(t);
    const uint32_t index = install(t, s, true, 10);
    CHECK(jv_table_by_index(t, index) == s && jv_session_keypair(s, index) == s->current);
    const uint32_t slot = s->slot;
    jv_table_remove(t, s);
    CHECK(jv_table_by_index(t, index) == NULL && jv_table_get(t, slot) == NULL);
    struct jv_session *again = jv_table_add(t);
    CHECK(again->slot == slot && jv_table_by_index(t, index) == again);
    CHECK(jv_session_keypair(again, index) == NULL);
    CHECK(install(t, again, true, 20) != index);
    jv_table_free(t);
}

static void the_table_is_bounded(void) {
    struct jv_table *t = new_table(3);
    struct jv_session *rows[3];
    for (int i = 0; i < 3; i++)
        CHECK((rows[i] = jv_table_add(t)) != NULL);
    CHECK(jv_table_add(t) == NULL && jv_table_count(t) == 3);
    jv_table_remove(t, rows[1]);
    CHECK(jv_table_add(t) == rows[1] && jv_table_add(t) == NULL);
    jv_table_free(t);
    CHECK(jv_table_new(0, JV_REPLAY_BITS_SMALL, seed) == NULL);
    CHECK(jv_table_new(JV_INDEX_SLOTS + 1, JV_REPLAY_BITS_SMALL, seed) == NULL);
}

static uint64_t window(const struct jv_keypair *kp) {
    return jv_replay_size(&kp->window) + 64;
}

/* Nothing is allocated where a window grows: without a bitmap that was made ready it stays small. */
static void a_window_grows_into_what_is_kept_ready(void) {
    CHECK(jv_aead_init() == 0);
    struct jv_table *t = jv_table_new(2, JV_REPLAY_BITS_DEFAULT, seed);
    struct jv_session *s = jv_table_add(t);
    (void)install(t, s, true, 10);
    CHECK(jv_replay_commit(&s->current->window, 5) == JV_REPLAY_OK);
    jv_table_grow_window(t, s->current);
    CHECK(window(s->current) == JV_REPLAY_BITS_FIRST);
    jv_table_stock_windows(t);
    jv_table_grow_window(t, s->current);
    CHECK(window(s->current) == JV_REPLAY_BITS_DEFAULT);
    CHECK(jv_replay_commit(&s->current->window, 5) == JV_REPLAY_SEEN);
    CHECK(jv_replay_commit(&s->current->window, 8000) == JV_REPLAY_OK);
    CHECK(jv_replay_commit(&s->current->window, 4) == JV_REPLAY_OK);
    jv_table_grow_window(t, s->current);
    CHECK(jv_keypair_widen(s->current) && !jv_keypair_widen(s->current));
    CHECK(jv_replay_commit(&s->current->window, 4) == JV_REPLAY_SEEN);
    for (unsigned i = 0; i < JV_SPARE_WINDOWS + 1; i++) {
        (void)install(t, s, true, 20 + i);
        jv_table_grow_window(t, s->current);
        CHECK(window(s->current) ==
              (i < JV_SPARE_WINDOWS - 1 ? JV_REPLAY_BITS_DEFAULT : JV_REPLAY_BITS_FIRST));
    }
    jv_table_free(t);
}

static void what_opens_no_more_is_wiped(void) {
    struct jv_table *t = new_table(2);
    struct jv_session *s = jv_table_add(t);
    const uint32_t first = install(t, s, true, 1000), second = install(t, s, true, 1120);
    jv_session_expire(s, 1179, 180);
    CHECK(jv_session_keypair(s, first) && jv_session_keypair(s, second));
    jv_session_expire(s, 1180, 180);
    CHECK(!jv_session_keypair(s, first) && jv_session_keypair(s, second));
    jv_session_expire(s, 2000, 180); /* the one that seals is clock.c's to erase */
    CHECK(jv_session_keypair(s, second));
    jv_table_free(t);
}

int main(void) {
    RUN(a_window_grows_into_what_is_kept_ready);
    RUN(what_opens_no_more_is_wiped);
    RUN(initiator_seals_at_once);
    RUN(responder_waits_for_proof);
    RUN(crossing_handshakes_keep_what_the_peer_may_seal_with);
    RUN(rings_that_diverged_survive_the_next_rekey);
    RUN(diverged_rings_survive_another_crossing);
    RUN(a_proven_next_is_not_lost_to_a_newer_one);
    RUN(an_older_keypair_goes_with_the_others);
    RUN(an_index_is_good_for_one_keypair);
    RUN(the_table_is_bounded);
    return failures();
}
