/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of packets into a burst: how they are grouped, and that a super-packet taken apart again is what came.
 */
#include "jv/coalesce.h"
#include "jv/split.h"

#include "check.h"
#include "inner.h"

#define ALL (JV_TUN_VNET | JV_TUN_TSO4 | JV_TUN_TSO6 | JV_TUN_USO4 | JV_TUN_USO6)
#define ROW 80

static uint8_t payload[65536];
static struct jv_coalesce burst;

/* A row of packets in the order of a test, and where they came to lie. */
static struct row {
    uint8_t packet[ROW][2048], before[ROW][2048];
    size_t bytes[ROW];
    unsigned n;
} row;

static void begin(unsigned features) {
    row.n = 0;
    jv_coalesce_reset(&burst, features);
}

static void add(const struct inner *x) {
    const unsigned i = row.n++;
    struct jv_ip ip;
    row.bytes[i] = inner_make(x, row.packet[i], false);
    memcpy(row.before[i], row.packet[i], row.bytes[i]);
    CHECK(jv_ip_parse(row.packet[i], row.bytes[i], &ip) == JV_IP_OK);
    jv_coalesce_add(&burst, row.packet[i], &ip);
}

/* The group's packets are row[first], row[first + step], …: byte for byte after a kernel split them again. */
static void check_group(unsigned i, unsigned first, unsigned step) {
    static uint8_t flat[65536];
    struct iovec iov[JV_COALESCE_IOV_MAX];
    const uint16_t merged = burst.group[i].merged;
    struct jv_vnet vnet;
    struct jv_split s;
    struct jv_ip ip;
    size_t total = 0;
    uint32_t bytes;
    const int pieces = jv_coalesce_take(&burst, i, &vnet, iov);
    for (int k = 0; k < pieces; total += iov[k++].iov_len)
        memcpy(flat + total, iov[k].iov_base, iov[k].iov_len);
    CHECK(pieces == merged && total == burst.group[i].total_bytes);
    CHECK(jv_ip_parse(flat, total, &ip) == JV_IP_OK && ip.total_bytes == total);
    CHECK(jv_split_begin(&s, &vnet, flat, &ip) == 0 && s.segments == merged);
    CHECK(merged == 1 || vnet.hdr_len == s.header_bytes);
    for (unsigned n = first; n < first + merged * step; n += step) {
        const uint8_t *segment = jv_split_next(&s, &bytes);
        CHECK(segment && bytes == row.bytes[n] && memcmp(segment, row.before[n], bytes) == 0);
    }
}

static struct inner some(uint8_t version, uint8_t proto) {
    return (struct inner){
        .version = version,
        .proto = proto,
        .from = 1,
        .to = 2,
        .ttl = 64,
        .id = 65530,
        .sport = 40000,
        .dport = 443,
        .seq = 0xfffffe00,
        .ack = 77,
        .flags = INNER_ACK,
        .window = 512,
        .options = proto == INNER_TCP ? 3 : 0,
        .payload = payload,
        .payload_bytes = 1000,
    };
}

static struct inner after(struct inner x) {
    x.id++;
    x.seq += (uint32_t)x.payload_bytes;
    x.payload += x.payload_bytes;
    return x;
}

static void a_run_is_one_super_packet(void) {
    for (uint8_t version = 4; version <= 6; version += 2)
        for (int proto = INNER_TCP; proto <= INNER_UDP; proto += INNER_UDP - INNER_TCP) {
            struct inner x = some(version, (uint8_t)proto);
            begin(ALL);
            for (int i = 0; i < 40; i++, x = after(x))
                add(&x);
            CHECK(burst.groups_used == 1 && burst.group[0].merged == 40);
            check_group(0, 0, 1);
        }
}

