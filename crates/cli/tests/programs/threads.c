/* Four threads, each in a blocking accept(2): threads PORT */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "answer.h"

static void serve(int fd) {
    char head[4096];
    size_t length = 0;
    while (!complete(head, length) && length < sizeof head) {
        ssize_t got = read(fd, head + length, sizeof head - length);
        if (got <= 0) break;
        length += (size_t)got;
    }
    if (complete(head, length) && write(fd, answer, strlen(answer)) < 0) perror("write");
    close(fd);
}

_Noreturn static void *accept_for_ever(void *listener) {
    for (;;) {
        int fd = accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            serve(fd);
        else if (errno != EINTR && errno != ECONNABORTED)
            /* EAGAIN too: this listener is to block. */
            die("accept4");
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(argv[1], SOCK_CLOEXEC);
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, accept_for_ever, &listener)) die("pthread_create");
    }
    accept_for_ever(&listener);
}
