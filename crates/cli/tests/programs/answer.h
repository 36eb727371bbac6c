/* What the two C servers share: the socket, and the answer. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char answer[256];

_Noreturn static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Also prepares the answer. `flags` are those of socket(2). */
static int listen_on(const char *port, int flags) {
    const char *slot = getenv("NODE_APP_INSTANCE");
    char body[64];
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    struct sockaddr_in to = {.sin_family = AF_INET};
    snprintf(body, sizeof body, "{\"pid\":%d,\"slot\":%s}", (int)getpid(), slot ? slot : "0");
    snprintf(answer, sizeof answer,
             "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
             "Content-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    to.sin_port = htons((unsigned short)atoi(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) die("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)) die("setsockopt");
    if (bind(fd, (struct sockaddr *)&to, sizeof to)) die("bind");
    if (listen(fd, 511)) die("listen");
    return fd;
}

/* Whether the head of the request is complete. */
static int complete(const char *head, size_t length) {
    return length >= 4 && !memcmp(head + length - 4, "\r\n\r\n", 4);
}
