/* A paced UDP sender: blast HOST PORT MESSAGES_PER_SECOND SECONDS [NAMES]. Prints how many it sent and how long it took.
 * Messages are RFC 5424 with a JSON body of about 200 bytes, numbered, from 25 (or NAMES) host names. Python would be the limit. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, SIZE = 512 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 1;
    static char text[BATCH][SIZE];
    long names = argc > 5 ? atol(argv[5]) : 25;
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i].iov_base = text[i];
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    long sent = 0, wanted = (long)(rate * seconds);
    double start = now();
    while (sent < wanted) {
        long due = (long)((now() - start) * rate) - sent;
        if (due < BATCH && due < wanted - sent) {
            struct timespec nap = {0, 50000};
            nanosleep(&nap, NULL);
            continue;
        }
        int n = due < BATCH ? (int)due : BATCH;
        if (n > wanted - sent) n = (int)(wanted - sent);
        if (n <= 0) continue;
        for (int i = 0; i < n; i++)
            parts[i].iov_len = snprintf(text[i], SIZE,
                "<134>1 2026-11-21T05:40:26.070822Z drone-%03ld skerry - - - {\"mid\": \"drone-%03ld-%ld\", "
                "\"battery_pct\": %.1f, \"temp_c\": 41.3, \"rssi_dbm\": -61, \"snr_db\": 18.2, \"vibration_mps2\": 0.7}",
                (sent + i) % names, (sent + i) % names, sent + i, 40 + (sent + i) % 500 / 10.0);
        int done = sendmmsg(fd, messages, n, 0);
        if (done > 0) sent += done;
    }
    printf("%ld %.6f\n", sent, now() - start);
    return 0;
}
