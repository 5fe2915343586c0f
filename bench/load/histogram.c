/* SPDX-License-Identifier: Apache-2.0 */
#include "histogram.h"

static uint32_t fl_doubling(uint64_t us) {
    return 63U - (uint32_t)__builtin_clzll(us | (2U * FL_HALF - 1U)) - 10U;
}

void fl_add(struct fl_histogram *histogram, uint64_t us) {
    us = us > FL_MOST_US ? FL_MOST_US : us;
    uint32_t doubling = fl_doubling(us);
    histogram->counts[doubling * FL_HALF + (uint32_t)(us >> doubling)]++;
    histogram->total++;
    histogram->most_us = us > histogram->most_us ? us : histogram->most_us;
}

static uint32_t fl_shift(uint32_t place) {
    return place < 2U * FL_HALF ? 0U : place / FL_HALF - 1U;
}

uint64_t fl_lowest_us(uint32_t place) {
    uint32_t shift = fl_shift(place);
    return (uint64_t)(place - shift * FL_HALF) << shift;
}

uint64_t fl_percentile(const struct fl_histogram *histogram, double share) {
    uint64_t wanted = (uint64_t)(share * (double)histogram->total + 0.999999), seen = 0;
    wanted = wanted ? wanted : 1U;
    for (uint32_t place = 0; place < FL_COUNTS; place++) {
        seen += histogram->counts[place];
        if (seen < wanted)
            continue;
        uint64_t highest_us = fl_lowest_us(place) + (1ULL << fl_shift(place)) - 1U;
        return highest_us < histogram->most_us ? highest_us : histogram->most_us;
    }
    return histogram->most_us;
}
