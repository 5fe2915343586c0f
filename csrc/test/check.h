/* SPDX-License-Identifier: Apache-2.0 */
/* A test program is a list of RUN(name) and ends with `return failures()`. Every failed CHECK says where it
 * is; the program goes on, so that one run shows all of them. Random inputs come from a fixed seed. */
#ifndef JV_TEST_CHECK_H
#define JV_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>

static int check_failed_here, check_failed_programs;

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            check_failed_here++;                                                                             \
            printf("# %s:%d: %s\n", __FILE__, __LINE__, #condition);                                         \
        }                                                                                                    \
    } while (0)

#define RUN(test)                                                                                            \
    do {                                                                                                     \
        check_failed_here = 0;                                                                               \
        test();                                                                                              \
        printf("%s %s\n", check_failed_here ? "not ok" : "ok", #test);                                       \
        fflush(stdout);                                                                                      \
        check_failed_programs += check_failed_here != 0;                                                     \
    } while (0)

static inline int failures(void) {
    return check_failed_programs != 0;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

#endif
