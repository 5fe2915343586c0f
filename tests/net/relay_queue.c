/* SPDX-License-Identifier: Apache-2.0 */
/* Datagrams waiting for their time: a binary heap over fixed slots, ordered by (time, arrival). */
#include "relay.h"

#include <stdlib.h>

int rl_queue_init(struct rl_queue *queue, uint32_t slot_bytes) {
    queue->heap = calloc(RL_QUEUE, sizeof *queue->heap);
    queue->free_slots = calloc(RL_QUEUE, sizeof *queue->free_slots);
    /* Never touched before it is used: the kernel gives memory only for slots that were filled. */
    queue->slots = calloc(RL_QUEUE, slot_bytes);
    if (!queue->heap || !queue->free_slots || !queue->slots)
        return -1;
    queue->slot_bytes = slot_bytes;
    for (uint32_t i = 0; i < RL_QUEUE; i++)
        queue->free_slots[i] = RL_QUEUE - 1 - i;
    queue->free_count = RL_QUEUE;
    return 0;
}

static bool rl_before(const struct rl_item *a, const struct rl_item *b) {
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq < b->seq;
}

uint8_t *rl_queue_slot(struct rl_queue *queue, uint32_t *slot) {
    if (!queue->free_count)
        return NULL;
    *slot = queue->free_slots[--queue->free_count];
    return queue->slots + (size_t)*slot * queue->slot_bytes;
}

void rl_queue_push(struct rl_queue *queue, struct rl_item item) {
    item.seq = queue->seq++;
    uint32_t at = queue->count++;
    while (at && rl_before(&item, &queue->heap[(at - 1) / 2])) {
        queue->heap[at] = queue->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue->heap[at] = item;
}

static void rl_queue_pop(struct rl_queue *queue) {
    struct rl_item last = queue->heap[--queue->count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= queue->count)
            break;
        if (child + 1 < queue->count && rl_before(&queue->heap[child + 1], &queue->heap[child]))
            child++;
        if (!rl_before(&queue->heap[child], &last))
            break;
        queue->heap[at] = queue->heap[child];
        at = child;
    }
    queue->heap[at] = last;
}

uint32_t rl_queue_due(struct rl_queue *queue, int64_t now_ns, struct rl_item *items, uint32_t max) {
    uint32_t count = 0;
    while (count < max && queue->count && queue->heap[0].due_ns <= now_ns) {
        items[count++] = queue->heap[0];
        rl_queue_pop(queue);
    }
    return count;
}

void rl_queue_release(struct rl_queue *queue, const struct rl_item *items, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        queue->free_slots[queue->free_count++] = items[i].slot;
}
