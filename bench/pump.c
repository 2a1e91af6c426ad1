/* An MQTT 3.1.1 publisher that is never the limit: pump HOST PORT CLIENTS QOS WINDOW MESSAGES [USER …]
 * CLIENTS connections share MESSAGES messages; each keeps up to WINDOW of them unacknowledged (QoS 1). USER … are
 * the user names of the clients, in turn. Prints how many it sent, how many were acknowledged, and the seconds from
 * the first PUBLISH to the last PUBACK (QoS 0: until the last byte is with the kernel).
 * With CLIENTS idle connections instead: pump HOST PORT CLIENTS idle SECONDS. Prints how many were let in. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OUT = 64 * 1024, IN = 64 * 1024, LARGEST = 1024 };

struct client {
    int fd, number;
    long sent, acked, share;
    size_t begin, end; /* of what waits in `out` */
    unsigned char out[OUT], rest[4];
    int resting, writing;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static size_t head(unsigned char *at, unsigned char first, size_t body) {
    size_t n = 0;
    at[n++] = first;
    do {
        unsigned char digit = body % 128;
        body /= 128;
        at[n++] = body ? digit | 128 : digit;
    } while (body);
    return n;
}

static size_t text(unsigned char *at, const char *words, size_t length) {
    at[0] = length >> 8;
    at[1] = length & 255;
    memcpy(at + 2, words, length);
    return length + 2;
}

static size_t hello(unsigned char *at, int number, const char *user) {
    unsigned char body[512];
    char id[64];
    size_t n = text(body, "MQTT", 4);
    body[n++] = 4;
    body[n++] = user ? 0x82 : 2;
    body[n++] = 0;
    body[n++] = 0;
    n += text(body + n, id, snprintf(id, sizeof id, "drone-%03d", number));
    if (user) n += text(body + n, user, strlen(user));
    size_t h = head(at, 0x10, n);
    memcpy(at + h, body, n);
    return h + n;
}

/* Each client comes from an address of its own, as devices do: what a device may send in a second is counted by it. */
static int dial(const char *host, int port, int number) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7f000000u + 256 + number % 60000);
    if (fd >= 0) bind(fd, (struct sockaddr *)&from, sizeof from);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

static int welcome(int fd) {
    unsigned char answer[4];
    return recv(fd, answer, 4, MSG_WAITALL) == 4 && answer[0] == 0x20 && answer[3] == 0;
}

static void fill(struct client *c, int qos, long window) {
    if (c->begin == c->end) c->begin = c->end = 0;
    while (c->sent < c->share && (qos == 0 || c->sent - c->acked < window) && c->end + LARGEST < OUT) {
        char body[512];
        long i = c->sent;
        size_t n = snprintf(body, sizeof body,
            "{\"mid\": \"drone-%03d-%ld\", \"battery_pct\": %.1f, \"temp_c\": 41.3, \"rssi_dbm\": -61, \"snr_db\": 18.2, "
            "\"vibration_mps2\": 0.7, \"link_quality_pct\": 97, \"uptime_s\": %ld}", c->number, i, 40 + i % 500 / 10.0, i);
        static const char topic[] = "v1/devices/me/telemetry";
        size_t size = 2 + sizeof topic - 1 + (qos ? 2 : 0) + n;
        unsigned char *at = c->out + c->end;
        at += head(at, 0x30 | qos << 1, size);
        at += text(at, topic, sizeof topic - 1);
        if (qos) {
            unsigned id = i % 65535 + 1;
            *at++ = id >> 8;
            *at++ = id & 255;
        }
        memcpy(at, body, n);
        c->end = at + n - c->out;
        c->sent++;
    }
}

