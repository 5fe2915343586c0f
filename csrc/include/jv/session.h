/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions and their keypairs.
 *
 * A session is one row of a table that never moves; its slot is what Python and the routes name it by. A
 * receiver index decodes to slot and generation without a search (protocol.md §1), and a generation is used
 * for one keypair only, so a stale index is refused before any cryptography.
 *
 * session.c owns every rotation previous / current / next / older. Nothing else assigns those four pointers.
 */
#ifndef JV_SESSION_H
#define JV_SESSION_H

#include "jv/aead.h"
#include "jv/common.h"
#include "jv/endpoint.h"
#include "jv/hot.h"
#include "jv/index.h"
#include "jv/replay.h"
#include "jv/wheel.h"

/* A keypair's window begins with JV_REPLAY_BITS_FIRST and gets its whole size with this counter, since most
 * keypairs of a large gateway carry next to nothing. Half of the small one is left for stragglers. */
#define JV_WINDOW_WHOLE_AT (JV_REPLAY_BITS_FIRST / 2)
/* Whole bitmaps that are kept ready, since the packet path allocates nothing: so many sessions may begin to
 * carry data between two ticks. One that finds none goes on with its small window and asks again. */
#define JV_SPARE_WINDOWS 128u

#define JV_SESSION_NONE UINT32_MAX
#define JV_STAGE_NONE   UINT16_MAX

/* The keys of one finished handshake, as Python hands them over. Copied; the caller wipes its own. */
struct jv_keys {
    const uint8_t *send; /* 32 bytes each */
    const uint8_t *recv;
    uint32_t local_index;
    uint32_t remote_index;
    bool initiator;
    /* Suite 0 (protocol.md §3), 32 bytes each; NULL: no control messages under this keypair. */
    const uint8_t *control_send;
    const uint8_t *control_recv;
    /* A HELLO comes first (protocol.md §2). Initiator: nothing is sent on installing, the caller sends HELLO,
     * and control goes on under the previous keypair until jv_engine_promote (its WELCOME). Responder: the
     * first message proves the keypair but leaves `current` sealing until jv_engine_promote, because the
     * HELLO has yet to show whose it is; without a current keypair it takes over at once. */
    bool hold;
    /* Type 5 data by suite number, 32 bytes each; NULL: that suite is not offered under this keypair. */
    const uint8_t *data_send[JV_SUITE_END];
    const uint8_t *data_recv[JV_SUITE_END];
};

/* Type 5 data of one suite. */
struct jv_data_keys {
    struct jv_aead_key send;
    struct jv_aead_key recv;
};

/* Control messages of one keypair: own key, counter and window, so that a probe on a slow path survives any
 * amount of data on a fast one. */
struct jv_control {
    uint64_t send_counter; /* the next to seal with, spent whatever becomes of the message (I39) */
    struct jv_aead_key send;
    struct jv_aead_key recv;
    struct jv_replay window;
    uint64_t words[JV_REPLAY_BITS_CONTROL / 64];
};

/* Traffic keys of one handshake, one for each direction, and what has been done with them. Data is sealed
 * with ChaCha20-Poly1305 as type 4 until another suite is chosen. */
struct jv_keypair {
    uint32_t local_index;  /* what the peer writes into the messages it sends us */
    uint32_t remote_index; /* what we write */
    uint64_t birth_ns;
    uint64_t send_counter; /* the next to seal with; spent also when the send then fails (I39) */
    uint64_t heard_ns;     /* last new message under it, 0 = none yet */
    struct jv_aead_key send;
    struct jv_aead_key recv;
    struct jv_replay window;
    bool initiator;             /* we started this handshake, so we are the one to renew it */
    bool hold;                  /* see jv_keys */
    bool confirmed;             /* a held one: its first message has come */
    bool crossed;               /* the other end may seal with it for as long as it lives, whatever we do */
    struct jv_control *control; /* NULL = suite 0 is refused */
    struct jv_data_keys
        *data[JV_SUITE_END - JV_SUITE_AES256GCM]; /* by suite, of AES256GCM on; NULL = not offered */
    uint8_t opens;                                /* suites of type 5 data that are taken, bit by number */
    uint8_t seals;                                /* the suite that data leaves under, 0 = type 4 */
    uint64_t *grown;                              /* the bitmap its window has grown into, NULL = `words` */
    uint64_t words[];                             /* the window's first bitmap */
};

/* When each of WireGuard's timers of one session is due (whitepaper §6.5), 0 = not running. */
struct jv_due {
    uint64_t keepalive_ns;  /* data came in and nothing went out since */
    uint64_t silent_ns;     /* data went out and nothing authenticated came in since */
    uint64_t persistent_ns; /* the configured persistent keepalive */
    uint64_t erase_ns;      /* the keys of a dead session are wiped */
    uint64_t paths_ns;      /* a probe, a miss or a suspicion (probe.c) */
};

struct jv_paths;

