/* Asks one HTTP server for answers, checks that each is whole, and says what it cost the processes it watches.
 *
 *   load MODE port=4000 path=/v1/chat/completions body=FILE connections=32 ... watch=PID watch=PID
 *
 *   closed   each connection asks again as soon as it is answered: `requests` after `warmup`, at most `seconds`
 *   rate     `requests` after `warmup`, `rate` a second, whatever the answers do
 *   streams  `connections` streams opened within `ramp_ms`; from `settle_ms` later, `window_ms` are measured; then
 *            every stream must end well
 *   hold     opens as many requests as each line of standard input says, and says so when they are open: sent, or, with
 *            `events=1`, each with its first event; nothing may end
 *
 * An answer is good if its status is `status=N` (200), its framing complete, its last line contains `end=TEXT`, and it had at least
 * `events=N` events: lines that begin with `{` (NDJSON, JSON) or `data:` (SSE), so both are counted by the same rule.
 * The CPU time of a process is its own CPU clock: nanoseconds, all threads, those that ended too.
 * The last line of standard output is JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
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

enum mode { CLOSED, RATE, STREAMS, HOLD };
enum state { IDLE, HEAD, BODY };
enum part { SIZE, DATA, DATA_END, TRAILER, PLAIN }; /* of a chunked body; PLAIN: has a Content-Length */

struct connection {
    int fd; /* -1: not open */
    enum state state;
    enum part part;
    bool closing, trailer_text;
    uint64_t sent_at;
    size_t left;           /* bytes of the chunk, or of the whole plain body */
    long events;
    size_t size;           /* of `text` */
    char text[4096];       /* the head, then the body's last line that is not blank */
    bool line_over;
};

struct mark { uint64_t at_ns, own_ns, watched_ns[64]; long events, answers; };

/* --- what is asked ----------------------------------------------------------------------------------------------- */

static enum mode mode;
static int port = 4000, watched[64], watched_count;
static const char *path = "/", *body_file = "", *end_text = "";
static long connections = 32, requests = 1000, warmup, rate = 100, seconds = 3600, wanted_events, status = 200;
static long ramp_ms = 1000, settle_ms = 500, window_ms = 4000;
static char extra_headers[4096], *request;
static size_t request_size;

/* --- what has happened ------------------------------------------------------------------------------------------- */

static struct connection *all, **idle;
static long idle_count, begun, begin_limit, opened, answers, errors, events_seen, first_events;
static long first_count, whole_count;
static char first_error[600];
static uint64_t started_ns, *first_event_ns, *whole_ns;
static struct mark from, to;
static bool finished;
static int poller;

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t = {0, 0};
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void take(struct mark *mark) {
    *mark = (struct mark){.at_ns = now_ns(), .own_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID)};
    mark->events = events_seen;
    mark->answers = answers;
    for (int i = 0; i < watched_count; i++)
        mark->watched_ns[i] = clock_ns(~(clockid_t)watched[i] << 3 | 2); /* clock_getcpuclockid(3) of that process */
}

static bool measuring(void) { return from.at_ns && !to.at_ns; }

/* --- one request ------------------------------------------------------------------------------------------------- */

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) { perror("load: cannot connect"); exit(1); }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    opened++;
}

static void ended(struct connection *c, const char *error);

static void ask(struct connection *c) {
    begun++;
    c->state = HEAD;
    c->size = c->events = 0;
    c->text[0] = 0;
    if (c->fd < 0) open_connection(c);
    c->sent_at = now_ns();
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) ended(c, "not sent");
}

