/* An LLM server that costs next to nothing: it answers like Ollama (/api/...) and like OpenAI (/v1/chat/completions).
 *
 *   mock PORT
 *
 * Every answer is prepared once. A stream sends its first chunk at once and each later one by a fixed schedule, counted
 * from the request, so a late chunk does not delay the ones after it. All streams share one interval: kept in order of
 * arrival they are also in order of time, and a linked list is all the timer there is.
 *
 * GET /set?chunks=20&interval_us=50000&hold=0 changes what comes next; with hold=1 whole answers never come.
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

struct bytes { char *at; size_t size; };
struct dialect { const char *path; struct bytes whole, first, middle, last; };
struct connection {
    int fd;
    uint64_t due;                       /* when the next chunk goes out; 0: no stream */
    long chunks_left;
    const struct dialect *dialect;
    struct connection *earlier, *later;
    size_t size;
    char request[32768];
};

static long chunks = 20, interval_us = 50000, hold;
static struct connection *earliest, *latest;
static int poller;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* --- the answers ------------------------------------------------------------------------------------------------- */

#define STAMP "\"model\":\"bench:latest\",\"created_at\":\"2026-11-21T10:11:12.345678901Z\""
#define COUNTS "\"done\":true,\"done_reason\":\"stop\",\"total_duration\":5043500667,\"load_duration\":50254542," \
    "\"prompt_eval_count\":126,\"prompt_eval_duration\":325953000,\"eval_count\":150,\"eval_duration\":4709213000"
#define CHAT(text, rest) "{" STAMP ",\"message\":{\"role\":\"assistant\",\"content\":\"" text "\"}," rest "}"
#define GENERATE(text, rest) "{" STAMP ",\"response\":\"" text "\"," rest "}"
#define OPENAI(kind, choice, rest) "{\"id\":\"chatcmpl-7\",\"object\":\"" kind "\",\"created\":1795255872," \
    "\"model\":\"bench\",\"system_fingerprint\":\"fp\",\"choices\":[{\"index\":0," choice "}]" rest "}"
#define DELTA(delta, reason) \
    "data: " OPENAI("chat.completion.chunk", "\"delta\":" delta ",\"finish_reason\":" reason, "")
#define USAGE ",\"usage\":{\"prompt_tokens\":126,\"completion_tokens\":150,\"total_tokens\":276}"
#define SENTENCE "Einstein showed that space and time bend, and that what bends them is mass and energy. "
#define PARAGRAPH SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE

#define TAGS "{\"models\":[{\"name\":\"bench:latest\",\"model\":\"bench:latest\"," \
    "\"modified_at\":\"2026-11-01T10:11:12Z\",\"size\":3338801804," \
    "\"digest\":\"a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a\"," \
    "\"details\":{\"parent_model\":\"\",\"format\":\"gguf\",\"family\":\"llama\",\"families\":[\"llama\"]," \
    "\"parameter_size\":\"4.3B\",\"quantization_level\":\"Q4_K_M\"}"
static const char *facts[][2] = {
    {"GET /api/version ", "{\"version\":\"0.33.0\"}"},
    {"GET /api/tags ", TAGS "}]}"},
    {"GET /api/ps ", TAGS ",\"expires_at\":\"2318-01-01T00:00:00Z\",\"size_vram\":3338801804,"
        "\"context_length\":4096}]}"},
    {"POST /api/show ", "{\"details\":{\"format\":\"gguf\",\"family\":\"llama\",\"families\":[\"llama\"]},"
        "\"model_info\":{\"general.architecture\":\"llama\",\"llama.context_length\":131072},"
        "\"capabilities\":[\"completion\",\"tools\"],\"modified_at\":\"2026-11-01T10:11:12Z\"}"},
    {"GET / ", "Ollama is running"},
};

static struct dialect dialects[] = {{.path = "POST /api/chat "}, {.path = "POST /api/generate "},
                                    {.path = "POST /v1/chat/completions "}};

static struct bytes joined(const char *one, const char *two) {
    struct bytes all = {NULL, 0};
    all.size = asprintf(&all.at, "%s%s", one, two);
    return all;
}

static struct bytes whole(const char *body) {
    char head[160];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
             "Date: Sat, 21 Nov 2026 10:11:12 GMT\r\nContent-Length: %zu\r\n\r\n", strlen(body));
    return joined(head, body);
}

static struct bytes chunk(const char *text) {
    char framed[2048];
    snprintf(framed, sizeof framed, "%zx\r\n%s\r\n", strlen(text), text);
    return joined(framed, "");
}

static void prepare(struct dialect *d, const char *type, const char *answer, const char *middle, const char *last) {
    char head[200];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nDate: Sat, 21 Nov 2026 10:11:12 GMT\r\n"
             "Transfer-Encoding: chunked\r\n\r\n", type);
    d->whole = whole(answer);
    d->middle = chunk(middle);
    d->first = joined(head, d->middle.at);
    d->last = joined(chunk(last).at, "0\r\n\r\n");
}

