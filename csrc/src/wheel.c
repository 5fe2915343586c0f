/* SPDX-License-Identifier: Apache-2.0 */
/* The place of a timer follows from the highest bit in which its tick differs from the wheel's: that 6-bit
 * digit is the level, the timer's own digit there the slot. Hence every timer of a level comes before every
 * timer of the next, the occupied slots of a level are ahead of the wheel's digit, and when the wheel enters
 * a slot of level n > 0 all its timers belong on lower levels. After Varghese and Lauck, scheme 7. */
#include "jv/wheel.h"

static uint64_t tick_of(uint64_t ns) {
    return ns >> JV_WHEEL_TICK_SHIFT;
}

/* Rounded up: a timer waits for the end of its tick and never fires early. */
static uint64_t deadline_tick(uint64_t ns) {
    return tick_of(ns) + ((ns & (JV_WHEEL_TICK_NS - 1)) != 0);
}

static unsigned digit(uint64_t tick, unsigned level) {
    return tick >> (level * JV_WHEEL_SLOT_BITS) & (JV_WHEEL_SLOTS - 1);
}

void jv_wheel_init(struct jv_wheel *w, uint64_t now_ns) {
    memset(w, 0, sizeof(*w));
    w->tick = tick_of(now_ns);
    for (size_t i = 0; i < JV_ARRAY_LEN(w->slots); i++)
        w->slots[i].next = w->slots[i].prev = &w->slots[i];
}

static struct jv_timer *slot_head(struct jv_wheel *w, unsigned level, unsigned slot) {
    return &w->slots[level * JV_WHEEL_SLOTS + slot];
}

static void place(struct jv_wheel *w, struct jv_timer *t) {
    uint64_t tick = deadline_tick(t->deadline_ns), differ;
    unsigned level, slot;
    struct jv_timer *head;

    if (tick < w->tick)
        tick = w->tick;
    differ = (tick ^ w->tick) | 1;
    level = (63 - (unsigned)__builtin_clzll(differ)) / JV_WHEEL_SLOT_BITS;
    slot = digit(tick, level);
    head = slot_head(w, level, slot);
    t->next = head;
    t->prev = head->prev;
    head->prev->next = t;
    head->prev = t;
    w->occupied[level] |= UINT64_C(1) << slot;
}

static void unlink_timer(struct jv_wheel *w, struct jv_timer *t) {
    t->prev->next = t->next;
    t->next->prev = t->prev;
    if (t->next == t->prev) { /* only the head is left: its position is the slot */
        size_t at = (size_t)(t->next - w->slots);

        w->occupied[at / JV_WHEEL_SLOTS] &= ~(UINT64_C(1) << at % JV_WHEEL_SLOTS);
    }
    t->next = t->prev = NULL;
}

void jv_wheel_arm(struct jv_wheel *w, struct jv_timer *t, uint64_t deadline_ns) {
    if (jv_timer_armed(t))
        unlink_timer(w, t);
    else
        w->armed++;
    t->deadline_ns = deadline_ns;
    place(w, t);
}

void jv_wheel_disarm(struct jv_wheel *w, struct jv_timer *t) {
    if (!jv_timer_armed(t))
        return;
    unlink_timer(w, t);
    w->armed--;
}

/* The first tick of the earliest occupied slot, which is the lowest slot of the lowest level that has any. */
static uint64_t next_event(const struct jv_wheel *w, unsigned *level) {
    if (w->draining) {
        *level = w->draining;
        return w->tick;
    }
    for (unsigned l = 0; l < JV_WHEEL_LEVELS; l++) {
        unsigned shift = l * JV_WHEEL_SLOT_BITS;
        uint64_t slot;

        if (!w->occupied[l])
            continue;
        *level = l;
        slot = (uint64_t)__builtin_ctzll(w->occupied[l]);
        return (w->tick >> shift >> JV_WHEEL_SLOT_BITS << JV_WHEEL_SLOT_BITS | slot) << shift;
    }
    return UINT64_MAX;
}

/* Moves the current slot of a level down; false when the budget ended first. */
static bool drain(struct jv_wheel *w, unsigned level, uint32_t *budget) {
    struct jv_timer *head = slot_head(w, level, digit(w->tick, level));

    w->draining = (uint8_t)level;
    for (; head->next != head; --*budget) {
        struct jv_timer *t = head->next;

        if (*budget == 0)
            return false;
        unlink_timer(w, t);
        place(w, t);
    }
    w->draining = 0;
    return true;
}

/* Fires the timers of the current tick; returns how many. */
static uint32_t fire_tick(struct jv_wheel *w, uint32_t *budget, jv_wheel_fire fire, void *ctx) {
    struct jv_timer *head = slot_head(w, 0, digit(w->tick, 0));
    uint32_t fired = 0;

    for (; head->next != head && *budget > 0; --*budget) {
        struct jv_timer *t = head->next;

        jv_wheel_disarm(w, t);
        fire(ctx, t);
        fired++;
    }
    return fired;
}

uint32_t jv_wheel_advance(struct jv_wheel *w, uint64_t now_ns, uint32_t max, jv_wheel_fire fire, void *ctx) {
    uint64_t now = tick_of(now_ns);
    uint32_t fired = 0, budget = max;

    while (budget > 0) {
        unsigned level = 0;
        uint64_t event = next_event(w, &level);

        if (event > now) {
            if (now > w->tick)
                w->tick = now;
            break;
        }
        w->tick = event;
        if (level == 0)
            fired += fire_tick(w, &budget, fire, ctx);
        else if (!drain(w, level, &budget))
            break;
    }
    return fired;
}

uint64_t jv_wheel_next_deadline(const struct jv_wheel *w) {
    unsigned level = 0;
    uint64_t event;

    if (w->armed == 0)
        return JV_WHEEL_NEVER;
    event = next_event(w, &level);
    return event > tick_of(UINT64_MAX) ? JV_WHEEL_NEVER : event << JV_WHEEL_TICK_SHIFT;
}