static void ended(struct connection *c, const char *error) {
    c->state = IDLE;
    answers++;
    if (error && !errors++) snprintf(first_error, sizeof first_error, "%s: %.500s", error, c->text);
    if ((error || c->closing) && c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
    if (mode == CLOSED) ask(c); else idle[idle_count++] = c;
}

static void answered(struct connection *c) {
    c->text[c->size] = 0;
    if (measuring() && whole_count < requests) whole_ns[whole_count++] = now_ns() - c->sent_at;
    if (mode == HOLD) ended(c, "answered, though it should be held");
    else if (!strstr(c->text, end_text)) ended(c, "the end is missing");
    else ended(c, c->events < wanted_events ? "too few events" : NULL);
}

static void note_first_event(struct connection *c) {
    first_events++;
    if (first_count < requests && (measuring() || mode == STREAMS))
        first_event_ns[first_count++] = now_ns() - c->sent_at;
}

static void end_line(struct connection *c) {
    if (c->size && !c->line_over && (c->text[0] == '{' || !strncmp(c->text, "data:", 5))) {
        events_seen++;
        if (!c->events++) note_first_event(c);
    }
    c->line_over = true;
}

/* Body bytes, unframed. */
static void content(struct connection *c, const char *at, size_t size) {
    while (size) {
        const char *newline = memchr(at, '\n', size);
        size_t part = newline ? (size_t)(newline - at) : size;
        if (part && c->line_over) { c->size = 0; c->line_over = false; }
        size_t room = sizeof c->text - 1 - c->size, kept = part < room ? part : room;
        memcpy(c->text + c->size, at, kept);
        c->size += kept;
        if (newline) end_line(c);
        at += part + !!newline;
        size -= part + !!newline;
    }
}

/* Takes bytes of the body. Returns how many; the answer is complete when the state is IDLE again. */
static size_t take_body(struct connection *c, const char *at, size_t size) {
    size_t used = 0;
    while (used < size) {
        char byte = at[used];
        if (c->part == PLAIN || c->part == DATA) {
            size_t part = size - used < c->left ? size - used : c->left;
            content(c, at + used, part);
            used += part;
            if ((c->left -= part)) continue;
            if (c->part == PLAIN) { end_line(c); answered(c); return used; }
            c->part = DATA_END;
            continue;
        }
        used++;
        if (c->part == SIZE) {
            if (byte >= '0' && byte <= '9') c->left = c->left * 16 + byte - '0';
            else if ((byte | 32) >= 'a' && (byte | 32) <= 'f') c->left = c->left * 16 + (byte | 32) - 'a' + 10;
            else if (byte == '\n') c->part = c->left ? DATA : TRAILER;
        } else if (c->part == DATA_END) {
            if (byte == '\n') c->part = SIZE, c->left = 0;
        } else if (byte != '\n') {
            c->trailer_text |= byte != '\r';
        } else if (c->trailer_text) {
            c->trailer_text = false;
        } else {
            answered(c);
            return used;
        }
    }
    return used;
}

static size_t take_head(struct connection *c, const char *at, size_t size) {
    size_t before = c->size, room = sizeof c->text - 1 - before, kept = size < room ? size : room;
    memcpy(c->text + before, at, kept);
    c->text[before + kept] = 0;
    c->size += kept;
    char *end = strstr(c->text, "\r\n\r\n");
    if (!end) {
        if (kept < size) ended(c, "the head is too long");
        return size;
    }
    end[2] = 0;
    char *length = strcasestr(c->text, "\r\ncontent-length:");
    bool chunked = strcasestr(c->text, "\r\ntransfer-encoding: chunked"), good = strtol(c->text + 8, NULL, 10) == status;
    if (!good || (!chunked && !length)) {
        end[2] = '\r';
        ended(c, good ? "no framing" : "bad status");
        return size;
    }
    c->closing = strcasestr(c->text, "\r\nconnection: close");
    c->part = chunked ? SIZE : PLAIN;
    c->left = chunked ? 0 : strtoul(length + 17, NULL, 10);
    c->state = BODY;
    size_t head = end + 4 - c->text - before;
    c->size = 0;
    c->line_over = c->trailer_text = false;
    if (c->part == PLAIN && !c->left) ended(c, "an empty body");
    return head;
}

static void receive(struct connection *c) {
    static char buffer[1 << 18];
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got <= 0) {
        if (c->state != IDLE) { ended(c, got ? strerror(errno) : "cut off"); return; }
        close(c->fd);
        c->fd = -1;
        return;
    }
    for (size_t used = 0; used < (size_t)got && c->state != IDLE && c->fd >= 0;)
        used += c->state == HEAD ? take_head(c, buffer + used, got - used) : take_body(c, buffer + used, got - used);
}

/* --- the schedule ------------------------------------------------------------------------------------------------ */

static uint64_t begin_at(long number) {
    uint64_t gaps_ns[] = {[RATE] = 1000000000 / rate, [STREAMS] = ramp_ms * 1000000 / connections, [HOLD] = 500000};
    return started_ns + number * gaps_ns[mode];
}

static void begin_due(uint64_t now) {
    while (begun < begin_limit && idle_count && begin_at(begun) <= now) ask(idle[--idle_count]);
}

static void watch_window(uint64_t now) {
    if (mode == STREAMS) {
        uint64_t open = started_ns + (ramp_ms + settle_ms) * 1000000;
        if (!from.at_ns && now >= open) take(&from);
        if (measuring() && now >= open + window_ms * 1000000) take(&to);
        finished = to.at_ns && answers >= connections;
    } else if (mode != HOLD) {
        if (!from.at_ns && answers >= warmup) take(&from);
        if (measuring() && (answers >= warmup + requests || now > from.at_ns + seconds * 1000000000ull)) take(&to);
        finished = to.at_ns;
    }
    if (now > started_ns + (seconds + 60) * 1000000000ull) finished = true;
}

/* hold: the next line of standard input says how many more. */
static void read_order(void) {
    char line[32];
    ssize_t got = read(0, line, sizeof line - 1);
    finished = got <= 0;
    line[got > 0 ? got : 0] = 0;
    begin_limit += finished ? 0 : atol(line);
    started_ns = now_ns() - (begin_at(begun) - started_ns);
}

static void tell_when_open(void) {
    static long told;
    bool open = begun == begin_limit && (!wanted_events || first_events >= begun || errors);
    if (mode != HOLD || told == begin_limit || !open) return;
    told = begin_limit;
    printf("{\"open\": %ld, \"errors\": %ld}\n", begun, errors);
    fflush(stdout);
}