/* 64 of a datagram; 64 KB in all. */
static void its_size_is_bounded(void) {
    struct inner x = some(4, INNER_UDP);
    x.payload_bytes = 10;
    begin(ALL);
    for (int i = 0; i < 70; i++, x = after(x))
        add(&x);
    CHECK(burst.groups_used == 2 && burst.group[0].merged == 64 && burst.group[1].merged == 6);
    check_group(0, 0, 1);
    check_group(1, 64, 1);
    x = some(6, INNER_TCP);
    x.payload_bytes = 1368;
    begin(ALL);
    for (int i = 0; i < 50; i++, x = after(x), x.payload = payload)
        add(&x);
    CHECK(burst.groups_used == 2 && burst.group[0].total_bytes <= 65535 && burst.group[0].merged == 47);
    check_group(0, 0, 1);
    check_group(1, 47, 1);
}

static void a_shorter_one_closes_it(void) {
    for (int proto = INNER_TCP; proto <= INNER_UDP; proto += INNER_UDP - INNER_TCP) {
        struct inner x = some(4, (uint8_t)proto);
        begin(ALL);
        add(&x);
        x = after(x), add(&x);
        x = after(x), x.payload_bytes = 999, add(&x);
        x = after(x), x.payload_bytes = 1000, add(&x);
        CHECK(burst.groups_used == 2 && burst.group[0].merged == 3);
        check_group(0, 0, 1);
        check_group(1, 3, 1);
    }
}

static void a_longer_one_begins_anew(void) {
    struct inner x = some(4, INNER_UDP);
    begin(ALL);
    add(&x);
    x = after(x), x.payload_bytes = 1001, add(&x);
    x = after(x), add(&x);
    CHECK(burst.groups_used == 2 && burst.group[0].merged == 1 && burst.group[1].merged == 2);
    check_group(0, 0, 1);
    check_group(1, 1, 1);
}

static void push_and_fin_close_it(void) {
    static const uint8_t flags[] = {INNER_PSH, INNER_FIN, INNER_PSH | INNER_FIN};
    for (size_t i = 0; i < JV_ARRAY_LEN(flags); i++) {
        struct inner x = some(6, INNER_TCP);
        begin(ALL);
        add(&x);
        x = after(x), x.flags |= flags[i], add(&x);
        x = after(x), x.flags = INNER_ACK, add(&x);
        x = after(x), add(&x);
        CHECK(burst.groups_used == 2 && burst.group[0].merged == 2 && burst.group[1].merged == 2);
        check_group(0, 0, 1);
        check_group(1, 2, 1);
        x = some(6, INNER_TCP);
        begin(ALL);
        x.flags |= flags[i], add(&x);
        x = after(x), x.flags = INNER_ACK, add(&x);
        CHECK(burst.groups_used == 2);
    }
}

static void two_flows_do_not_disturb_each_other(void) {
    struct inner x = some(4, INNER_TCP), y = some(4, INNER_UDP);
    y.from = 9;
    begin(ALL);
    for (int i = 0; i < 20; i++) {
        add(&x);
        add(&y);
        x = after(x);
        y = after(y);
    }
    CHECK(burst.groups_used == 2 && burst.group[0].merged == 20 && burst.group[1].merged == 20);
    check_group(0, 0, 2);
    check_group(1, 1, 2);
}

/* One field of the second packet; each must keep it out of the first's super-packet. */
enum change {
    NOTHING,
    SOURCE,
    DESTINATION,
    SPORT,
    DPORT,
    TTL,
    TOS,
    DF,
    ID,
    SEQ_GAP,
    SEQ_BACK,
    ACK,
    WINDOW,
    SYN,
    RST,
    URG,
    CWR,
    ECE,
    NO_ACK,
    OPTION,
    OPTION_COUNT,
    EMPTY,
    FRAGMENT,
    IP_OPTION,
    CHANGES
};

static uint8_t flag_of(enum change what) {
    static const uint8_t flags[CHANGES] = {
        [SYN] = INNER_SYN, [RST] = INNER_RST, [URG] = INNER_URG, [CWR] = INNER_CWR, [ECE] = INNER_ECE};
    return flags[what];
}

