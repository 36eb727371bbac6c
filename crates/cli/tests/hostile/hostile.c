/* A program that does with sockets what it is told, step by step, and says what came of each step.
 *
 *     hostile PORT STEP...
 *
 * It knows nothing of phalanx: what it says under it can be compared with what it says alone. Each
 * line is "[SLOT] STEP: RESULT", where SLOT is NODE_APP_INSTANCE or "-", and RESULT is "ok", the
 * name of an error, or a value. See `steps` at the end for what there is. */
#define _GNU_SOURCE
#include "hostile.h"
#include "attacks.h"

int port;        /* the port of all addresses that name none */
int current = -1; /* the socket that steps are about */
static int listeners[16], listening;
static int epoll = -1;
static char tag[32];

void say(const char *step, const char *format, ...) {
    char line[512];
    int used = snprintf(line, sizeof line, "[%s] %s: ", tag, step);
    va_list rest;
    va_start(rest, format);
    used += vsnprintf(line + used, sizeof line - used - 1, format, rest);
    va_end(rest);
    line[used++] = '\n';
    /* One write: lines of several processes do not mix. */
    if (write(1, line, used) != used) _exit(9);
}

void result(const char *step, long value) {
    if (value < 0)
        say(step, "%s", strerrorname_np(errno));
    else
        say(step, "ok");
}

void fatal(const char *what) {
    say(what, "fatal, %s", strerrorname_np(errno));
    _exit(8);
}

/* ADDR or ADDR/PORT; a path is a unix socket, and + is the port beside. */
socklen_t address(const char *text, struct sockaddr_storage *out) {
    char host[256];
    int number = port;
    snprintf(host, sizeof host, "%s", text);
    memset(out, 0, sizeof *out);
    if (host[0] == '/' || host[0] == '@') {
        struct sockaddr_un *un = (void *)out;
        un->sun_family = AF_UNIX;
        if (strlen(host) >= sizeof un->sun_path) fatal(text);
        memcpy(un->sun_path, host, strlen(host));
        if (host[0] == '@') un->sun_path[0] = 0;
        return offsetof(struct sockaddr_un, sun_path) + strlen(host) + (host[0] == '/');
    }
    char *slash = strchr(host, '/');
    if (slash) {
        number = slash[1] == '+' ? port + 1 : atoi(slash + 1);
        *slash = 0;
    }
    struct sockaddr_in *v4 = (void *)out;
    struct sockaddr_in6 *v6 = (void *)out;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(number);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) fatal(text);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(number);
    return sizeof *v6;
}

