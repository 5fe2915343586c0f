/* SPDX-License-Identifier: Apache-2.0 */
/* Jump frames on the wire: what is handed up, what is refused, and that a copy changes nothing. */
#include "bed.h"

static const uint8_t ping[] = {1, JV_FRAME_PING, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8};
static const uint8_t refuse[] = {
    1, JV_FRAME_REFUSE, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 82, 0, 0, 0, 0, 0};

static int send_frames(struct bed *b, struct end *x, uint8_t path_id, const uint8_t *plain, size_t len) {
    const struct jv_outgoing m = {.slot = x->slot, .plain = plain, .len = len, .path_id = path_id};
    return jv_engine_send_control(x->engine, &m, b->now_ns);
}

/* The next datagram that lies in a socket, and its sender's place in front of the engine. */
static size_t capture(int fd, uint8_t *datagram, size_t room) {
    const ssize_t n = recv(fd, datagram, room, 0);
    CHECK(n > 0);
    return n > 0 ? (size_t)n : 0;
}

static void inject(const struct end *from, int path, const struct end *to, const uint8_t *datagram,
                   size_t n) {
    const struct sockaddr_in *at = &to->at[path].remote.v4;
    CHECK(sendto(from->udp[path], datagram, n, 0, (const struct sockaddr *)at, sizeof *at) == (ssize_t)n);
}

static int stranger(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK(bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

static void inject_from(int fd, const struct end *to, const uint8_t *datagram, size_t n) {
    const struct sockaddr_in *at = &to->at[0].remote.v4;
    CHECK(sendto(fd, datagram, n, 0, (const struct sockaddr *)at, sizeof *at) == (ssize_t)n);
}

static void control_goes_up_with_its_path(void) {
    struct bed b;
    bed_open(&b);
    CHECK(send_frames(&b, &b.client, 2, ping, sizeof ping) == 0);
    bed_settle(&b);
    const struct seen *seen = bed_last(&b.gateway, JV_EVENT_CONTROL);
    CHECK(seen && seen->event.len == sizeof ping && memcmp(seen->data, ping, sizeof ping) == 0);
    CHECK(seen && seen->event.reason == 5 && seen->event.path_id == 2 && seen->event.value == 2);
    CHECK(seen && seen->event.local_index == b.gateway.index && seen->event.slot == b.gateway.slot);
    CHECK(seen && jv_endpoint_same_remote(&seen->event.from, &b.client.at[1]));
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 0);
    bed_close(&b);
}

static void an_opening_travels_as_data(void) {
    struct bed b;
    bed_open(&b);
    struct jv_outgoing m = {
        .slot = b.gateway.slot, .plain = refuse, .len = sizeof refuse, .path_id = 1, .as_data = true};
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0);
    bed_settle(&b);
    const struct seen *seen = bed_last(&b.client, JV_EVENT_CONTROL);
    CHECK(seen && seen->event.reason == 4 && seen->event.len == 32); /* padded to 16 */
    CHECK(seen && memcmp(seen->data, refuse, sizeof refuse) == 0);
    CHECK(bed_take(&b.client) == 0);
    /* The same as control, a ping as data, and a refusal towards the gateway all break a rule. */
    m.as_data = false;
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0);
    m = (struct jv_outgoing){
        .slot = b.gateway.slot, .plain = ping, .len = sizeof ping, .path_id = 1, .as_data = true};
    CHECK(jv_engine_send_control(b.gateway.engine, &m, b.now_ns) == 0);
    m = (struct jv_outgoing){
        .slot = b.client.slot, .plain = refuse, .len = sizeof refuse, .path_id = 1, .as_data = true};
    CHECK(jv_engine_send_control(b.client.engine, &m, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.client, JV_EVENT_CONTROL, -1) == 1 && bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 0);
    CHECK(bed_count(&b.client, JV_CTR_DROP_CONTROL_FRAMES) == 2);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_CONTROL_FRAMES) == 1);
    bed_close(&b);
}

