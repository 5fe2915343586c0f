/* SPDX-License-Identifier: Apache-2.0 */
/* What is measured on a path. RTT and its variation: RFC 6298 §2; jitter: RFC 3550 §6.4.1; loss: what the
 * other end says arrived over what was put on the path, never gaps in a counter that all paths share. */
#include "jv/path.h"

#include <stdlib.h>

#define PPM      1000000u
#define SEQ_MASK 0x7fffffffu

/* --- rows
 * ---------------------------------------------------------------------------------------------------- */

struct jv_paths *jv_paths_resize(struct jv_paths *from, unsigned capacity) {
    struct jv_paths *p = calloc(1, sizeof *p + capacity * sizeof p->row[0]);
    if (!p)
        return NULL;
    if (from) {
        memcpy(p, from, sizeof *from + from->capacity * sizeof from->row[0]);
        if (from->bound)
            p->bound = p->row + (from->bound - from->row);
        if (from->lent)
            p->lent = p->row + (from->lent - from->row);
        free(from);
    }
    p->capacity = (uint8_t)capacity;
    return p;
}

struct jv_path *jv_paths_by_id(struct jv_paths *p, uint8_t id) {
    for (unsigned i = 0; id && i < p->capacity; i++)
        if (p->row[i].id == id)
            return &p->row[i];
    return NULL;
}

static bool is_at(const struct jv_path *path, const struct jv_endpoint *from) {
    return path->id && path->endpoint.socket == from->socket &&
           jv_endpoint_same_remote(&path->endpoint, from);
}

struct jv_path *jv_paths_at(struct jv_paths *p, const struct jv_endpoint *from) {
    if (p->bound && is_at(p->bound, from))
        return p->bound;
    for (unsigned i = 0; i < p->capacity; i++)
        if (is_at(&p->row[i], from))
            return &p->row[i];
    return NULL;
}

/* --- addresses that are no path
 * ------------------------------------------------------------------------------ */

static struct jv_visitor *take_slots(struct jv_lodge *lodge) {
    struct jv_visitor *const slots = lodge->spare;
    if (!slots)
        return NULL;
    memcpy(&lodge->spare, slots, sizeof lodge->spare);
    memset(slots, 0, sizeof *slots);
    lodge->spares--;
    return slots;
}

static void give_slots(struct jv_lodge *lodge, struct jv_visitor *slots) {
    memset(slots, 0, JV_VISITORS_MAX * sizeof *slots);
    memcpy(slots, &lodge->spare, sizeof lodge->spare);
    lodge->spare = slots;
    lodge->spares++;
}

void jv_lodge_stock(struct jv_lodge *lodge) {
    while (lodge->spares < JV_LODGE_SPARES) {
        struct jv_visitor *const slots = malloc(JV_VISITORS_MAX * sizeof *slots);
        if (!slots)
            return;
        give_slots(lodge, slots);
    }
}

void jv_lodge_free(struct jv_lodge *lodge) {
    for (struct jv_visitor *slots; (slots = take_slots(lodge));)
        free(slots);
}

static bool in_use(const struct jv_visitor *v, uint64_t now_ns) {
    return (v->heard_ns && now_ns - v->heard_ns < JV_VISITOR_TTL_NS) || now_ns < v->copy_until_ns;
}

void jv_visitors_leave(struct jv_lodge *lodge, struct jv_paths *p, uint64_t now_ns) {
    for (unsigned i = 0; p->visitor && i < JV_VISITORS_MAX; i++)
        if (in_use(&p->visitor[i], now_ns))
            return;
    if (!p->visitor)
        return;
    if (lodge->spares < JV_LODGE_SPARES)
        give_slots(lodge, p->visitor);
    else
        free(p->visitor);
    p->visitor = NULL;
}

static bool is_visitor(const struct jv_visitor *v, const struct jv_endpoint *at, uint64_t now_ns) {
    return v->heard_ns && now_ns - v->heard_ns < JV_VISITOR_TTL_NS && v->endpoint.socket == at->socket &&
           jv_endpoint_same_remote(&v->endpoint, at);
}

