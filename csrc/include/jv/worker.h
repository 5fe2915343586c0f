/* SPDX-License-Identifier: Apache-2.0
 *
 * Native workers: threads that pump on their own, each with a queue of the TUN device and one descriptor of
 * every socket (SO_REUSEPORT). They share sessions and routes under the engine's lock, never take the
 * interpreter's, and run the engine's timers, so packets flow while Python is busy.
 *
 * An engine made with `workers` = 0 has none: the thread that calls the pumps is the only one.
 */
#ifndef JV_WORKER_H
#define JV_WORKER_H

#include "jv/engine.h"

struct jv_worker_stats {
    uint64_t wakeups;
    uint64_t rx_datagrams, tx_datagrams;
    uint64_t cpu_ns; /* of its thread, 0 = not running */
};

JV_API unsigned jv_engine_worker_count(const struct jv_engine *e);
/* The device is there; sockets may come and go later. 0 or a negative errno, and then none runs. */
JV_API int jv_engine_start_workers(struct jv_engine *e) JV_WARN_UNUSED;
/* Ends and joins them; does no harm when none runs. */
JV_API void jv_engine_stop_workers(struct jv_engine *e);
/* Readable when an event waits to be peeked at; -1 without workers. */
JV_API int jv_engine_event_fd(const struct jv_engine *e);
/* Before peeking: it becomes readable again with the next event. */
JV_API void jv_engine_clear_event(struct jv_engine *e);
/* ENOENT: no such worker. */
JV_API int jv_engine_worker_stats(struct jv_engine *e, unsigned number,
                                  struct jv_worker_stats *out) JV_WARN_UNUSED;

#endif
