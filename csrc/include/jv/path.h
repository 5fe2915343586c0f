/* SPDX-License-Identifier: Apache-2.0 */
/* The transports of a session: one row per path with what is measured on it (session.md §4, §6), and the few
 * slots for addresses that are no path yet.
 *
 * Rule 1: a row is evidence about one path and one direction. What names another path never touches it. Which
 * path a message names is authenticated, the address it came from is not: one who forwards copies of all
 * packets from elsewhere, and wins every race, neither feeds nor starves a path.
 * Rule 2: rows are made and moved by Python only; an address never becomes a path by sending to us.
 * Rule 3: everything here is arithmetic on the row and on the time given; packets are probe.c's business.
 * gateway/core/meter.py is the same in Python, formula by formula. */
#ifndef JV_PATH_H
#define JV_PATH_H

#include "jv/common.h"
#include "jv/endpoint.h"

#include <stdlib.h>

#define JV_PATHS_MAX    8 /* transport.max_candidates */
#define JV_VISITORS_MAX 3 /* security.unvalidated_slots */
#define JV_OPEN_PROBES  8 /* 30 ms apart they cover a PTO of 240 ms; a longer PTO spaces them out */
#define JV_LOSS_POINTS  16
#define JV_RECENT_MAX   8

#define JV_NS_PER_MS            UINT64_C(1000000)
#define JV_PTO_MIN_NS           (20 * JV_NS_PER_MS)
#define JV_PTO_UNKNOWN_NS       (200 * JV_NS_PER_MS)
#define JV_SUSPECT_MIN_NS       (100 * JV_NS_PER_MS) /* liveness.suspect_after */
#define JV_SUSPECT_INTERVAL_NS  (30 * JV_NS_PER_MS)
#define JV_FILL_INTERVAL_NS     (50 * JV_NS_PER_MS) /* a thin path that lost two: fill the loss window */
#define JV_FILL_FOR_NS          (4000 * JV_NS_PER_MS)
#define JV_FILL_EVERY_NS        (10000 * JV_NS_PER_MS)
#define JV_LOSS_WINDOW_NS       (2000 * JV_NS_PER_MS)
#define JV_LOSS_WINDOW_MAX_NS   (10000 * JV_NS_PER_MS)
#define JV_LOSS_SPACING_NS      (640 * JV_NS_PER_MS) /* 16 points reach back 10 s */
#define JV_LOSS_MIN_PACKETS     64
#define JV_LOSS_MIN_LOST        4
#define JV_RTT_MIN_SAMPLES      3
#define JV_JITTER_MIN_SAMPLES   16
#define JV_ANSWER_MAX_NS        (10000 * JV_NS_PER_MS) /* an older answer says nothing about now */
#define JV_BASELINE_HALF_NS     (300000 * JV_NS_PER_MS)
#define JV_MOVED_EVERY_NS       (100 * JV_NS_PER_MS) /* while there is traffic */
#define JV_REPORT_EVERY_NS      (900 * JV_NS_PER_MS) /* about one a second, at the next answer */
#define JV_TOLD_MISSES_MAX      8 /* told one by one: more than any profile's death needs */
#define JV_TOLD_ANSWERS         3 /* of a path that missed: the 1st, 3rd and 30th in a row (session.md §5) */
#define JV_MISSES_JUDGED        3 /* with the span of two intervals: every profile's death */
#define JV_BUSY_INTERVAL_MAX_NS (1000 * JV_NS_PER_MS)
#define JV_FAST_MISSES_MAX      32 /* beyond it a suspect path is probed at the profile's interval again */
#define JV_CONTROL_TOKEN_NS     (10 * JV_NS_PER_MS) /* security.control_rate: 100/s, burst 100 */
#define JV_CONTROL_BURST_NS     (1000 * JV_NS_PER_MS)
#define JV_VISITOR_TTL_NS       (5000 * JV_NS_PER_MS)
#define JV_VISITOR_SILENT_NS    (300 * JV_NS_PER_MS)
#define JV_COPY_SEEN_WITHIN_NS  (1000 * JV_NS_PER_MS)
#define JV_AMPLIFICATION_FACTOR 3
#define JV_STREAK_MAX           100