struct jv_visitor *jv_visitor_at(struct jv_paths *p, const struct jv_endpoint *at, uint64_t now_ns) {
    for (unsigned i = 0; p->visitor && i < JV_VISITORS_MAX; i++)
        if (is_visitor(&p->visitor[i], at, now_ns))
            return &p->visitor[i];
    return NULL;
}

/* A free slot, or the one that has been silent longest and at least 300 ms. */
static struct jv_visitor *weakest(struct jv_paths *p, uint64_t now_ns) {
    struct jv_visitor *oldest = &p->visitor[0];
    for (unsigned i = 1; i < JV_VISITORS_MAX; i++)
        if (p->visitor[i].heard_ns < oldest->heard_ns)
            oldest = &p->visitor[i];
    return oldest->heard_ns == 0 || now_ns - oldest->heard_ns >= JV_VISITOR_SILENT_NS ? oldest : NULL;
}

struct jv_visitor *jv_visitor_take(struct jv_lodge *lodge, struct jv_paths *p, const struct jv_endpoint *at,
                                   uint64_t now_ns) {
    struct jv_visitor *v = jv_visitor_at(p, at, now_ns);
    if (v)
        return v;
    if (!p->visitor && !(p->visitor = take_slots(lodge)))
        return NULL;
    v = weakest(p, now_ns);
    if (v)
        *v = (struct jv_visitor){.endpoint = *at, .heard_ns = now_ns};
    return v;
}

bool jv_visitor_spend(struct jv_visitor *v, uint64_t bytes) {
    if (v->tx_bytes + bytes > JV_AMPLIFICATION_FACTOR * v->earned_bytes)
        return false;
    v->tx_bytes += bytes;
    return true;
}

/* --- times
 * --------------------------------------------------------------------------------------------------- */

void jv_path_reset(struct jv_path *path, uint64_t now_ns) {
    *path = (struct jv_path){
        .id = path->id,
        .endpoint = path->endpoint,
        .heard_ns = now_ns,
        .proof_ns = now_ns,
    };
}

uint64_t jv_path_pto_ns(const struct jv_path *path) {
    const uint64_t pto_ns = ((uint64_t)path->srtt_us + 4 * (uint64_t)path->rttvar_us) * 1000;
    if (!path->srtt_us)
        return JV_PTO_UNKNOWN_NS;
    return pto_ns > JV_PTO_MIN_NS ? pto_ns : JV_PTO_MIN_NS;
}

uint64_t jv_path_silence_ns(const struct jv_path *path) {
    const uint64_t three_ns = 3000 * (uint64_t)path->srtt_us;
    return three_ns > JV_SUSPECT_MIN_NS ? three_ns : JV_SUSPECT_MIN_NS;
}

static bool is_fast(const struct jv_path *path) {
    return path->suspect && path->misses <= JV_FAST_MISSES_MAX;
}

/* Without a profile what the core asked for stands in. */
static uint64_t usual(const struct jv_path *path, uint64_t profile_ns) {
    return profile_ns ? profile_ns : path->interval_ns;
}

static bool is_watched(const struct jv_path *path, uint64_t profile_ns) {
    return path->interval_ns && path->interval_ns < usual(path, profile_ns);
}

uint64_t jv_path_patience_ns(const struct jv_path *path, uint64_t profile_ns) {
    uint64_t interval_ns = is_watched(path, profile_ns) ? path->interval_ns : usual(path, profile_ns);
    if (is_fast(path) && (!interval_ns || interval_ns > JV_SUSPECT_INTERVAL_NS))
        interval_ns = JV_SUSPECT_INTERVAL_NS;
    const uint64_t pto_ns = jv_path_pto_ns(path);
    return interval_ns > pto_ns ? interval_ns : pto_ns;
}

uint64_t jv_path_suspect_due_ns(const struct jv_path *path) {
    if (!path->data_ns || path->suspect)
        return 0;
    if (path->asked_ns)
        return path->asked_ns + jv_path_pto_ns(path);
    return path->data_ns + jv_path_silence_ns(path);
}

