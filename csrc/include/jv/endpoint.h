/* SPDX-License-Identifier: Apache-2.0 */
/* Where a datagram came from and by which of our addresses, so that the answer leaves the same way (a host
 * with two addresses otherwise answers from the wrong one). All bytes are defined: unused ones are zero. */
#ifndef JV_ENDPOINT_H
#define JV_ENDPOINT_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "jv/common.h"

struct jv_endpoint {
    union {
        sa_family_t family; /* AF_UNSPEC = no endpoint */
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } remote; /* msg_name as it is */
    union {
        struct in_addr v4;
        struct in6_addr v6;
    } local;                /* all zero = the kernel chooses */
    uint32_t local_ifindex; /* 0 = any */
    uint16_t socket;        /* which of our sockets; the caller's numbering */
    uint16_t reserved;      /* zero */
};

static inline socklen_t jv_endpoint_socklen(const struct jv_endpoint *e) {
    return e->remote.family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

/* Same remote address and port (and scope, for link-local IPv6). */
JV_API bool jv_endpoint_same_remote(const struct jv_endpoint *a,
                                    const struct jv_endpoint *b) JV_NONNULL JV_PURE;
/* Same remote, same local address, same socket: the same path. */
JV_API bool jv_endpoint_same_path(const struct jv_endpoint *a,
                                  const struct jv_endpoint *b) JV_NONNULL JV_PURE;

/* SipHash-2-4 of what same_path compares. key: 16 random bytes of this process, so that nobody outside can
 * choose addresses that collide. */
JV_API uint64_t jv_endpoint_hash(const struct jv_endpoint *e, const uint8_t key[16]) JV_NONNULL JV_PURE;

/* addr: 4 or 16 bytes in network order; family: AF_INET or AF_INET6. 0 or -EAFNOSUPPORT. Local side: any. */
JV_API int jv_endpoint_set(struct jv_endpoint *e, int family, const uint8_t *addr, uint16_t port,
                           uint32_t scope_id) JV_NONNULL JV_WARN_UNUSED;

#endif
