/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses are compared field by field: padding and flow labels say nothing about where a peer is. */
#include "jv/endpoint.h"

#include <errno.h>
#include <sodium.h>

_Static_assert(sizeof(struct jv_endpoint) == 52, "an endpoint fits a cache line beside a session's key id");

bool jv_endpoint_same_remote(const struct jv_endpoint *a, const struct jv_endpoint *b) {
    if (a->remote.family != b->remote.family)
        return false;
    if (a->remote.family == AF_INET)
        return a->remote.v4.sin_port == b->remote.v4.sin_port &&
               a->remote.v4.sin_addr.s_addr == b->remote.v4.sin_addr.s_addr;
    if (a->remote.family == AF_INET6)
        return a->remote.v6.sin6_port == b->remote.v6.sin6_port &&
               a->remote.v6.sin6_scope_id == b->remote.v6.sin6_scope_id &&
               memcmp(&a->remote.v6.sin6_addr, &b->remote.v6.sin6_addr, sizeof(struct in6_addr)) == 0;
    return true;
}

bool jv_endpoint_same_path(const struct jv_endpoint *a, const struct jv_endpoint *b) {
    return jv_endpoint_same_remote(a, b) && a->socket == b->socket &&
           memcmp(&a->local, &b->local, sizeof(a->local)) == 0;
}

uint64_t jv_endpoint_hash(const struct jv_endpoint *e, const uint8_t key[16]) {
    /* family, port, socket, scope, remote address, local address */
    uint8_t flat[2 + 2 + 2 + 4 + 16 + 16] = {0};
    uint64_t hash;

    memcpy(flat, &e->remote.family, 2);
    memcpy(flat + 2, &e->remote.v4.sin_port, 2); /* at the same place in both families */
    memcpy(flat + 4, &e->socket, 2);
    if (e->remote.family == AF_INET6) {
        memcpy(flat + 6, &e->remote.v6.sin6_scope_id, 4);
        memcpy(flat + 10, &e->remote.v6.sin6_addr, 16);
    } else {
        memcpy(flat + 10, &e->remote.v4.sin_addr, 4);
    }
    memcpy(flat + 26, &e->local, 16);
    crypto_shorthash((unsigned char *)&hash, flat, sizeof(flat), key);
    return hash;
}

int jv_endpoint_set(struct jv_endpoint *e, int family, const uint8_t *addr, uint16_t port,
                    uint32_t scope_id) {
    if (family != AF_INET && family != AF_INET6)
        return -EAFNOSUPPORT;
    memset(e, 0, sizeof(*e));
    e->remote.family = (sa_family_t)family;
    if (family == AF_INET) {
        e->remote.v4.sin_port = htons(port);
        memcpy(&e->remote.v4.sin_addr, addr, 4);
    } else {
        e->remote.v6.sin6_port = htons(port);
        e->remote.v6.sin6_scope_id = scope_id;
        memcpy(&e->remote.v6.sin6_addr, addr, 16);
    }
    return 0;
}