static int flush(struct client *c) {
    while (c->begin < c->end) {
        ssize_t n = send(c->fd, c->out + c->begin, c->end - c->begin, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return 0;
        if (n <= 0) {
            perror("send");
            exit(1);
        }
        c->begin += n;
    }
    return 1;
}

static void listen_to(struct client *c) {
    static unsigned char in[IN + 4];
    memcpy(in, c->rest, c->resting);
    ssize_t n = recv(c->fd, in + c->resting, IN, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        fprintf(stderr, "client %d was cut off after %ld of %ld\n", c->number, c->acked, c->share);
        exit(1);
    }
    n += c->resting;
    ssize_t at = 0;
    for (; at + 4 <= n; at += 4) {
        if (in[at] != 0x40) {
            fprintf(stderr, "client %d heard %02x\n", c->number, in[at]);
            exit(1);
        }
        c->acked++;
    }
    c->resting = n - at;
    memcpy(c->rest, in + at, c->resting);
}

static int idle(const char *host, int port, int clients, double seconds) {
    struct rlimit many = {clients + 64, clients + 64};
    setrlimit(RLIMIT_NOFILE, &many);
    int in = 0;
    for (int i = 0; i < clients; i++) {
        unsigned char words[600];
        int fd = dial(host, port, i);
        size_t n = hello(words, i, NULL);
        if (send(fd, words, n, 0) == (ssize_t)n && welcome(fd)) in++;
    }
    printf("%d\n", in);
    fflush(stdout);
    usleep(seconds * 1e6);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 6 && !strcmp(argv[4], "idle")) return idle(argv[1], atoi(argv[2]), atoi(argv[3]), atof(argv[5]));
    if (argc < 7) return 2;
    int clients = atoi(argv[3]), qos = atoi(argv[4]);
    long window = atol(argv[5]), messages = atol(argv[6]);
    struct client *all = calloc(clients, sizeof *all);
    int poll = epoll_create1(0);
    for (int i = 0; i < clients; i++) {
        struct client *c = all + i;
        c->fd = dial(argv[1], atoi(argv[2]), i);
        c->number = i;
        c->share = messages / clients + (i < messages % clients);
        unsigned char words[600];
        size_t n = hello(words, i, argc > 7 ? argv[7 + i % (argc - 7)] : NULL);
        if (send(c->fd, words, n, 0) != (ssize_t)n || !welcome(c->fd)) {
            fprintf(stderr, "client %d was not let in\n", i);
            return 1;
        }
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event wish = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &wish);
        c->writing = 1;
    }
    double start = now();
    int busy = clients;
    while (busy) {
        struct epoll_event found[64];
        int n = epoll_wait(poll, found, 64, -1);
        for (int i = 0; i < n; i++) {
            struct client *c = found[i].data.ptr;
            if (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) listen_to(c);
            int clear;
            do {
                fill(c, qos, window);
                clear = flush(c);
            } while (clear && c->sent < c->share && (qos == 0 || c->sent - c->acked < window));
            int writing = !clear;
            if (writing != c->writing) {
                struct epoll_event wish = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
                epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, &wish);
                c->writing = writing;
            }
            if (clear && c->sent == c->share && (qos == 0 || c->acked == c->share)) {
                epoll_ctl(poll, EPOLL_CTL_DEL, c->fd, NULL);
                busy--;
            }
        }
    }
    double took = now() - start;
    long sent = 0, acked = 0;
    for (int i = 0; i < clients; i++) {
        sent += all[i].sent;
        acked += all[i].acked;
        send(all[i].fd, "\xe0\x00", 2, MSG_NOSIGNAL);
        shutdown(all[i].fd, SHUT_WR);
        char end;
        while (recv(all[i].fd, &end, 1, 0) > 0 || errno == EAGAIN) { /* until the other side has read everything */
            struct epoll_event none;
            struct epoll_event wish = {.events = EPOLLIN, .data.ptr = all + i};
            if (errno == EAGAIN) {
                epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &wish);
                epoll_wait(poll, &none, 1, 1000);
                epoll_ctl(poll, EPOLL_CTL_DEL, all[i].fd, NULL);
            }
            errno = 0;
        }
        close(all[i].fd);
    }
    printf("%ld %ld %.6f\n", sent, acked, took);
    return 0;
}
