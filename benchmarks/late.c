/* A server that answers every request after the same time, and stalls on demand: what load generators are compared against.
 *
 *   late PORT DELAY_US
 *
 * All answers are late by the same, so those that wait, in order of arrival, are in order of time too: one ring holds
 * them. GET /stall?ms=1000 has the whole process sleep, as one does whose disk, lock or collector takes its time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RING (1 << 16)
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";

struct connection { int fd, waiting; bool gone; size_t size; char request[8192]; };
static struct { struct connection *to; uint64_t due; } ring[RING];
static unsigned first, next;
static uint64_t delay_ns;
static int poller;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Its number is another's as soon as it is closed, so not while one of its answers waits. */
static void close_if_over(struct connection *c) {
    if (!c->gone || c->waiting) return;
    close(c->fd);
    free(c);
}

static void send_due(void) {
    for (uint64_t now = now_ns(); first != next && ring[first % RING].due <= now; first++) {
        struct connection *c = ring[first % RING].to;
        send(c->fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        c->waiting--;
        close_if_over(c);
    }
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, c->request + c->size, sizeof c->request - 1 - c->size, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
        c->gone = true;
        close_if_over(c);
        return;
    }
    c->size += got;
    c->request[c->size] = 0;
    if (!strstr(c->request, "\r\n\r\n")) return;
    long ms = 0;
    if (sscanf(c->request, "GET /stall?ms=%ld", &ms) == 1)
        nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
    c->size = 0;
    c->waiting++;
    ring[next % RING].to = c;
    ring[next++ % RING].due = now_ns() + delay_ns;
}

static void welcome(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    }
}

static void wait_and_serve(int listener) {
    struct epoll_event events[256];
    struct timespec timeout = {0, 0};
    uint64_t now = now_ns(), due = ring[first % RING].due;
    if (first != next && due > now) timeout = (struct timespec){(due - now) / 1000000000, (due - now) % 1000000000};
    int count = epoll_pwait2(poller, events, 256, first != next ? &timeout : NULL, NULL);
    for (int i = 0; i < count; i++)
        if (events[i].data.ptr) receive(events[i].data.ptr); else welcome(listener);
    send_due();
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    delay_ns = strtoull(argv[2], NULL, 10) * 1000;
    prctl(PR_SET_TIMERSLACK, 1000);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("late");
        return 1;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN});
    for (;;) wait_and_serve(listener);
}