static void wait_and_receive(void) {
    struct epoll_event ready[512];
    uint64_t now = now_ns(), wake = now + 20000000; /* the window's ends are kept to 20 ms, whatever is late */
    if (begun < begin_limit && idle_count && begin_at(begun) < wake) wake = begin_at(begun);
    struct timespec timeout = {0, wake > now ? wake - now : 0};
    int count = epoll_pwait2(poller, ready, 512, &timeout, NULL);
    for (int i = 0; i < count; i++)
        if (!ready[i].data.ptr) read_order();
        else if (((struct connection *)ready[i].data.ptr)->fd >= 0) receive(ready[i].data.ptr);
}

/* --- in and out -------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, uint64_t *ns, long count) {
    qsort(ns, count, sizeof *ns, by_size);
    printf(", \"%s_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, count ? ns[count / 2] / 1e3 : 0,
           count ? ns[count * 99 / 100] / 1e3 : 0, count ? ns[count - 1] / 1e3 : 0);
}

static void print_text(const char *text) {
    for (; *text; text++)
        if (*text == '"' || *text == '\\') printf("\\%c", *text);
        else if ((unsigned char)*text < 32 || (unsigned char)*text > 126) putchar(' ');
        else putchar(*text);
}

static void print_result(void) {
    printf("{\"seconds\": %.6f, \"answers\": %ld, \"events\": %ld", (to.at_ns - from.at_ns) / 1e9,
           to.answers - from.answers, to.events - from.events);
    printf(", \"errors\": %ld, \"opened\": %ld, \"own_cpu_ns\": %lu, \"cpu_ns\": [", errors, opened,
           to.own_ns - from.own_ns);
    for (int i = 0; i < watched_count; i++) printf(i ? ", %lu" : "%lu", to.watched_ns[i] - from.watched_ns[i]);
    printf("]");
    print_times("first_event", first_event_ns, first_count);
    print_times("whole", whole_ns, whole_count);
    printf(", \"first_error\": \"");
    print_text(first_error);
    printf("\"}\n");
}

static void prepare_request(void) {
    char body[65536] = "";
    FILE *file = fopen(body_file, "r");
    size_t size = file ? fread(body, 1, sizeof body - 1, file) : 0;
    request_size = asprintf(&request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                            "Accept: */*\r\nUser-Agent: bench\r\n%sContent-Length: %zu\r\n\r\n%s",
                            path, port, extra_headers, size, body);
}

static void read_argument(char *argument) {
    struct { const char *name; long *number; } numbers[] = {
        {"connections", &connections}, {"requests", &requests}, {"warmup", &warmup}, {"rate", &rate},
        {"seconds", &seconds}, {"events", &wanted_events}, {"ramp_ms", &ramp_ms}, {"settle_ms", &settle_ms},
        {"window_ms", &window_ms}, {"status", &status}};
    char *value = strchr(argument, '=');
    if (!value) { fprintf(stderr, "load: what is %s?\n", argument); exit(2); }
    *value++ = 0;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(argument, numbers[i].name)) { *numbers[i].number = atol(value); return; }
    if (!strcmp(argument, "port")) port = atoi(value);
    else if (!strcmp(argument, "path")) path = value;
    else if (!strcmp(argument, "body")) body_file = value;
    else if (!strcmp(argument, "end")) end_text = value;
    else if (!strcmp(argument, "watch") && watched_count < 64) watched[watched_count++] = atoi(value);
    else if (!strcmp(argument, "header")) strcat(strcat(extra_headers, value), "\r\n");
    else { fprintf(stderr, "load: what is %s?\n", argument); exit(2); }
}

int main(int argc, char **argv) {
    const char *modes[] = {"closed", "rate", "streams", "hold"};
    while (mode < 4 && (argc < 2 || strcmp(argv[1], modes[mode]))) mode++;
    if (mode > HOLD) { fprintf(stderr, "load: closed, rate, streams or hold?\n"); return 2; }
    for (int i = 2; i < argc; i++) read_argument(argv[i]);
    prctl(PR_SET_TIMERSLACK, 1000);
    prepare_request();
    all = calloc(connections, sizeof *all);
    idle = calloc(connections, sizeof *idle);
    first_event_ns = calloc(requests, sizeof *first_event_ns);
    whole_ns = calloc(requests, sizeof *whole_ns);
    for (long i = connections - 1; i >= 0; i--) { all[i].fd = -1; idle[idle_count++] = &all[i]; }
    poller = epoll_create1(EPOLL_CLOEXEC);
    begin_limit = mode == STREAMS ? connections : mode == CLOSED ? 1l << 40 : mode == RATE ? warmup + requests : 0;
    if (mode == HOLD) epoll_ctl(poller, EPOLL_CTL_ADD, 0, &(struct epoll_event){.events = EPOLLIN});
    for (started_ns = now_ns(); !finished;) {
        begin_due(now_ns());
        tell_when_open();
        wait_and_receive();
        watch_window(now_ns());
    }
    if (!to.at_ns) take(&to);
    print_result();
    return 0;
}
