/* SPDX-License-Identifier: Apache-2.0 */
/* The anti-replay window of RFC 6479. Only a counter whose packet authenticated may be committed.
 * Moving the window clears whole words and never shifts bits; one word is lost to that, so a bitmap of n bits
 * remembers n - 64 counters below the highest. One writer at a time: the caller locks if it has several. */
#ifndef JV_REPLAY_H
#define JV_REPLAY_H

#include "jv/common.h"

#define JV_REPLAY_BITS_CONTROL 1024  /* control frames: few and slow */
#define JV_REPLAY_BITS_FIRST   1024  /* what a keypair of a larger window begins with */
#define JV_REPLAY_BITS_SMALL   2048  /* up to here a window begins as large as it gets */
#define JV_REPLAY_BITS_DEFAULT 8192  /* as WireGuard; 93 ms at 1 Gb/s */
#define JV_REPLAY_BITS_LARGE   65536 /* several paths of different delay at speed */

enum jv_replay_verdict {
    JV_REPLAY_OK = 0,
    JV_REPLAY_SEEN, /* inside the window, counted before */
    JV_REPLAY_OLD,  /* below the window: whether it was seen is no longer known */
};

struct jv_replay {
    uint64_t highest;   /* greatest committed counter; 0 at first, with its bit still clear */
    uint64_t *words;    /* the caller's memory, word_mask + 1 words */
    uint32_t word_mask; /* words - 1; a power of two minus one */
};

/* Bytes of bitmap for a window of `bits`. */
static inline size_t jv_replay_bytes(uint32_t bits) {
    return bits / 8;
}

/* bits: a power of two, 128 to 2^20; words: jv_replay_bytes(bits) of memory, cleared here, the caller's to
 * free after the window's last use. 0 or -EINVAL. */
JV_API int jv_replay_init(struct jv_replay *w, uint64_t *words, uint32_t bits) JV_NONNULL JV_WARN_UNUSED;

/* Moves the window into a larger bitmap without forgetting a counter: what had left the old window stays
 * refused (as seen). The old words are the caller's again. 0, or -EINVAL (not larger, not a power of two). */
JV_API int jv_replay_grow(struct jv_replay *w, uint64_t *words, uint32_t bits) JV_NONNULL JV_WARN_UNUSED;

static inline uint64_t jv_replay_highest(const struct jv_replay *w) {
    return w->highest;
}

/* Counters below the highest that are still told apart. */
static inline uint64_t jv_replay_size(const struct jv_replay *w) {
    return (uint64_t)w->word_mask * 64;
}

/* The verdict on a counter, without changing anything: what commit would say now. */
static inline enum jv_replay_verdict jv_replay_peek(const struct jv_replay *w, uint64_t counter) {
    if (jv_likely(counter > w->highest))
        return JV_REPLAY_OK;
    if (w->highest - counter >= jv_replay_size(w))
        return JV_REPLAY_OLD;
    return w->words[(counter >> 6) & w->word_mask] >> (counter & 63) & 1 ? JV_REPLAY_SEEN : JV_REPLAY_OK;
}

/* Clears the words between the old highest and the new one; RFC 6479 §4.2 step 3. */
static inline void jv_replay_advance(struct jv_replay *w, uint64_t counter) {
    uint64_t from = w->highest >> 6, gap = (counter >> 6) - from;

    if (gap > (uint64_t)w->word_mask + 1)
        gap = (uint64_t)w->word_mask + 1;
    for (uint64_t i = 1; i <= gap; i++)
        w->words[(from + i) & w->word_mask] = 0;
    w->highest = counter;
}

/* Check and update in one step, for a packet that authenticated. */
static inline enum jv_replay_verdict jv_replay_commit(struct jv_replay *w, uint64_t counter) {
    enum jv_replay_verdict verdict = jv_replay_peek(w, counter);

    if (jv_unlikely(verdict != JV_REPLAY_OK))
        return verdict;
    if (jv_likely(counter > w->highest))
        jv_replay_advance(w, counter);
    w->words[(counter >> 6) & w->word_mask] |= UINT64_C(1) << (counter & 63);
    return JV_REPLAY_OK;
}

#endif
