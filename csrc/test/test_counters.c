/* SPDX-License-Identifier: Apache-2.0 */
/* Names and numbers of counters match, and names are unique. */
#include "jv/counters.h"

#include "check.h"

static void test_names(void) {
    CHECK(strcmp(jv_counter_name(JV_CTR_RX_DATAGRAMS), "rx_datagrams") == 0);
    CHECK(strcmp(jv_counter_name(JV_CTR_DROP_AUTH), "drop_auth") == 0);
    CHECK(jv_counter_name(JV_COUNTER_COUNT) == NULL);
    for (unsigned i = 0; i < JV_COUNTER_COUNT; i++)
        for (unsigned j = 0; j < i; j++)
            CHECK(strcmp(jv_counter_name(i), jv_counter_name(j)) != 0);
}

static void test_sum(void) {
    struct jv_counters a = {.n = {1}}, b = {.n = {2, 3}};

    jv_count(&a, JV_CTR_DROP_AUTH);
    jv_count_add(&a, JV_CTR_DROP_AUTH, 9);
    jv_counters_sum(&b, &a);
    CHECK(b.n[0] == 3 && b.n[1] == 3 && b.n[JV_CTR_DROP_AUTH] == 10);
}

int main(void) {
    RUN(test_names);
    RUN(test_sum);
    return failures();
}