struct jv_session {
    struct jv_keypair *current; /* seals and opens */
    struct jv_keypair *next;    /* we answered the handshake: opens, and its first message makes it current */
    struct jv_keypair *previous; /* opens what was on its way when current took over */
    /* Opens only: what the peer may still seal with although two others have come since. Handshakes that
     * cross leave each end sealing under its own, for as long as the keys live. NULL but for them. */
    struct jv_keypair *older;
    uint32_t slot;
    uint16_t generation; /* of the last index handed out */
    bool used;
    bool wanted;            /* Python was told that a handshake is needed and has not answered yet */
    bool another_keepalive; /* more data came in while a keepalive was already due */
    bool mute;              /* no inner packet passes either way, see jv_engine_mute */
    bool no_gso;            /* UDP_SEGMENT failed on the way to this endpoint */
    uint16_t persistent_s;
    uint16_t stage_head; /* packets waiting for a key, oldest first */
    uint16_t stage_tail;
    uint16_t stage_count;
    struct jv_endpoint endpoint; /* where data goes: the bound path's, or a stock peer's */
    struct jv_paths *paths;      /* NULL for a stock session */
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
    struct jv_due due;
    struct jv_timer timer; /* armed at the earliest of due or before it */
    uint64_t notice_ns;    /* since when notices about new addresses are counted */
    uint64_t control_ns;   /* rate of control messages from addresses that are no path's */
    uint8_t notices;       /* in the second from notice_ns on */
    uint8_t controls;      /* its messages that wait for Python */
    uint64_t latest_handshake_ns;
    uint32_t next_free; /* of an unused row */
};

struct jv_table;

/* capacity: at most JV_INDEX_SLOTS. NULL and errno on failure. */
struct jv_table *jv_table_new(uint32_t capacity, uint32_t window_bits,
                              const uint8_t seed[JV_INDEX_SEED_BYTES]) JV_WARN_UNUSED;
void jv_table_free(struct jv_table *t);

/* A zeroed row, or NULL when the table is full. Its generation goes on from the slot's last owner. */
struct jv_session *jv_table_add(struct jv_table *t) JV_WARN_UNUSED;
/* The caller has disarmed its timer and emptied its stage. */
void jv_table_remove(struct jv_table *t, struct jv_session *s);
struct jv_session *jv_table_get(const struct jv_table *t, uint32_t slot);
/* The session a receiver index names, or NULL. Whether one of its keypairs has it is jv_session_keypair's
 * answer. */
struct jv_session *jv_table_by_index(const struct jv_table *t, uint32_t index);
/* Asks for the row that an index names, so that it is there when it is used. */
void jv_table_prefetch(const struct jv_table *t, uint32_t index);
/* The same for its current keypair, once the row is there. */
void jv_table_prefetch_keys(const struct jv_table *t, uint32_t index);
uint32_t jv_table_count(const struct jv_table *t);

/* A fresh index for one handshake and the keypair that comes of it. */
uint32_t jv_session_new_index(struct jv_table *t, struct jv_session *s);
struct jv_keypair *jv_session_keypair(const struct jv_session *s, uint32_t index);

/* A finished handshake. The initiator's keypair seals at once; the responder's waits in next. 0 or -ENOMEM.
 */
int jv_session_install(struct jv_table *t, struct jv_session *s, const struct jv_keys *keys,
                       uint64_t now_ns) JV_WARN_UNUSED;
/* next becomes current: its first message has authenticated, and whose it is has been shown. */
void jv_session_confirm(struct jv_session *s, uint64_t now_ns);
/* The keys of a suite of type 5 data; NULL: it is not offered, or another one was chosen. */
static inline struct jv_data_keys *jv_keypair_data(const struct jv_keypair *kp, unsigned suite) {
    return kp->data[suite - JV_SUITE_AES256GCM];
}
/* HELLO has left and the answer is open: whatever was offered is taken. */
void jv_keypair_expect(struct jv_keypair *kp);
/* The suite of the data from now on; the keys of the others are wiped. -ENOENT: it was not offered. */
int jv_keypair_choose(struct jv_keypair *kp, unsigned suite) JV_WARN_UNUSED;
/* It has come so far (JV_WINDOW_WHOLE_AT): its window gets the table's size, from what is kept ready. */
void jv_table_grow_window(struct jv_table *t, struct jv_keypair *kp);
/* Takes memory: not on the packet path. Makes up for bitmaps that were used. */
void jv_table_stock_windows(struct jv_table *t);
/* Wipes what opens no more: keypairs that were replaced and are older than this. */
void jv_session_expire(struct jv_session *s, uint64_t now_ns, uint64_t reject_after_ns);
/* Takes memory: not on the packet path. Its window reaches back JV_REPLAY_BITS_LARGE counters from now on.
 * False: it did before, or there is no memory. */
bool jv_keypair_widen(struct jv_keypair *kp);
/* Wipes all keypairs. */
void jv_session_erase(struct jv_session *s);
/* Wipes all but the one with this index. One that only waited for a HELLO becomes current. */
void jv_session_keep_only(struct jv_session *s, uint32_t index);

#endif