static uint64_t sooner(uint64_t a, uint64_t b) {
    return b && (!a || b < a) ? b : a;
}

uint64_t jv_path_due_ns(const struct jv_path *path, uint64_t profile_ns) {
    uint64_t at = sooner(path->next_probe_ns, jv_path_suspect_due_ns(path));
    for (unsigned i = 0; i < JV_OPEN_PROBES; i++)
        if (path->open[i].open)
            at = sooner(at, path->open[i].tx_ns + jv_path_patience_ns(path, profile_ns));
    return at;
}

uint64_t jv_path_interval_ns(const struct jv_path *path, uint64_t profile_ns, uint64_t slow_ns,
                             uint64_t now_ns) {
    uint64_t chosen = path->interval_ns ? path->interval_ns : profile_ns;
    if (is_fast(path))
        return JV_SUSPECT_INTERVAL_NS;
    /* Neither a path in trouble nor one the core watches is left to the slow interval; one that stays silent
     * waits for a second at most. */
    const bool silent = path->misses > JV_TOLD_MISSES_MAX;
    if (silent && slow_ns > JV_BUSY_INTERVAL_MAX_NS)
        slow_ns = JV_BUSY_INTERVAL_MAX_NS;
    if (chosen && !is_watched(path, profile_ns) && (!path->misses || silent) && slow_ns > chosen)
        chosen = slow_ns;
    if (now_ns < path->fill_until_ns && chosen > JV_FILL_INTERVAL_NS)
        chosen = JV_FILL_INTERVAL_NS;
    return chosen;
}

/* --- probes
 * -------------------------------------------------------------------------------------------------- */

static struct jv_open_probe *open_of(struct jv_path *path, uint64_t seq) {
    return &path->open[seq % JV_OPEN_PROBES];
}

bool jv_path_may_probe(const struct jv_path *path) {
    return !path->open[(path->seq + 1) % JV_OPEN_PROBES].open;
}

uint64_t jv_path_probed_ns(const struct jv_path *path) {
    return path->open[path->seq % JV_OPEN_PROBES].tx_ns;
}

uint64_t jv_path_probe_sent(struct jv_path *path, uint64_t now_ns) {
    path->seq++;
    *open_of(path, path->seq) = (struct jv_open_probe){
        .tx_ns = now_ns,
        .sent = (uint32_t)path->tx_packets,
        .seq = path->seq & SEQ_MASK,
        .open = 1,
    };
    return path->seq;
}

static void fill(struct jv_path *path, uint64_t now_ns) {
    if (path->filled_ns && now_ns - path->filled_ns < JV_FILL_EVERY_NS)
        return;
    path->filled_ns = now_ns;
    path->fill_until_ns = now_ns + JV_FILL_FOR_NS;
}

unsigned jv_path_miss(struct jv_path *path, uint64_t profile_ns, uint64_t now_ns) {
    const uint64_t patience_ns = jv_path_patience_ns(path, profile_ns);
    unsigned late = 0;
    for (unsigned i = 0; i < JV_OPEN_PROBES; i++)
        if (path->open[i].open && now_ns - path->open[i].tx_ns >= patience_ns) {
            path->open[i].open = 0;
            late++;
        }
    if (late == 0)
        return 0;
    path->misses = (uint8_t)(path->misses + late > UINT8_MAX ? UINT8_MAX : path->misses + late);
    path->streak = 0;
    path->owed = JV_TOLD_ANSWERS;
    if (path->misses >= 2)
        fill(path, now_ns);
    return late;
}

/* --- answers
 * ------------------------------------------------------------------------------------------------- */

static uint32_t fold(uint32_t value, uint32_t sample, unsigned shift) {
    return (uint32_t)((int64_t)value + (((int64_t)sample - (int64_t)value) >> shift));
}

static uint32_t distance(uint32_t a, uint32_t b) {
    return a > b ? a - b : b - a;
}

static uint32_t at_least_1(uint32_t v) {
    return v ? v : 1;
}