static void prepare_all(void) {
    prepare(&dialects[0], "application/x-ndjson", CHAT(PARAGRAPH, COUNTS), CHAT(" token", "\"done\":false") "\n",
            CHAT("", COUNTS) "\n");
    prepare(&dialects[1], "application/x-ndjson", GENERATE(PARAGRAPH, COUNTS),
            GENERATE(" token", "\"done\":false") "\n", GENERATE("", COUNTS) "\n");
    prepare(&dialects[2], "text/event-stream",
            OPENAI("chat.completion", "\"message\":{\"role\":\"assistant\",\"content\":\"" PARAGRAPH "\"},"
                   "\"finish_reason\":\"stop\"", USAGE),
            DELTA("{\"role\":\"assistant\",\"content\":\" token\"}", "null") "\n\n",
            DELTA("{\"role\":\"assistant\",\"content\":\"\"}", "\"stop\"") "\n\ndata: [DONE]\n\n");
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

static void unschedule(struct connection *c) {
    if (!c->due) return;
    *(c->earlier ? &c->earlier->later : &earliest) = c->later;
    *(c->later ? &c->later->earlier : &latest) = c->earlier;
    c->due = 0;
}

static void schedule(struct connection *c, uint64_t due) {
    unschedule(c);
    c->due = due;
    c->earlier = latest;
    c->later = NULL;
    *(latest ? &latest->later : &earliest) = c;
    latest = c;
}

static void forget(struct connection *c) {
    unschedule(c);
    close(c->fd);
    free(c);
}

/* False once the connection is gone: a reader that cannot keep up with a trickle is none. */
static bool deliver(struct connection *c, struct bytes b) {
    if (send(c->fd, b.at, b.size, MSG_NOSIGNAL) == (ssize_t)b.size) return true;
    forget(c);
    return false;
}

static void send_due_chunks(void) {
    for (uint64_t now = now_ns(); earliest && earliest->due <= now;) {
        struct connection *c = earliest;
        uint64_t next = c->due + interval_us * 1000;
        bool last = --c->chunks_left < 0;
        if (last) unschedule(c); else schedule(c, next);
        deliver(c, last ? c->dialect->last : c->dialect->middle);
    }
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

static bool asks(struct connection *c, const char *start) { return !strncmp(c->request, start, strlen(start)); }

static bool wants_stream(struct connection *c, const struct dialect *d) {
    const char *said = strcasestr(c->request, "\"stream\":");
    if (!said) return d != &dialects[2]; /* Ollama streams unless told otherwise, OpenAI the other way round */
    said += strlen("\"stream\":");
    return said[strspn(said, " ")] == 't';
}

static void answer_chat(struct connection *c, const struct dialect *d) {
    if (!wants_stream(c, d)) {
        if (!hold) deliver(c, d->whole);
        return;
    }
    c->dialect = d;
    c->chunks_left = chunks - 1;
    if (deliver(c, d->first)) schedule(c, now_ns() + interval_us * 1000);
}

static void answer(struct connection *c) {
    static struct bytes facts_whole[sizeof facts / sizeof *facts], done, missing;
    if (!done.at) {
        done = whole("{}");
        missing = joined("HTTP/1.1 404 Not Found\r\nContent-Length: 18\r\n\r\n", "404 page not found");
    }
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (asks(c, dialects[i].path)) { answer_chat(c, &dialects[i]); return; }
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (asks(c, facts[i][0])) {
            if (!facts_whole[i].at) facts_whole[i] = whole(facts[i][1]);
            deliver(c, facts_whole[i]);
            return;
        }
    bool set = sscanf(c->request, "GET /set?chunks=%ld&interval_us=%ld&hold=%ld", &chunks, &interval_us, &hold) == 3;
    deliver(c, set ? done : missing);
}

/* How long the request is, head and body; 0 while that cannot be said. */
static size_t request_size(struct connection *c) {
    char *end = strstr(c->request, "\r\n\r\n");
    if (!end) return 0;
    char *length = strcasestr(c->request, "\r\ncontent-length:");
    char *coding = strcasestr(c->request, "\r\ntransfer-encoding: chunked");
    if (coding && coding < end) return strstr(end, "\r\n0\r\n\r\n") ? c->size : 0;
    return end + 4 - c->request + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, c->request + c->size, sizeof c->request - 1 - c->size, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) forget(c);
        return;
    }
    c->size += got;
    c->request[c->size] = 0;
    size_t size = request_size(c);
    if (!size || c->size < size) return;
    c->size = 0;
    answer(c);
}

static void welcome(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        struct epoll_event readable = {.events = EPOLLIN, .data.ptr = c};
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &readable);
    }
}

static void wait_and_serve(int listener) {
    struct epoll_event events[256];
    struct timespec timeout = {0, 0};
    uint64_t now = now_ns();
    if (earliest && earliest->due > now) {
        timeout.tv_sec = (earliest->due - now) / 1000000000;
        timeout.tv_nsec = (earliest->due - now) % 1000000000;
    }
    int count = epoll_pwait2(poller, events, 256, earliest ? &timeout : NULL, NULL);
    for (int i = 0; i < count; i++)
        if (events[i].data.ptr) receive(events[i].data.ptr); else welcome(listener);
    send_due_chunks();
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 11434),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    prctl(PR_SET_TIMERSLACK, 1000);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("mock");
        return 1;
    }
    prepare_all();
    poller = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN});
    for (;;) wait_and_serve(listener);
}