static void bad_calls_are_refused(void) {
    struct bed b;
    uint8_t long_message[1201] = {1};
    bed_open(&b);
    CHECK(send_frames(&b, &b.client, 1, long_message, sizeof long_message) == -EINVAL);
    CHECK(send_frames(&b, &b.client, 1, ping, 0) == -EINVAL);
    CHECK(send_frames(&b, &b.client, 1, ping + 1, 4) == -EINVAL);
    CHECK(send_frames(&b, &b.client, 9, ping, sizeof ping) == -EDESTADDRREQ);
    struct jv_outgoing m = {.slot = 7, .plain = ping, .len = sizeof ping};
    CHECK(jv_engine_send_control(b.client.engine, &m, b.now_ns) == -ENOENT);
    m.slot = b.client.slot;
    m.local_index = 12345;
    CHECK(jv_engine_send_control(b.client.engine, &m, b.now_ns) == -ENOKEY);
    m.local_index = 0;
    m.to = &(struct jv_endpoint){.remote.v4 = {.sin_family = AF_INET, .sin_port = 9}};
    CHECK(jv_engine_send_control(b.client.engine, &m, b.now_ns) == -EACCES);
    b.now_ns += 200 * SECOND_NS;
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == -ENOKEY);
    bed_close(&b);
}

static void a_replayed_control_message_does_nothing(void) {
    struct bed b;
    uint8_t datagram[256];
    bed_open(&b);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    const size_t n = capture(b.gateway.udp[0], datagram, sizeof datagram);
    for (int i = 0; i < 50; i++)
        inject(&b.client, 0, &b.gateway, datagram, n);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_REPLAY_SEEN) == 49);
    CHECK(bed_stats(&b, &b.gateway, 1).rx_packets >= 50); /* arrived counts copies */
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 0);
    bed_close(&b);
}

static void a_copy_from_elsewhere_is_only_noticed(void) {
    struct bed b;
    uint8_t datagram[256];
    const int fd = stranger();
    bed_open(&b);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    const size_t n = capture(b.gateway.udp[0], datagram, sizeof datagram);
    inject_from(fd, &b.gateway, datagram, n); /* the forwarder is faster */
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1);
    CHECK(bed_last(&b.gateway, JV_EVENT_NOTICE)->event.flags == JV_NOTICE_NEWEST);
    CHECK(bed_last(&b.gateway, JV_EVENT_NOTICE)->event.path_id == 1);
    inject(&b.client, 0, &b.gateway, datagram, n); /* the real one: its path is known */
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 1);
    const int other = stranger();
    inject_from(other, &b.gateway, datagram, n);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 2);
    CHECK(bed_last(&b.gateway, JV_EVENT_NOTICE)->event.flags == JV_NOTICE_COPY);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1);
    b.now_ns += 2 * SECOND_NS; /* too old to be a race */
    inject_from(other, &b.gateway, datagram, n);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 2);
    close(fd);
    close(other);
    bed_close(&b);
}

static void the_rate_is_bounded_per_path(void) {
    struct bed b;
    bed_open(&b);
    for (int i = 0; i < 150; i++) {
        CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
        bed_step(&b, 0);
    }
    CHECK(send_frames(&b, &b.client, 2, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, 1) == 100);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, 2) == 1);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_CONTROL_RATE) == 50);
    b.now_ns += 100 * MS;
    for (int i = 0; i < 20; i++)
        CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, 1) == 110);
    bed_close(&b);
}

static void notices_are_bounded(void) {
    struct bed b;
    uint8_t datagram[256];
    bed_open(&b);
    for (int i = 0; i < 30; i++) {
        const int fd = stranger();
        CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
        inject_from(fd, &b.gateway, datagram, capture(b.gateway.udp[0], datagram, sizeof datagram));
        bed_step(&b, 0);
        close(fd);
    }
    CHECK(bed_seen(&b.gateway, JV_EVENT_NOTICE, -1) == 10);
    CHECK(bed_count(&b.gateway, JV_CTR_NOTICE_LIMITED) == 20);
    bed_close(&b);
}