static void sample_rtt(struct jv_path *path, uint32_t rtt_us) {
    if (path->rtt_samples == 0) {
        path->srtt_us = at_least_1(rtt_us);
        path->rttvar_us = rtt_us / 2;
    } else {
        path->rttvar_us = fold(path->rttvar_us, distance(path->srtt_us, rtt_us), 2);
        path->srtt_us = at_least_1(fold(path->srtt_us, rtt_us, 3));
        path->jitter_us = fold(path->jitter_us, distance(rtt_us, path->last_rtt_us), 4);
        path->jitter_samples++;
    }
    path->rtt_samples++;
    path->last_rtt_us = rtt_us;
}

/* The lowest SRTT of the last ten minutes, kept as two halves of five. */
static void sample_baseline(struct jv_path *path, uint64_t now_ns) {
    if (!path->base_ns || now_ns - path->base_ns >= JV_BASELINE_HALF_NS) {
        path->base_before_us = path->base_us;
        path->base_us = path->srtt_us;
        path->base_ns = now_ns;
    } else if (path->srtt_us < path->base_us) {
        path->base_us = path->srtt_us;
    }
}

static uint32_t baseline_us(const struct jv_path *path) {
    return path->base_before_us && path->base_before_us < path->base_us ? path->base_before_us
                                                                        : path->base_us;
}

static void add_point(struct jv_path *path, uint32_t sent, uint32_t arrived, uint64_t now_ns) {
    const struct jv_loss_point at = {(uint32_t)(now_ns / JV_NS_PER_MS), sent, arrived};
    const struct jv_loss_point *last = &path->point[path->point_last];
    /* The other end counts from zero again: its row is new, and so must ours be. */
    if (path->points && (int32_t)(arrived - path->now.arrived) < 0)
        path->points = 0;
    path->now = at;
    if (path->points && at.at_ms - last->at_ms < JV_LOSS_SPACING_NS / JV_NS_PER_MS)
        return;
    path->point_last = (uint8_t)((path->point_last + 1) % JV_LOSS_POINTS);
    path->point[path->point_last] = at;
    if (path->points < JV_LOSS_POINTS)
        path->points++;
}

bool jv_path_answered(struct jv_path *path, uint64_t seq, uint64_t echo_ns, uint64_t hold_ns,
                      uint64_t arrived, uint64_t now_ns) {
    struct jv_open_probe *probe = open_of(path, seq);
    const bool known = probe->tx_ns && probe->seq == (seq & SEQ_MASK);
    const uint64_t tx_ns = known ? probe->tx_ns : echo_ns;
    if (seq == 0 || seq > path->seq || tx_ns > now_ns || now_ns - tx_ns > JV_ANSWER_MAX_NS)
        return false;
    const uint64_t took_ns = now_ns - tx_ns;
    sample_rtt(path, (uint32_t)((hold_ns < took_ns ? took_ns - hold_ns : 0) / 1000));
    sample_baseline(path, now_ns);
    if (known && seq > path->answered_seq) {
        add_point(path, probe->sent, (uint32_t)arrived, now_ns);
        path->answered_seq = seq;
    }
    if (known)
        probe->open = 0;
    path->misses = 0;
    path->suspect = false;
    path->mtu_wanted |= !path->alive;
    path->alive = true;
    path->asked_ns = 0;
    path->proof_ns = now_ns;
    path->streak = (uint8_t)(path->streak < JV_STREAK_MAX ? path->streak + 1 : JV_STREAK_MAX);
    return true;
}

/* --- reports
 * ------------------------------------------------------------------------------------------------- */

