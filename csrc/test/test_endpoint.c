/* SPDX-License-Identifier: Apache-2.0 */
/* Equal endpoints hash alike; every part that makes a path makes a difference. */
#include "jv/endpoint.h"

#include <errno.h>

#include "check.h"
#include "jv/aead.h"

static const uint8_t key[16] = {1, 2, 3}, addr4[4] = {192, 0, 2, 1}, addr6[16] = {0xfe, 0x80, [15] = 1};

static struct jv_endpoint make(int family, uint16_t port, uint32_t scope) {
    struct jv_endpoint e;

    CHECK(jv_endpoint_set(&e, family, family == AF_INET ? addr4 : addr6, port, scope) == 0);
    return e;
}

static void test_set(void) {
    struct jv_endpoint e = make(AF_INET, 51820, 0);

    CHECK(e.remote.v4.sin_family == AF_INET && ntohs(e.remote.v4.sin_port) == 51820);
    CHECK(jv_endpoint_socklen(&e) == sizeof(struct sockaddr_in));
    e = make(AF_INET6, 1, 3);
    CHECK(jv_endpoint_socklen(&e) == sizeof(struct sockaddr_in6) && e.remote.v6.sin6_scope_id == 3);
    CHECK(jv_endpoint_set(&e, AF_UNIX, addr4, 1, 0) == -EAFNOSUPPORT);
}

static void test_equal(void) {
    struct jv_endpoint a = make(AF_INET6, 7, 2), b = make(AF_INET6, 7, 2);

    b.remote.v6.sin6_flowinfo = 99;
    CHECK(jv_endpoint_same_remote(&a, &b) && jv_endpoint_same_path(&a, &b));
    CHECK(jv_endpoint_hash(&a, key) == jv_endpoint_hash(&b, key));
}

static void differs(const struct jv_endpoint *a, const struct jv_endpoint *b, bool remote) {
    CHECK(jv_endpoint_same_remote(a, b) == !remote);
    CHECK(!jv_endpoint_same_path(a, b));
    CHECK(jv_endpoint_hash(a, key) != jv_endpoint_hash(b, key));
}

static void test_differences(void) {
    struct jv_endpoint a = make(AF_INET6, 7, 2), b = make(AF_INET6, 8, 2);

    differs(&a, &b, true);
    b = make(AF_INET6, 7, 3);
    differs(&a, &b, true);
    b = make(AF_INET, 7, 0);
    differs(&a, &b, true);
    b = a;
    b.remote.v6.sin6_addr.s6_addr[15]++;
    differs(&a, &b, true);
    b = a;
    b.local.v6.s6_addr[0] = 1;
    differs(&a, &b, false);
    b = a;
    b.socket = 1;
    differs(&a, &b, false);
    b = a;
    b.local_ifindex = 5; /* where it came in says nothing about the path back */
    CHECK(jv_endpoint_same_path(&a, &b));
}

static void test_keyed(void) {
    static const uint8_t other[16] = {9};
    struct jv_endpoint a = make(AF_INET, 7, 0);

    CHECK(jv_endpoint_hash(&a, key) != jv_endpoint_hash(&a, other));
}

int main(void) {
    if (jv_aead_init() != 0)
        return 1;
    RUN(test_set);
    RUN(test_equal);
    RUN(test_differences);
    RUN(test_keyed);
    return failures();
}
