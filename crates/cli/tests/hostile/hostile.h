/* What the parts of the program share. */
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern int port, current;
/* One line about a step. */
void say(const char *step, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "ok", or the name of the error. */
void result(const char *step, long value);
void fatal(const char *what);
socklen_t address(const char *text, struct sockaddr_storage *out);
/* How many are open. */
int descriptors(void);