/* Sent and arrived over the last 2 s, stretched to 10 s until they hold 64 packets. */
static void loss_window(const struct jv_path *path, uint64_t now_ns, struct jv_measured *m) {
    const uint32_t now_ms = (uint32_t)(now_ns / JV_NS_PER_MS);
    uint32_t arrived = 0;
    for (unsigned i = 0; i < path->points; i++) {
        const struct jv_loss_point *from =
            &path->point[(path->point_last + JV_LOSS_POINTS - i) % JV_LOSS_POINTS];
        const uint32_t age_ms = now_ms - from->at_ms;
        if (age_ms > JV_LOSS_WINDOW_MAX_NS / JV_NS_PER_MS)
            break;
        m->packets = path->now.sent - from->sent;
        arrived = path->now.arrived - from->arrived;
        if (age_ms >= JV_LOSS_WINDOW_NS / JV_NS_PER_MS && m->packets >= JV_LOSS_MIN_PACKETS)
            break;
    }
    m->lost = m->packets > arrived ? m->packets - arrived : 0;
    m->loss_ppm = m->packets ? (uint32_t)((uint64_t)m->lost * PPM / m->packets) : 0;
}

struct jv_measured jv_path_measured(const struct jv_path *path, uint64_t now_ns) {
    struct jv_measured m = {
        .srtt_us = path->srtt_us,
        .rttvar_us = path->rttvar_us,
        .jitter_us = path->jitter_us,
        .rtt_samples = path->rtt_samples,
        .jitter_samples = path->jitter_samples,
    };
    loss_window(path, now_ns, &m);
    return m;
}

static uint8_t level_of(uint64_t value, uint64_t enter, uint64_t leave) {
    return value > enter ? 2 : value >= leave ? 1 : 0;
}

/* Below its least number of samples a figure keeps the level it had (session.md §4). */
static void levels_of(const struct jv_path *path, const struct jv_thresholds *limits,
                      const struct jv_measured *m, uint8_t level[3]) {
    const uint64_t factor_us = (uint64_t)limits->latency_factor * baseline_us(path);
    const uint64_t latency_us = factor_us > limits->latency_enter_us ? factor_us : limits->latency_enter_us;
    memcpy(level, path->level, sizeof path->level);
    if (limits->loss_enter_ppm && m->packets >= JV_LOSS_MIN_PACKETS) {
        level[0] = level_of(m->loss_ppm, limits->loss_enter_ppm, limits->loss_exit_ppm);
        if (level[0] == 2 && m->lost < JV_LOSS_MIN_LOST)
            level[0] = 1;
    }
    if (latency_us && m->rtt_samples >= JV_RTT_MIN_SAMPLES)
        level[1] = level_of(m->srtt_us, latency_us, latency_us * limits->exit_ratio_ppm / PPM);
    if (limits->jitter_enter_us && m->jitter_samples >= JV_JITTER_MIN_SAMPLES)
        level[2] = level_of(m->jitter_us, limits->jitter_enter_us,
                            (uint64_t)limits->jitter_enter_us * limits->exit_ratio_ppm / PPM);
}

/* An eighth of the SRTT, 5 ms of jitter, a point of loss: what scores can tell apart. */
static bool moved(const struct jv_path *path, const struct jv_measured *m, uint64_t spacing_ns,
                  uint64_t now_ns) {
    if (path->reported_ns && now_ns - path->reported_ns < spacing_ns)
        return false;
    return distance(m->srtt_us, path->reported_srtt_us) > path->reported_srtt_us / 8 + 1000 ||
           distance(m->jitter_us, path->reported_jitter_us) > 5000 ||
           (m->packets >= JV_LOSS_MIN_PACKETS && distance(m->loss_ppm, path->reported_loss_ppm) >= PPM / 100);
}

bool jv_path_moved(struct jv_path *path, const struct jv_thresholds *limits, const struct jv_measured *m,
                   uint64_t spacing_ns, uint64_t now_ns) {
    uint8_t level[3];
    levels_of(path, limits, m, level);
    if (m->packets < JV_LOSS_MIN_PACKETS && m->lost >= 2)
        fill(path, now_ns);
    return memcmp(level, path->level, sizeof level) != 0 || moved(path, m, spacing_ns, now_ns);
}

void jv_path_told(struct jv_path *path, const struct jv_thresholds *limits, const struct jv_measured *m) {
    uint8_t level[3];
    levels_of(path, limits, m, level);
    path->mtu_wanted |= level[0] == 2 && path->level[0] != 2; /* perhaps only large ones are lost */
    memcpy(path->level, level, sizeof level);
}
