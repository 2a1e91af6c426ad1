/* Keep-alive HTTP posts: posts HOST PORT PATH CONNECTIONS SECONDS FILE... One request is under way on each connection;
 * every file is a body, and they are sent in turn. Prints: answers with 2xx, other answers, seconds, and the median and
 * 99th percentile of the time to an answer in ms. One thread, so that the receiver keeps the other core. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 256, ANSWER = 65536, SAMPLES = 1 << 20 };

struct body { char *bytes; size_t size; };
struct line { int fd, next; size_t sent, got; const struct body *body; double began; char answer[ANSWER]; };

static struct line lines[CONNECTIONS_MAX];
static float samples[SAMPLES];
static long good, bad, sampled;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static struct body request(const char *host, const char *port, const char *path, const char *file) {
    FILE *in = fopen(file, "rb");
    if (!in) { perror(file); exit(1); }
    fseek(in, 0, SEEK_END);
    long size = ftell(in);
    rewind(in);
    struct body made = {malloc(size + 1024), 0};
    made.size = snprintf(made.bytes, 1024,
        "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %ld\r\n\r\n", path, host, port, size);
    if (fread(made.bytes + made.size, 1, size, in) != (size_t)size) exit(1);
    made.size += size;
    fclose(in);
    return made;
}

/* How long the answer is that begins in `text`, 0 while its head is not whole. */
static size_t answer_size(const char *text, size_t got) {
    const char *end = memmem(text, got, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = end - text + 4, content = 0;
    for (const char *at = text; at < end; at++)
        if (!strncasecmp(at, "\r\ncontent-length:", 17)) content = strtoul(at + 17, NULL, 10);
    return head + content;
}

static int compare(const void *a, const void *b) { return *(float *)a < *(float *)b ? -1 : *(float *)a > *(float *)b; }

int main(int argc, char **argv) {
    if (argc < 7) return 2;
    signal(SIGPIPE, SIG_IGN);
    int connections = atoi(argv[4]), bodies = argc - 6, next = 0;
    if (connections > CONNECTIONS_MAX) return 2;
    double seconds = atof(argv[5]);
    struct body *all = calloc(bodies, sizeof *all);
    for (int i = 0; i < bodies; i++) all[i] = request(argv[1], argv[2], argv[3], argv[6 + i]);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    struct pollfd polls[CONNECTIONS_MAX];
    double start = now();
    for (int i = 0; i < connections; i++) {
        int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to)) { perror("connect"); return 1; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        lines[i].fd = fd;
        lines[i].body = &all[next++ % bodies];
        lines[i].began = start;
        polls[i] = (struct pollfd){fd, POLLOUT | POLLIN, 0};
    }
    int open = connections;
    while (open) {
        if (poll(polls, connections, 5000) <= 0) break;
        double at = now();
        for (int i = 0; i < connections; i++) {
            struct line *line = &lines[i];
            if (polls[i].fd < 0 || !polls[i].revents) continue;
            if (line->sent < line->body->size) {
                ssize_t n = send(line->fd, line->body->bytes + line->sent, line->body->size - line->sent, 0);
                if (n > 0) line->sent += n;
                if (line->sent == line->body->size) polls[i].events = POLLIN;
            }
            if (!(polls[i].revents & (POLLIN | POLLHUP | POLLERR))) continue;
            ssize_t n = recv(line->fd, line->answer + line->got, ANSWER - line->got, 0);
            if (n < 0) continue;
            line->got += n;
            size_t whole = answer_size(line->answer, line->got);
            if (n == 0 || !whole || line->got < whole) {
                if (n == 0) { bad++; polls[i].fd = -1; open--; }
                continue;
            }
            if (line->answer[9] == '2') good++; else bad++;
            if (sampled < SAMPLES) samples[sampled++] = (at - line->began) * 1e3;
            line->got = line->sent = 0;
            if (at - start >= seconds) { polls[i].fd = -1; open--; continue; }
            line->body = &all[next++ % bodies];
            line->began = at;
            ssize_t sent = send(line->fd, line->body->bytes, line->body->size, 0);
            if (sent > 0) line->sent = sent;
            polls[i].events = line->sent == line->body->size ? POLLIN : POLLIN | POLLOUT;
        }
    }
    double took = now() - start;
    qsort(samples, sampled, sizeof *samples, compare);
    printf("%ld %ld %.6f %.3f %.3f\n", good, bad, took, sampled ? samples[sampled / 2] : 0, sampled ? samples[sampled * 99 / 100] : 0);
    return 0;
}
