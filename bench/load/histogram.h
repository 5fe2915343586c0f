/* SPDX-License-Identifier: Apache-2.0 */
/* Latencies in HdrHistogram's layout: microseconds, three significant figures.
 *
 * Below 2,048 every value has a count of its own; above, each doubling is cut into 1,024 equal steps, so a
 * value is known to one part in 1,024. What is longer than FL_MOST_US counts as that long. */
#ifndef FL_HISTOGRAM_H
#define FL_HISTOGRAM_H

#include <stdint.h>

#define FL_HALF    1024U /* steps of a doubling */
#define FL_HALVES  18U   /* doublings up to FL_MOST_US, and the exact part */
#define FL_COUNTS  (FL_HALF * FL_HALVES)
#define FL_MOST_US ((2ULL * FL_HALF << (FL_HALVES - 2U)) - 1U) /* 134 s */

struct fl_histogram {
    uint64_t total, most_us;
    uint32_t counts[FL_COUNTS];
};

void fl_add(struct fl_histogram *histogram, uint64_t us);

/* The least value that is not below `share` of all; 0 without any. Nearest rank, the upper end of its step.
 */
uint64_t fl_percentile(const struct fl_histogram *histogram, double share);

/* The lowest value that is counted at this place. */
uint64_t fl_lowest_us(uint32_t place);

#endif
