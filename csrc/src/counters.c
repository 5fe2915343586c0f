/* SPDX-License-Identifier: Apache-2.0 */
/* Names come from the same list as the enum, so they cannot drift apart. */
#include "jv/counters.h"

static const char *const names[JV_COUNTER_COUNT] = {
#define JV_COUNTER_NAME(upper, lower) [JV_CTR_##upper] = #lower,
    JV_COUNTERS(JV_COUNTER_NAME)
#undef JV_COUNTER_NAME
};

const char *jv_counter_name(unsigned which) {
    return which < JV_COUNTER_COUNT ? names[which] : NULL;
}

void jv_counters_sum(struct jv_counters *into, const struct jv_counters *from) {
    for (unsigned i = 0; i < JV_COUNTER_COUNT; i++)
        into->n[i] += from->n[i];
}
