/* SPDX-License-Identifier: Apache-2.0 */
/* A broken invariant ends the program, so that a fuzzer keeps the input. */
#ifndef JV_FUZZ_H
#define JV_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Takes bytes off the front of an input; zero when it is used up. */
struct tape {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t take8(struct tape *t) {
    if (t->left == 0)
        return 0;
    t->left--;
    return *t->at++;
}

static inline uint64_t take(struct tape *t, unsigned bytes) {
    uint64_t v = 0;

    while (bytes-- > 0)
        v = v << 8 | take8(t);
    return v;
}

#endif