static void change_tcp(struct inner *x, enum change what) {
    x->flags |= flag_of(what);
    switch (what) {
    case SEQ_GAP:
        x->seq++;
        break;
    case SEQ_BACK:
        x->seq -= 1000;
        break;
    case ACK:
        x->ack++;
        break;
    case WINDOW:
        x->window++;
        break;
    case OPTION:
        x->stamp++;
        break;
    case OPTION_COUNT:
        x->options++;
        break;
    case NO_ACK:
        x->flags = 0;
        break;
    default:
        break;
    }
}

static void change(struct inner *x, enum change what) {
    switch (what) {
    case SOURCE:
        x->from++;
        break;
    case DESTINATION:
        x->to++;
        break;
    case SPORT:
        x->sport++;
        break;
    case DPORT:
        x->dport++;
        break;
    case TTL:
        x->ttl--;
        break;
    case TOS:
        x->tos = 1;
        break;
    case DF:
        x->df = true;
        break;
    case ID:
        x->id++;
        break;
    case EMPTY:
        x->payload_bytes = 0;
        break;
    case FRAGMENT:
        x->fragment = 0x2000;
        break;
    case IP_OPTION:
        x->ip_options = 1;
        break;
    default:
        change_tcp(x, what);
        break;
    }
}

static bool matters(enum change what, uint8_t version, uint8_t proto) {
    if (what == NOTHING || (version == 6 && (what == DF || what == ID || what == FRAGMENT)))
        return false;
    return proto == INNER_TCP || what < SEQ_GAP || what >= EMPTY;
}

static void one_changed_field_keeps_it_out(void) {
    for (uint8_t version = 4; version <= 6; version += 2)
        for (int proto = INNER_TCP; proto <= INNER_UDP; proto += INNER_UDP - INNER_TCP)
            for (enum change what = NOTHING; what < CHANGES; what++) {
                const struct inner x = some(version, (uint8_t)proto);
                struct inner y = after(x);
                change(&y, what);
                begin(ALL);
                add(&x);
                add(&y);
                CHECK(burst.groups_used == (matters(what, version, (uint8_t)proto) ? 2 : 1));
                for (unsigned i = 0; i < burst.groups_used; i++)
                    check_group(i, i, 1);
            }
}

/* The same fields in the first packet of two that are alike: SYN, RST, URG and CWR never begin one either. */
static void what_is_never_part_of_one(void) {
    static const enum change never[] = {SYN, RST, URG, CWR, NO_ACK, EMPTY, FRAGMENT, IP_OPTION};
    for (size_t i = 0; i < JV_ARRAY_LEN(never); i++) {
        struct inner x = some(4, INNER_TCP);
        change(&x, never[i]);
        begin(ALL);
        add(&x);
        x = after(x), add(&x);
        CHECK(burst.groups_used == 2);
    }
}

/* Beside DF the identification means nothing (RFC 6864), and many hosts send 0. */
static void identification_beside_df(void) {
    struct inner x = some(4, INNER_TCP);
    x.df = true;
    x.id = 0;
    begin(ALL);
    add(&x);
    x = after(x), x.id = 0, add(&x);
    CHECK(burst.groups_used == 1);
}

static void spoil(unsigned i, size_t at) {
    struct jv_ip ip;
    row.packet[i][at] ^= 1;
    row.before[i][at] ^= 1;
    CHECK(jv_ip_parse(row.packet[i], row.bytes[i], &ip) == JV_IP_OK);
    jv_coalesce_add(&burst, row.packet[i], &ip);
}