/* One probe on its way. */
struct jv_open_probe {
    uint64_t tx_ns; /* 0 = never used */
    uint32_t sent;  /* packets put on the path by then, itself included */
    uint32_t seq : 31;
    uint32_t open : 1; /* neither answered nor missed */
};

/* At an answer: how much had been sent when its probe left, and how much of it had arrived. */
struct jv_loss_point {
    uint32_t at_ms;
    uint32_t sent;
    uint32_t arrived;
};

struct jv_path {
    /* Touched with every packet of the path: the first 128 bytes. */
    struct jv_endpoint endpoint;
    uint8_t id;          /* the client's name for it, 0 = the row is free */
    uint8_t misses;      /* in a row, saturating */
    uint8_t streak;      /* answers in a row, at most JV_STREAK_MAX */
    bool suspect;        /* a probe asked for by silence went unanswered for a PTO */
    uint64_t tx_packets; /* put on this path, copies included */
    uint64_t tx_bytes;
    uint64_t rx_packets; /* authenticated on this path, replayed copies included */
    uint64_t rx_bytes;
    uint64_t heard_ns; /* anything authenticated and new */
    uint64_t data_ns;  /* data went out then and nothing was heard since; 0 = none */
    uint64_t asked_ns; /* the probe that decides on suspicion left then, 0 = none */
    uint32_t srtt_us;  /* 0 = no sample yet */
    uint32_t rttvar_us;
    uint32_t jitter_us;
    uint16_t mtu_bytes; /* the largest inner packet it carries, 0 = not known to be limited */
    bool report;        /* Python hears of every answer */
    bool alive;         /* an answer has come since the row was made */

    /* Touched with probes only. */
    uint64_t proof_ns;      /* last answer to our own probe, or when the row was made */
    uint64_t next_probe_ns; /* 0 = none planned */
    uint64_t interval_ns;   /* asked for by the core, 0 = the session's profile */
    uint64_t seq;           /* of the last probe */
    uint64_t answered_seq;  /* the newest that was answered */
    uint64_t fill_until_ns, filled_ns;
    uint64_t missed_ns;   /* last report of misses */
    uint64_t reported_ns; /* last report of a measurement, and what it said */
    uint64_t control_ns;  /* control rate: when the bucket is full again */
    uint64_t base_ns;     /* baseline of the RTT: lowest of this half and of the one before */
    uint32_t base_us, base_before_us;
    uint32_t reported_srtt_us, reported_jitter_us, reported_loss_ppm;
    uint32_t rtt_samples, jitter_samples, last_rtt_us;
    uint8_t level[3]; /* loss, latency, jitter: 0 below exit, 1 between, 2 above enter */
    uint8_t points, point_last;
    bool mtu_wanted;             /* its size is to be asked for */
    uint8_t owed;                /* how many answers on the way up from a miss are still to be told, of 3 */
    struct jv_endpoint previous; /* where it was before it moved: still allowed to be challenged */
    struct jv_loss_point now;    /* at the newest answer */
    struct jv_loss_point point[JV_LOSS_POINTS];
    struct jv_open_probe open[JV_OPEN_PROBES];
};

_Static_assert(offsetof(struct jv_path, proof_ns) <= 128, "the hot part is two cache lines");

/* What a report says. Times in microseconds; loss over the window with its packets and losses. */
struct jv_measured {
    uint32_t srtt_us, rttvar_us, jitter_us;
    uint32_t loss_ppm, packets, lost;
    uint32_t rtt_samples, jitter_samples;
};

/* volatility.* of the policy. exit = enter * exit_ratio for latency and jitter. All zero: nothing to cross.
 */
struct jv_thresholds {
    uint32_t loss_enter_ppm, loss_exit_ppm;
    uint32_t latency_enter_us, latency_factor;
    uint32_t jitter_enter_us;
    uint32_t exit_ratio_ppm;
};

