/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target without a fuzzer: over the files named as arguments, or else over inputs drawn from a
 * fixed seed, so that `make test` does the same work every time. With clang: -fsanitize=fuzzer instead of
 * this file. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUTS    20000
#define INPUT_MAX 2048

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* In a block of its exact size: a read beyond the input ends the program. */
static void run(const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size ? size : 1);

    if (!exact)
        abort();
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* Uniform bytes seldom pass a first check, so two inputs in three are drawn from few values or small ones. */
static void draw(uint8_t *data, size_t size, uint64_t *seed) {
    static const uint8_t few[] = {0, 1, 2, 4, 5, 8, 20, 40, 0x45, 0x60, 0x7f, 0x80, 0xfe, 0xff};
    unsigned style = (unsigned)(next_random(seed) % 3);

    for (size_t i = 0; i < size; i++) {
        uint64_t r = next_random(seed);

        data[i] = style == 0   ? (uint8_t)r
                  : style == 1 ? few[r % sizeof(few)]
                               : (uint8_t)(r & r >> 8 & r >> 16);
    }
}

static int run_file(const char *path) {
    uint8_t *data = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file || !data) {
        perror(path);
        return 1;
    }
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    run(data, size);
    free(data);
    return 0;
}

int main(int argc, char **argv) {
    static uint8_t data[INPUT_MAX];
    uint64_t seed = 2026;
    int failed = 0;

    for (int i = 1; i < argc; i++)
        failed |= run_file(argv[i]);
    for (int i = 0; argc == 1 && i < INPUTS; i++) {
        size_t size = next_random(&seed) % (i % 4 ? 128 : INPUT_MAX);

        draw(data, size, &seed);
        run(data, size);
    }
    printf("ok %d inputs\n", argc == 1 ? INPUTS : argc - 1);
    return failed;
}
