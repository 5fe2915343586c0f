/* SPDX-License-Identifier: Apache-2.0 */
/* Packets that wait for a key: one fixed pool for all sessions, bounded per session, the oldest gives way. */
#include "engine_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int jv_stage_init(struct jv_stage *st, uint32_t packet_bytes) {
    jv_stage_free(st);
    st->packet_bytes = packet_bytes;
    /* Untouched until a handshake is slow, so the pool costs address space only. */
    void *arena = mmap(NULL, (size_t)JV_STAGE_PACKETS * packet_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return -errno;
    st->arena = arena;
    for (uint16_t i = 0; i < JV_STAGE_PACKETS; i++)
        st->next[i] = i + 1u < JV_STAGE_PACKETS ? (uint16_t)(i + 1) : JV_STAGE_NONE;
    st->free_head = 0;
    return 0;
}

void jv_stage_free(struct jv_stage *st) {
    if (st->arena)
        munmap(st->arena, (size_t)JV_STAGE_PACKETS * st->packet_bytes);
    st->arena = NULL;
    st->free_head = JV_STAGE_NONE;
}

static uint16_t pop_oldest(struct jv_stage *st, struct jv_session *s) {
    const uint16_t i = s->stage_head;
    s->stage_head = st->next[i];
    if (s->stage_head == JV_STAGE_NONE)
        s->stage_tail = JV_STAGE_NONE;
    s->stage_count--;
    return i;
}

static void release(struct jv_stage *st, uint16_t i) {
    st->next[i] = st->free_head;
    st->free_head = i;
}

static uint16_t acquire(struct jv_stage *st, struct jv_session *s, struct jv_counters *ctr) {
    if (s->stage_count >= JV_STAGE_PER_SESSION) {
        jv_count(ctr, JV_CTR_DROP_STAGING_FULL);
        return pop_oldest(st, s);
    }
    const uint16_t i = st->free_head;
    if (i != JV_STAGE_NONE)
        st->free_head = st->next[i];
    return i;
}

void jv_stage_put(struct jv_stage *st, struct jv_session *s, const uint8_t *packet, uint32_t len,
                  struct jv_counters *ctr) {
    const uint16_t i = len <= st->packet_bytes ? acquire(st, s, ctr) : JV_STAGE_NONE;
    if (i == JV_STAGE_NONE) {
        jv_count(ctr, JV_CTR_DROP_STAGING_FULL);
        return;
    }
    memcpy(st->arena + (size_t)i * st->packet_bytes, packet, len);
    st->len[i] = len;
    st->next[i] = JV_STAGE_NONE;
    if (s->stage_tail == JV_STAGE_NONE)
        s->stage_head = i;
    else
        st->next[s->stage_tail] = i;
    s->stage_tail = i;
    s->stage_count++;
}

uint32_t jv_stage_take(struct jv_stage *st, struct jv_session *s, uint8_t *packet) {
    if (s->stage_head == JV_STAGE_NONE)
        return 0;
    const uint16_t i = pop_oldest(st, s);
    memcpy(packet, st->arena + (size_t)i * st->packet_bytes, st->len[i]);
    release(st, i);
    return st->len[i];
}

void jv_stage_drop(struct jv_stage *st, struct jv_session *s, struct jv_counters *ctr) {
    while (s->stage_head != JV_STAGE_NONE) {
        release(st, pop_oldest(st, s));
        jv_count(ctr, JV_CTR_DROP_NO_KEY);
    }
}