/* The control key and its counter are apart from the data's, and a stock keypair has none. */
static void forged_and_foreign_messages_are_refused(void) {
    struct bed b;
    uint8_t datagram[256];
    struct jv_session_stats before, after;
    bed_open(&b);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    const size_t n = capture(b.gateway.udp[0], datagram, sizeof datagram);
    CHECK(jv_engine_stats(b.gateway.engine, b.gateway.slot, &before) == 0);
    for (size_t i = 0; i < n; i++) { /* any byte of the header or the body */
        datagram[i] ^= 1;
        inject(&b.client, 0, &b.gateway, datagram, n);
        bed_step(&b, 0);
        datagram[i] ^= 1;
    }
    datagram[1] = 3; /* a data suite nobody chose */
    inject(&b.client, 0, &b.gateway, datagram, n);
    bed_settle(&b);
    CHECK(jv_engine_stats(b.gateway.engine, b.gateway.slot, &after) == 0);
    CHECK(before.rx_packets == after.rx_packets && before.rx_bytes == after.rx_bytes);
    CHECK(before.tx_packets == after.tx_packets && bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 0);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_SUITE) == 2);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_AUTH) >= n - 8);
    bed_close(&b);
}

static void garbage_frames_are_counted(void) {
    struct bed b;
    uint64_t state = 5;
    bed_open(&b);
    for (int i = 0; i < 2000; i++) {
        uint8_t plain[128] = {1};
        const size_t n = 1 + next_random(&state) % (sizeof plain - 1);
        for (size_t k = 1; k < n; k++)
            plain[k] = (uint8_t)(next_random(&state) & (i % 2 ? 0xff : 0x0f));
        (void)send_frames(&b, &b.client, 1, plain, n);
        bed_step(&b, 20 * MS);
    }
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_CONTROL_FRAMES) > 1000);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_AUTH) == 0);
    bed_close(&b);
}

static uint32_t fresh_index(struct end *x) {
    uint32_t index = 0;
    CHECK(jv_engine_new_index(x->engine, x->slot, &index) == 0);
    return index;
}

/* A rekey: the gateway goes on sealing under the old key until Python has seen whose the new one is. */
static void a_held_keypair_waits_for_its_hello(void) {
    struct bed b;
    static const uint8_t hello_key[32] = {77}, back_key[32] = {78};
    struct jv_session_stats stats;
    bed_open(&b);
    const uint32_t of_gateway = fresh_index(&b.gateway), of_client = fresh_index(&b.client);
    const struct jv_keys gateway = {.send = back_key,
                                    .recv = hello_key,
                                    .control_send = back_key,
                                    .control_recv = hello_key,
                                    .local_index = of_gateway,
                                    .remote_index = of_client,
                                    .hold = true};
    const struct jv_keys client = {.send = hello_key,
                                   .recv = back_key,
                                   .control_send = hello_key,
                                   .control_recv = back_key,
                                   .local_index = of_client,
                                   .remote_index = of_gateway,
                                   .initiator = true,
                                   .hold = true};
    CHECK(jv_engine_install(b.gateway.engine, b.gateway.slot, &gateway, b.now_ns) == 0);
    CHECK(jv_engine_promote(b.gateway.engine, b.gateway.slot, of_gateway, b.now_ns) == -ENOENT);
    CHECK(jv_engine_install(b.client.engine, b.client.slot, &client, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONFIRMED, -1) == 0);     /* nothing goes ahead of the HELLO */
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0); /* before WELCOME: under the old one */
    bed_settle(&b);
    CHECK(bed_last(&b.gateway, JV_EVENT_CONTROL)->event.local_index == b.gateway.index);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONFIRMED, -1) == 0);
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1); /* received under it at once */
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONFIRMED, -1) == 1);
    CHECK(bed_last(&b.gateway, JV_EVENT_CONFIRMED)->event.local_index == of_gateway);
    CHECK(jv_engine_stats(b.gateway.engine, b.gateway.slot, &stats) == 0 && stats.has_next);
    bed_put(&b, &b.gateway, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.client) == 1); /* under the old one */
    CHECK(jv_engine_promote(b.gateway.engine, b.gateway.slot, of_gateway, b.now_ns) == 0);
    CHECK(jv_engine_promote(b.gateway.engine, b.gateway.slot, of_gateway, b.now_ns) == 0);
    CHECK(jv_engine_stats(b.gateway.engine, b.gateway.slot, &stats) == 0 && !stats.has_next);
    bed_put(&b, &b.gateway, 100);
    CHECK(jv_engine_promote(b.client.engine, b.client.slot, of_client, b.now_ns) == 0);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.client) == 1 && bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 2);
    CHECK(bed_last(&b.gateway, JV_EVENT_CONTROL)->event.local_index == of_gateway);
    CHECK(bed_count(&b.client, JV_CTR_DROP_AUTH) == 0 && bed_count(&b.gateway, JV_CTR_DROP_AUTH) == 0);
    bed_close(&b);
}

