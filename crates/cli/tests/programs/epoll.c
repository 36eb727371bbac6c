/* One thread, a listener that does not block, epoll(7): epoll PORT */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>

#include "answer.h"

struct client {
    int fd;
    size_t length;
    char head[4096];
};

static void drop(struct client *client) {
    close(client->fd);
    free(client);
}

static void read_from(struct client *client) {
    ssize_t got = read(client->fd, client->head + client->length,
                       sizeof client->head - client->length);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got > 0) client->length += (size_t)got;
    if (got > 0 && !complete(client->head, client->length) && client->length < sizeof client->head)
        return;
    /* An answer this short fits into the buffer of a new connection. */
    if (got > 0 && write(client->fd, answer, strlen(answer)) < 0) perror("write");
    drop(client);
}

static void accept_all(int listener, int poll) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            /* Were the listener a blocking one, this loop would never come here. */
            if (errno == EAGAIN) return;
            if (errno == EINTR || errno == ECONNABORTED) continue;
            die("accept4");
        }
        struct client *client = calloc(1, sizeof *client);
        if (!client) die("calloc");
        client->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(argv[1], SOCK_NONBLOCK | SOCK_CLOEXEC), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[64];
    if (poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event)) die("epoll");
    for (;;) {
        int count = epoll_wait(poll, events, 64, -1);
        if (count < 0 && errno != EINTR) die("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                read_from(events[i].data.ptr);
            else
                accept_all(listener, poll);
        }
    }
}