/* An address that authenticated packets came from and that is no path. */
struct jv_visitor {
    struct jv_endpoint endpoint;
    uint64_t heard_ns;   /* 0 = free */
    uint64_t rx_packets; /* came from there and were counted on no path */
    uint64_t rx_bytes;
    uint64_t earned_bytes;  /* all that came from there */
    uint64_t tx_bytes;      /* went there, at most JV_AMPLIFICATION_FACTOR times as much */
    uint64_t copy_until_ns; /* downstream is copied there */
};

/* Where and when a control message was accepted, to know a copy of it from another address. */
struct jv_recent {
    uint32_t counter,
        from_hash;  /* their lower halves: a second message and address of that within a second */
    uint32_t at_ms; /* 0 = free */
    uint32_t local_index;
};

/* The search for what one path carries, one at a time per session. */
struct jv_pmtu {
    uint64_t due_ns;   /* the probe that is out is lost then, 0 = no search runs */
    uint64_t again_ns; /* the bound path is asked again then, 0 = with the next packet after idleness */
    uint64_t seq;
    uint16_t size_bytes;            /* that is asked for */
    uint16_t good_bytes, bad_bytes; /* the largest that passed (0 = none), the smallest that did not */
    uint8_t path_id;
    uint8_t sends; /* of this size */
};

struct jv_paths {
    uint64_t inner_ns;       /* last inner packet, either way */
    uint64_t extra_until_ns; /* data also goes elsewhere: a duplicate or a copy */
    struct jv_path *bound;   /* where data goes, NULL = nowhere */
    struct jv_path *lent;    /* where it goes meanwhile, while the other end is asked to bind it */
    uint8_t capacity, used;
    uint8_t dup_a, dup_b; /* path_ids of a running duplication */
    bool idle;            /* counted among the engine's idle paths */
    bool peer_known;
    uint8_t peer_path; /* what the other end says is bound, at peer_epoch */
    uint8_t recent_next;
    uint64_t peer_epoch, peer_told_ns;
    uint64_t epoch; /* of our own binding */
    uint64_t dup_until_ns, dup_started_ns;
    uint64_t look_ns, look_packets; /* when window.c looked last, and the session's received packets then */
    uint64_t profile_ns;            /* liveness.profile: the probe interval, 0 = no probes */
    uint64_t idle_ns;               /* what the gateway announced for idle sessions, 0 = by our own budget */
    uint64_t probe_seq;             /* of PMTU probes */
    struct jv_thresholds thresholds;
    struct jv_pmtu pmtu;
    struct jv_visitor *visitor; /* JV_VISITORS_MAX slots, NULL while nobody uses one */
    struct jv_recent recent[JV_RECENT_MAX];
    struct jv_path row[]; /* capacity rows; a free one has id 0 */
};

/* Slots for visitors that are kept ready, since the packet path allocates nothing and most sessions never
 * have any. A session that finds none is one whose slots are all taken: the visitor's next packet asks again.
 */
struct jv_lodge {
    struct jv_visitor *spare; /* linked through their first bytes */
    unsigned spares;
};
#define JV_LODGE_SPARES 512u

/* Takes memory: not on the packet path. */
void jv_lodge_stock(struct jv_lodge *lodge);
void jv_lodge_free(struct jv_lodge *lodge);
/* Gives the slots of a session back once nobody uses them any more. */
void jv_visitors_leave(struct jv_lodge *lodge, struct jv_paths *p, uint64_t now_ns);
static inline void jv_paths_free(struct jv_paths *p) {
    if (p)
        free(p->visitor);
    free(p);
}

/* A block of 1 to JV_PATHS_MAX rows; `from` (may be NULL) is freed after its content moved. NULL when memory
 * is short: `from` is then as it was. */