/* A peer that must speak jump frames: frames pass, inner packets do not, and those that waited leave after.
 */
static void a_mute_session_carries_frames_only(void) {
    struct bed b;
    bed_open(&b);
    CHECK(jv_engine_mute(b.gateway.engine, 7, true, b.now_ns) == -ENOENT);
    CHECK(jv_engine_mute(b.gateway.engine, b.gateway.slot, true, b.now_ns) == 0);
    CHECK(jv_engine_mute(b.client.engine, b.client.slot, true, b.now_ns) == 0);
    bed_put(&b, &b.gateway, 100);
    bed_put(&b, &b.client, 100);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1);
    CHECK(bed_take(&b.gateway) == 0 && bed_take(&b.client) == 0);
    /* A key is there: waiting for a greeting asks for no handshake. */
    CHECK(bed_seen(&b.gateway, JV_EVENT_WANTED, -1) == 0 && bed_seen(&b.client, JV_EVENT_WANTED, -1) == 0);
    CHECK(jv_engine_mute(b.client.engine, b.client.slot, false, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 0 && bed_count(&b.gateway, JV_CTR_DROP_UNGREETED) == 1);
    CHECK(jv_engine_mute(b.gateway.engine, b.gateway.slot, false, b.now_ns) == 0);
    bed_settle(&b);
    CHECK(bed_take(&b.client) == 1);
    bed_put(&b, &b.client, 100);
    bed_settle(&b);
    CHECK(bed_take(&b.gateway) == 1 && bed_count(&b.gateway, JV_CTR_DROP_UNGREETED) == 1);
    bed_close(&b);
}

static void keys_of_an_ended_session_are_wiped(void) {
    struct bed b;
    struct jv_path_stats stats;
    bed_open(&b);
    CHECK(jv_engine_erase_keys(b.gateway.engine, b.gateway.slot, b.gateway.index) == 0);
    CHECK(jv_engine_path_stats(b.gateway.engine, b.gateway.slot, 1, b.now_ns, &stats) == -ENOENT);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1); /* the kept keypair still opens */
    CHECK(jv_engine_erase_keys(b.gateway.engine, b.gateway.slot, 0) == 0);
    CHECK(send_frames(&b, &b.client, 1, ping, sizeof ping) == 0);
    bed_settle(&b);
    CHECK(bed_seen(&b.gateway, JV_EVENT_CONTROL, -1) == 1);
    CHECK(bed_count(&b.gateway, JV_CTR_DROP_STALE_GENERATION) == 1);
    bed_close(&b);
}

int main(void) {
    RUN(control_goes_up_with_its_path);
    RUN(an_opening_travels_as_data);
    RUN(bad_calls_are_refused);
    RUN(a_replayed_control_message_does_nothing);
    RUN(a_copy_from_elsewhere_is_only_noticed);
    RUN(the_rate_is_bounded_per_path);
    RUN(notices_are_bounded);
    RUN(forged_and_foreign_messages_are_refused);
    RUN(garbage_frames_are_counted);
    RUN(a_held_keypair_waits_for_its_hello);
    RUN(a_mute_session_carries_frames_only);
    RUN(keys_of_an_ended_session_are_wiped);
    return failures();
}