static const struct option_name {
    const char *name;
    int level, option;
} options[] = {
    {"reuseaddr", SOL_SOCKET, SO_REUSEADDR}, {"reuseport", SOL_SOCKET, SO_REUSEPORT},
    {"keepalive", SOL_SOCKET, SO_KEEPALIVE}, {"rcvbuf", SOL_SOCKET, SO_RCVBUF},
    {"sndbuf", SOL_SOCKET, SO_SNDBUF},       {"priority", SOL_SOCKET, SO_PRIORITY},
    {"mark", SOL_SOCKET, SO_MARK},           {"oobinline", SOL_SOCKET, SO_OOBINLINE},
    {"broadcast", SOL_SOCKET, SO_BROADCAST}, {"timestamp", SOL_SOCKET, SO_TIMESTAMP},
    {"rcvlowat", SOL_SOCKET, SO_RCVLOWAT},   {"busypoll", SOL_SOCKET, SO_BUSY_POLL},
    {"nodelay", IPPROTO_TCP, TCP_NODELAY},   {"defer", IPPROTO_TCP, TCP_DEFER_ACCEPT},
    {"keepidle", IPPROTO_TCP, TCP_KEEPIDLE}, {"keepintvl", IPPROTO_TCP, TCP_KEEPINTVL},
    {"keepcnt", IPPROTO_TCP, TCP_KEEPCNT},   {"maxseg", IPPROTO_TCP, TCP_MAXSEG},
    {"syncnt", IPPROTO_TCP, TCP_SYNCNT},     {"usertimeout", IPPROTO_TCP, TCP_USER_TIMEOUT},
    {"quickack", IPPROTO_TCP, TCP_QUICKACK}, {"fastopen", IPPROTO_TCP, TCP_FASTOPEN},
    {"linger2", IPPROTO_TCP, TCP_LINGER2},   {"notsent", IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    {"v6only", IPPROTO_IPV6, IPV6_V6ONLY},   {"pktinfo6", IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {"tclass", IPPROTO_IPV6, IPV6_TCLASS},   {"tos", IPPROTO_IP, IP_TOS},
    {"ttl", IPPROTO_IP, IP_TTL},             {"pktinfo", IPPROTO_IP, IP_PKTINFO},
    {"freebind", IPPROTO_IP, IP_FREEBIND},   {"transparent", IPPROTO_IP, IP_TRANSPARENT},
    {"protocol", SOL_SOCKET, SO_PROTOCOL},   {"type", SOL_SOCKET, SO_TYPE},
    {"domain", SOL_SOCKET, SO_DOMAIN},       {"accepting", SOL_SOCKET, SO_ACCEPTCONN},
};

static const struct option_name *option(const char *text) {
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (!strncmp(text, options[i].name, strcspn(text, ":"))
            && !options[i].name[strcspn(text, ":")])
            return &options[i];
    errno = ENOPROTOOPT;
    fatal(text);
    return NULL;
}

static void set(const char *step, char *text) {
    const struct option_name *what = option(text);
    int value = atoi(strchr(text, ':') + 1);
    result(step, setsockopt(current, what->level, what->option, &value, sizeof value));
}

static void get(const char *step, char *text) {
    const struct option_name *what = option(text);
    int value = 0;
    socklen_t length = sizeof value;
    if (getsockopt(current, what->level, what->option, &value, &length))
        result(step, -1);
    else
        say(step, "%d", value);
}

/* socket=tcp4+nonblock+cloexec */
static void make(const char *step, char *text) {
    int family = strchr(text, '6') ? AF_INET6 : AF_INET, type = SOCK_STREAM, protocol = 0;
    if (!strncmp(text, "udp", 3)) type = SOCK_DGRAM;
    if (!strncmp(text, "mptcp", 5)) protocol = 262;
    if (!strncmp(text, "unix", 4)) family = AF_UNIX;
    if (!strncmp(text, "packet", 6)) family = AF_PACKET, type = SOCK_DGRAM;
    if (strstr(text, "+nonblock")) type |= SOCK_NONBLOCK;
    if (strstr(text, "+cloexec")) type |= SOCK_CLOEXEC;
    current = socket(family, type, protocol);
    result(step, current);
}

int descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) != -1;
    return count;
}

/* The bind itself; it must leave as many descriptors open as before. */
static void bound(const char *step, char *text) {
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    int before = descriptors();
    int code = bind(current, (void *)&to, length), error = errno;
    int more = descriptors() - before;
    errno = error;
    if (more)
        say(step, "%d descriptors more than before", more);
    else
        result(step, code);
}

static char *for_thread;
static void *in_thread(void *step) {
    bound(step, for_thread);
    return NULL;
}

static void threaded(const char *step, char *text) {
    pthread_t thread;
    for_thread = text;
    if (pthread_create(&thread, NULL, in_thread, (void *)step)) fatal(step);
    pthread_join(thread, NULL);
}

static void joined(const char *step, char *text) {
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    result(step, connect(current, (void *)&to, length));
}

static void backlog(const char *step, char *text) {
    int code = listen(current, atoi(text));
    result(step, code);
    if (!code) listeners[listening++] = current;
}

static void flags(const char *step, char *text) {
    (void)text;
    int status = fcntl(current, F_GETFL), own = fcntl(current, F_GETFD);
    say(step, "%s %s", status & O_NONBLOCK ? "nonblocking" : "blocking",
        own & FD_CLOEXEC ? "cloexec" : "inherited");
}