struct jv_paths *jv_paths_resize(struct jv_paths *from, unsigned capacity) JV_WARN_UNUSED;
struct jv_path *jv_paths_by_id(struct jv_paths *p, uint8_t id);
/* Where data goes now, or NULL. */
static inline struct jv_path *jv_paths_data(const struct jv_paths *p) {
    return p->bound ? p->bound : p->lent;
}
/* The path whose remote address and socket these are, or NULL. */
struct jv_path *jv_paths_at(struct jv_paths *p, const struct jv_endpoint *from);
/* The slot of an address, or NULL. */
struct jv_visitor *jv_visitor_at(struct jv_paths *p, const struct jv_endpoint *at, uint64_t now_ns);
/* The same, taking a slot if need be; NULL while all are busy. Only for authenticated packets. */
struct jv_visitor *jv_visitor_take(struct jv_lodge *lodge, struct jv_paths *p, const struct jv_endpoint *at,
                                   uint64_t now_ns);
/* Charges `bytes` to the slot's budget; false, and nothing charged, when they are beyond it. */
bool jv_visitor_spend(struct jv_visitor *v, uint64_t bytes);

/* A new life of a row: nothing measured, nothing missed. */
void jv_path_reset(struct jv_path *path, uint64_t now_ns);
/* SRTT + 4 RTTVAR, at least 20 ms; 200 ms while unknown. */
uint64_t jv_path_pto_ns(const struct jv_path *path);
/* Silence after data for this long asks for a probe: max(3 SRTT, 100 ms). */
uint64_t jv_path_silence_ns(const struct jv_path *path);
/* A probe unanswered for this long is a miss. */
uint64_t jv_path_patience_ns(const struct jv_path *path, uint64_t profile_ns);
/* When silence after data has something to do: ask, or call the path suspect. 0 = nothing to suspect. */
uint64_t jv_path_suspect_due_ns(const struct jv_path *path);
/* The earliest of probe, miss and suspicion; 0 = never. */
uint64_t jv_path_due_ns(const struct jv_path *path, uint64_t profile_ns);
/* The next probe's interval; slow_ns: its share of the budget, if that is longer. */
uint64_t jv_path_interval_ns(const struct jv_path *path, uint64_t profile_ns, uint64_t slow_ns,
                             uint64_t now_ns);
/* Whether a further probe finds room among those on their way. */
bool jv_path_may_probe(const struct jv_path *path);
/* When the last probe left, 0 = none has. */
uint64_t jv_path_probed_ns(const struct jv_path *path);
/* A probe leaves, already counted in tx_packets. Returns its number. */
uint64_t jv_path_probe_sent(struct jv_path *path, uint64_t now_ns);
/* Counts the probes that are too late as missed; returns how many were new. */
unsigned jv_path_miss(struct jv_path *path, uint64_t profile_ns, uint64_t now_ns);
/* An answer to probe `seq`, sent at echo_ns and held for hold_ns; `arrived` of our packets had come by then.
 * False when it is none of ours, or too old to say anything. */
bool jv_path_answered(struct jv_path *path, uint64_t seq, uint64_t echo_ns, uint64_t hold_ns,
                      uint64_t arrived, uint64_t now_ns);
/* Something new authenticated on this path. */
static inline void jv_path_heard(struct jv_path *path, uint64_t now_ns) {
    path->heard_ns = now_ns;
    path->data_ns = path->asked_ns = 0;
}

struct jv_measured jv_path_measured(const struct jv_path *path, uint64_t now_ns);
/* Whether a threshold is crossed since the last report, or the figures moved enough to matter for a choice
 * and that long after it. */
bool jv_path_moved(struct jv_path *path, const struct jv_thresholds *limits, const struct jv_measured *m,
                   uint64_t spacing_ns, uint64_t now_ns);
/* It is told now. */
void jv_path_told(struct jv_path *path, const struct jv_thresholds *limits, const struct jv_measured *m);

/* A bucket of 100 messages that fills at 100 per second, kept as the time when it will be full again. */
static inline bool jv_control_allowed(uint64_t *full_ns, uint64_t now_ns, unsigned cost) {
    const uint64_t from = *full_ns > now_ns ? *full_ns : now_ns;
    if (from + cost * JV_CONTROL_TOKEN_NS > now_ns + JV_CONTROL_BURST_NS)
        return false;
    *full_ns = from + cost * JV_CONTROL_TOKEN_NS;
    return true;
}

#endif