/* Any byte that arrived wrong: the packet goes alone, untouched, for the kernel to refuse. */
static void a_wrong_checksum_keeps_it_out(void) {
    static const size_t where[] = {10, 11, 36, 37, 60, 1019, 1047}; /* IP's, TCP's, payload */
    for (unsigned wrong = 0; wrong < 3; wrong++)
        for (size_t i = 0; i < JV_ARRAY_LEN(where); i++) {
            struct inner x = some(4, INNER_TCP);
            begin(ALL);
            for (unsigned n = 0; n < 3; n++, x = after(x)) {
                if (n != wrong) {
                    add(&x);
                    continue;
                }
                row.bytes[n] = inner_make(&x, row.packet[n], false);
                memcpy(row.before[n], row.packet[n], row.bytes[n]);
                row.n++;
                spoil(n, where[i]);
            }
            CHECK(burst.groups_used == (wrong == 1 ? 3 : 2));
            for (unsigned g = 0, first = 0; g < burst.groups_used; first += burst.group[g++].merged)
                check_group(g, first, 1);
        }
}

static void a_datagram_without_checksum_goes_alone(void) {
    struct inner x = some(4, INNER_UDP);
    struct jv_ip ip;
    begin(ALL);
    for (unsigned n = 0; n < 2; n++, x = after(x)) {
        row.bytes[n] = inner_make(&x, row.packet[n], false);
        memset(row.packet[n] + 26, 0, 2);
        CHECK(jv_ip_parse(row.packet[n], row.bytes[n], &ip) == JV_IP_OK);
        jv_coalesce_add(&burst, row.packet[n], &ip);
    }
    CHECK(burst.groups_used == 2);
}

/* What stands between two packets of a flow is not overtaken by the second. */
static void nothing_is_overtaken(void) {
    static const enum change between[] = {SYN, EMPTY, FRAGMENT, IP_OPTION, SEQ_BACK};
    for (size_t i = 0; i < JV_ARRAY_LEN(between); i++) {
        const struct inner x = some(4, INNER_TCP), z = after(x);
        struct inner y = x;
        change(&y, between[i]);
        begin(ALL);
        add(&x);
        add(&y);
        add(&z);
        CHECK(burst.groups_used == 3);
    }
}

static void only_what_the_device_has(void) {
    static const unsigned one[] = {JV_TUN_TSO4, JV_TUN_TSO6, JV_TUN_USO4, JV_TUN_USO6};
    for (unsigned k = 0; k < 4; k++) {
        struct inner x = some(k % 2 ? 6 : 4, k < 2 ? INNER_TCP : INNER_UDP);
        for (int without = 0; without <= 1; without++) {
            begin(without ? ALL & ~one[k] : JV_TUN_VNET | one[k]);
            const struct inner y = after(x);
            add(&x);
            add(&y);
            CHECK(burst.groups_used == (without ? 2 : 1));
        }
    }
}

static void it_is_full_at_its_bound(void) {
    static uint8_t packets[JV_COALESCE_PACKETS][64];
    const struct inner x = {.version = 4, .proto = 1, .from = 1, .to = 2, .ttl = 9};
    begin(ALL);
    for (unsigned i = 0; i < JV_COALESCE_PACKETS; i++) {
        struct jv_ip ip;
        CHECK(!jv_coalesce_full(&burst));
        CHECK(jv_ip_parse(packets[i], inner_make(&x, packets[i], false), &ip) == JV_IP_OK);
        jv_coalesce_add(&burst, packets[i], &ip);
    }
    CHECK(jv_coalesce_full(&burst) && burst.groups_used == JV_COALESCE_PACKETS);
    jv_coalesce_reset(&burst, ALL);
    CHECK(!jv_coalesce_full(&burst));
}

int main(void) {
    uint64_t state = 5;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)next_random(&state);
    RUN(a_run_is_one_super_packet);
    RUN(its_size_is_bounded);
    RUN(a_shorter_one_closes_it);
    RUN(a_longer_one_begins_anew);
    RUN(push_and_fin_close_it);
    RUN(two_flows_do_not_disturb_each_other);
    RUN(one_changed_field_keeps_it_out);
    RUN(what_is_never_part_of_one);
    RUN(identification_beside_df);
    RUN(a_wrong_checksum_keeps_it_out);
    RUN(a_datagram_without_checksum_goes_alone);
    RUN(nothing_is_overtaken);
    RUN(only_what_the_device_has);
    RUN(it_is_full_at_its_bound);
    return failures();
}