static void name(const char *step, char *text) {
    (void)text;
    struct sockaddr_storage is;
    socklen_t length = sizeof is;
    char host[INET6_ADDRSTRLEN] = "?";
    if (getsockname(current, (void *)&is, &length)) return result(step, -1);
    struct sockaddr_in *v4 = (void *)&is;
    struct sockaddr_in6 *v6 = (void *)&is;
    if (is.ss_family == AF_INET) {
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        say(step, "%s %d", host, ntohs(v4->sin_port));
    } else if (is.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        say(step, "%s %d", host, ntohs(v6->sin6_port));
    } else
        say(step, "family %d", is.ss_family);
}

static void status(const char *step, char *text) {
    int bits = fcntl(current, F_GETFL), on = !strcmp(text, "on");
    result(step, fcntl(current, F_SETFL, on ? bits | O_NONBLOCK : bits & ~O_NONBLOCK));
}

/* All that a client asks is who answers. */
static int answer(char *text, size_t size) {
    const char *slot = getenv("NODE_APP_INSTANCE");
    return snprintf(text, size, "{\"pid\":%d,\"slot\":%s}", getpid(), slot ? slot : "0");
}

static void reply(int client) {
    char request[4096] = "", body[64], text[256];
    size_t used = 0;
    ssize_t got = 1;
    /* All of it: a client whose request is not read is reset by the close. */
    while (got > 0 && used < sizeof request - 1 && !strstr(request, "\r\n\r\n")) {
        got = read(client, request + used, sizeof request - 1 - used);
        if (got > 0) used += got;
    }
    if (got > 0) {
        int length = answer(body, sizeof body);
        length = snprintf(text, sizeof text,
                          "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                          length, body);
        if (write(client, text, length) != length) perror("write");
    }
    close(client);
}

static void datagram(int fd) {
    char text[2048];
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    if (recvfrom(fd, text, sizeof text, 0, (void *)&from, &length) >= 0)
        sendto(fd, text, answer(text, sizeof text), 0, (void *)&from, length);
}

/* Answers for ever, TCP on what listens and UDP on what does not. */
static void serve(const char *step, char *text) {
    (void)text;
    struct pollfd polled[17];
    int count = 0;
    for (; count < listening; count++) polled[count] = (struct pollfd){listeners[count], POLLIN, 0};
    if (!count) polled[count++] = (struct pollfd){current, POLLIN, 0};
    signal(SIGPIPE, SIG_IGN);
    say(step, "ok");
    for (;;) {
        if (poll(polled, count, -1) < 0 && errno != EINTR) fatal(step);
        for (int i = 0; i < count; i++) {
            if (!(polled[i].revents & POLLIN)) continue;
            if (!listening) {
                datagram(polled[i].fd);
                continue;
            }
            int client = accept(polled[i].fd, NULL, NULL);
            if (client >= 0) {
                fcntl(client, F_SETFL, 0);
                reply(client);
            }
        }
    }
}

/* A server that waits in accept(2) itself. */
static void accepts(const char *step, char *text) {
    (void)text;
    signal(SIGPIPE, SIG_IGN);
    say(step, "ok");
    for (;;) {
        int client = accept(current, NULL, NULL);
        if (client >= 0) {
            reply(client);
        } else if (errno == EAGAIN) {
            say(step, "EAGAIN on a blocking socket");
            _exit(7);
        }
    }
}

static void watched(const char *step, char *text) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = current};
    if (epoll < 0) epoll = epoll_create1(EPOLL_CLOEXEC);
    int what = !strcmp(text, "mod") ? EPOLL_CTL_MOD : !strcmp(text, "del") ? EPOLL_CTL_DEL : EPOLL_CTL_ADD;
    result(step, epoll_ctl(epoll, what, current, &event));
}

/* Answers when the epoll set says so. */
static void events(const char *step, char *text) {
    (void)text;
    say(step, "ok");
    for (;;) {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, -1) < 1 || !(event.events & EPOLLIN)) continue;
        int client = accept(event.data.fd, NULL, NULL);
        if (client >= 0) reply(client);
    }
}

static void drop(const char *step, char *text) {
    (void)text;
    result(step, close(current));
    if (listening && listeners[listening - 1] == current) listening--;
}

/* The children go on with the script, the parent waits for them and is what is signalled. */
static int children[16], born;
static void farewell(int number) {
    for (int i = 0; i < born; i++) kill(children[i], number);
    _exit(0);
}

