/* SPDX-License-Identifier: Apache-2.0 */
/* What the data plane counts. A drop counter is named for its fault, and every drop counts in exactly one.
 * Each thread has its own set; a reader adds them up. */
#ifndef JV_COUNTERS_H
#define JV_COUNTERS_H

#include "jv/common.h"

/* clang-format off */
#define JV_COUNTERS(X) \
	/* UDP, before anything is believed */ \
	X(RX_DATAGRAMS, rx_datagrams) \
	X(RX_BYTES, rx_bytes) \
	X(TX_DATAGRAMS, tx_datagrams) \
	X(TX_BYTES, tx_bytes) \
	X(RX_CALLS, rx_calls)                     /* recvmmsg that returned datagrams */ \
	X(TX_CALLS, tx_calls)                     /* sendmmsg */ \
	X(RX_PAUSES, rx_pauses)                   /* short waits for more single datagrams to share a call */ \
	/* TUN: rx is what the host sends into the tunnel */ \
	X(TUN_RX_PACKETS, tun_rx_packets) \
	X(TUN_RX_BYTES, tun_rx_bytes) \
	X(TUN_TX_PACKETS, tun_tx_packets) \
	X(TUN_TX_BYTES, tun_tx_bytes) \
	X(TUN_RX_SUPERS, tun_rx_supers)           /* reads of several packets at once; these count above, each */ \
	X(TUN_TX_SUPERS, tun_tx_supers)           /* writes of several */ \
	/* transport messages that authenticated */ \
	X(RX_DATA, rx_data) \
	X(RX_KEEPALIVE, rx_keepalive) \
	X(RX_HANDSHAKE, rx_handshake)             /* types 1 to 3, handed up unverified */ \
	/* datagrams refused */ \
	X(DROP_RX_TRUNCATED, drop_rx_truncated)   /* larger than the receive buffer */ \
	X(DROP_SHORT, drop_short)                 /* less than its type's least length */ \
	X(DROP_TYPE, drop_type)                   /* unknown message type or non-zero reserved bytes */ \
	X(DROP_LENGTH, drop_length)               /* a length that its type cannot have */ \
	X(DROP_SUITE, drop_suite)                 /* type 5 under a suite that was not chosen */ \
	X(DROP_INDEX, drop_index)                 /* receiver index of no session */ \
	X(DROP_STALE_GENERATION, drop_stale_generation) \
	X(DROP_NO_KEY, drop_no_key)               /* session without a keypair for it */ \
	X(DROP_KEY_EXPIRED, drop_key_expired)     /* too old, or counter beyond its limit */ \
	X(DROP_AUTH, drop_auth)                   /* tag does not verify */ \
	X(DROP_REPLAY_SEEN, drop_replay_seen) \
	X(DROP_REPLAY_OLD, drop_replay_old)       /* below the window */ \
	X(WINDOWS_GROWN, windows_grown)           /* keypairs whose replay window was made larger */ \
	/* inner packets refused, out of the tunnel */ \
	X(DROP_INNER_SHORT, drop_inner_short) \
	X(DROP_INNER_VERSION, drop_inner_version) \
	X(DROP_INNER_LENGTH, drop_inner_length) \
	X(DROP_SOURCE, drop_source)               /* inner source not allowed to this peer */ \
	X(DROP_UNGREETED, drop_ungreeted)         /* before the HELLO of a peer that must say one */ \
	X(DROP_TUN_WRITE, drop_tun_write) \
	/* inner packets refused, into the tunnel */ \
	X(DROP_TUN_PACKET, drop_tun_packet)       /* malformed packet from the host */ \
	X(DROP_NO_ROUTE, drop_no_route)           /* destination in nobody's allowed addresses */ \
	X(DROP_NO_ENDPOINT, drop_no_endpoint)     /* peer whose address is not known yet */ \
	X(DROP_MTU, drop_mtu)                     /* larger than the path allows */ \
	X(DROP_STAGING_FULL, drop_staging_full)   /* waiting for a handshake, queue full */ \
	/* sending */ \
	X(DROP_TX_EAGAIN, drop_tx_eagain)         /* socket buffer full */ \
	X(DROP_TX_ERROR, drop_tx_error)           /* any other error of the socket */ \
	X(DROP_TX_TRAIN, drop_tx_train)           /* a train that no socket may carry */ \
	X(TX_GSO_FALLBACK, tx_gso_fallback)       /* trains resent piecewise after an error with UDP_SEGMENT */ \
	X(TX_LOCAL_STALE, tx_local_stale)         /* trains resent without a source address that is gone */ \
	/* rings towards Python */ \
	X(DROP_HANDSHAKE_RATE, drop_handshake_rate)       /* more of a kind of source than Python can check (gate.h) */ \
	X(DROP_HANDSHAKE_SOURCE, drop_handshake_source)   /* more from one source than its share, while others wait */ \
	X(DROP_RING_HANDSHAKE_FULL, drop_ring_handshake_full) \
	X(DROP_RING_EVENT_FULL, drop_ring_event_full) \
	X(REPORTS_SHED, reports_shed)             /* measurements that Python has no time for */ \
	/* answers to inner packets */ \
	X(ICMP_SENT, icmp_sent) \
	X(ICMP_LIMITED, icmp_limited) \
	/* jump frames and paths */ \
	X(RX_CONTROL, rx_control)                 /* messages of jump frames that authenticated */ \
	X(TX_CONTROL, tx_control) \
	X(RX_PROBES, rx_probes) \
	X(TX_PROBES, tx_probes) \
	X(TX_DUPLICATES, tx_duplicates)           /* datagrams sent on a second path as well */ \
	X(TX_COPIES, tx_copies)                   /* datagrams copied to an address under validation */ \
	X(DROP_CONTROL_FRAMES, drop_control_frames)   /* a message that breaks a rule of its frames */ \
	X(DROP_CONTROL_RATE, drop_control_rate) \
	X(DROP_CONTROL_PATH, drop_control_path)   /* a probe or answer from an address that is no path */ \
	X(DROP_CONTROL_BUDGET, drop_control_budget)   /* beyond three times what came from there */ \
	X(DROP_CONTROL_STALE, drop_control_stale)     /* an answer to no probe of ours, or a very old one */ \
	X(DROP_RING_CONTROL_FULL, drop_ring_control_full) \
	X(DROP_CONTROL_BEHIND, drop_control_behind)   /* others of its session wait, and Python is behind: sent again anyway */ \
	X(NOTICE_LIMITED, notice_limited)         /* new addresses not told to Python, 10/s per session */
/* clang-format on */

enum jv_counter {
#define JV_COUNTER_ENUM(upper, lower) JV_CTR_##upper,
    JV_COUNTERS(JV_COUNTER_ENUM)
#undef JV_COUNTER_ENUM
        JV_COUNTER_COUNT
};

struct jv_counters {
    uint64_t n[JV_COUNTER_COUNT];
};

static inline void jv_count(struct jv_counters *c, enum jv_counter which) {
    c->n[which]++;
}

static inline void jv_count_add(struct jv_counters *c, enum jv_counter which, uint64_t by) {
    c->n[which] += by;
}

/* Lower-case name of a counter, e.g. "drop_auth"; NULL beyond the last. */
JV_API const char *jv_counter_name(unsigned which);
JV_API void jv_counters_sum(struct jv_counters *into, const struct jv_counters *from) JV_NONNULL;

#endif