static void forked(const char *step, char *text) {
    int count = atoi(text);
    say(step, "ok");
    for (int i = 0; i < count; i++) {
        int pid = fork();
        if (pid < 0) fatal(step);
        if (!pid) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            size_t used = strlen(tag);
            snprintf(tag + used, sizeof tag - used, ".%d", i);
            return;
        }
        children[born++] = pid;
    }
    signal(SIGTERM, farewell);
    for (;;) pause();
}

static void pick(const char *step, char *text) {
    current = atoi(text);
    if (step) listeners[listening++] = current;
}

/* Takes the number that the socket is to have. */
static void at(const char *step, char *text) {
    int to = atoi(text), old = current;
    int code = dup2(old, to);
    result(step, code < 0 ? -1 : 0);
    close(old);
    current = to;
}

static void pause_for(const char *step, char *text) {
    struct timespec time = {atoi(text) / 1000, atoi(text) % 1000 * 1000000L};
    while (nanosleep(&time, &time) && errno == EINTR) {}
    say(step, "ok");
}

static void park(const char *step, char *text) {
    (void)text;
    say(step, "ok");
    for (;;) pause();
}

static void twin(const char *step, char *text) {
    (void)text;
    int copy = dup(current);
    result(step, copy < 0 ? -1 : 0);
    /* From here on the steps are about the twin, made before: `swap` goes back. */
    listeners[15] = current;
    current = copy;
}

static void swap(const char *step, char *text) {
    (void)text;
    int other = listeners[15];
    listeners[15] = current;
    current = other;
    say(step, "ok");
}

static const struct step {
    const char *name;
    void (*run)(const char *step, char *text);
} steps[] = {
    {"socket", make},      {"bind", bound},       {"bind-in-thread", threaded},
    {"listen", backlog},   {"flags", flags},      {"name", name},
    {"nonblock", status},  {"set", set},          {"get", get},
    {"serve", serve},      {"accept", accepts},   {"epoll", watched},
    {"events", events},    {"close", drop},       {"fork", forked},
    {"use", pick},         {"at", at},            {"sleep", pause_for},
    {"park", park},        {"dup", twin},         {"swap", swap},
    {"bad", bad_bind},     {"uid", become},       {"close-all", close_all},
    {"alarm", alarms},     {"limit", limit},      {"deny", deny},
    {"undumpable", hide},  {"netns", netns},      {"race", race},
    {"storm", storm},      {"int80", int80},      {"vfork", vforked},
    {"ring", ring},        {"exit", leave},       {"threads", many_threads},
    {"connect", joined},
};

int main(int argc, char **argv) {
    const char *slot = getenv("NODE_APP_INSTANCE");
    const char *inherited = getenv("HOSTILE_TAG");
    snprintf(tag, sizeof tag, "%s", inherited ? inherited : slot ? slot : "-");
    if (argc < 3) return 2;
    port = atoi(argv[1]);
    for (int i = 2; i < argc; i++) {
        char *text = strchr(argv[i], '=');
        size_t length = text ? (size_t)(text - argv[i]) : strlen(argv[i]);
        if (!strcmp(argv[i], "run")) {
            /* Another program instead of this one. */
            execvp(argv[i + 1], argv + i + 1);
            fatal("run");
        }
        if (!strcmp(argv[i], "exec")) {
            /* This program again, with the socket and the rest of the steps. */
            char use[16], *next[64] = {argv[0], argv[1], use};
            int used = 3;
            snprintf(use, sizeof use, "use=%d", current);
            for (int rest = i + 1; rest < argc && used < 63; rest++) next[used++] = argv[rest];
            execv("/proc/self/exe", next);
            fatal("exec");
        }
        const struct step *found = NULL;
        for (size_t k = 0; k < sizeof steps / sizeof *steps; k++)
            if (strlen(steps[k].name) == length && !strncmp(steps[k].name, argv[i], length))
                found = &steps[k];
        if (!found) {
            fprintf(stderr, "hostile: no such step: %s\n", argv[i]);
            return 2;
        }
        found->run(argv[i], text ? text + 1 : "");
    }
    return 0;
}
