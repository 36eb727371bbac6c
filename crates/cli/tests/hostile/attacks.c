/* Binds that are wrong, interrupted, raced, or made past the C library. */
#define _GNU_SOURCE
#include "hostile.h"
#include "attacks.h"
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sys/ioctl.h>

/* The system call itself: registers as they are, nothing narrowed. */
static long raw_bind(long fd, const void *to, unsigned long length) {
    return syscall(SYS_bind, fd, to, length);
}

/* A page, and behind it nothing. */
static char *last_page(void) {
    long size = sysconf(_SC_PAGESIZE);
    char *two = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (two == MAP_FAILED || munmap(two + size, size)) fatal("mmap");
    return two + size;
}

/* bad=KIND: one bind with something wrong, on 127.0.0.1 and the port. */
void bad_bind(const char *step, char *kind) {
    struct sockaddr_storage good, other;
    socklen_t length = address("127.0.0.1", &good);
    const char *end = last_page();
    int is_v6 = 0;
    socklen_t size = sizeof is_v6;
    getsockopt(current, SOL_SOCKET, SO_DOMAIN, &is_v6, &size);
    if (is_v6 == AF_INET6) length = address("::1", &good);
    long code = -2;
    if (!strcmp(kind, "empty")) code = raw_bind(current, &good, 0);
    if (!strcmp(kind, "one")) code = raw_bind(current, &good, 1);
    if (!strcmp(kind, "short")) code = raw_bind(current, &good, 8);
    if (!strcmp(kind, "null")) code = raw_bind(current, NULL, length);
    if (!strcmp(kind, "pointer")) code = raw_bind(current, (void *)8, length);
    if (!strcmp(kind, "kernel")) code = raw_bind(current, (void *)-4096L, length);
    if (!strcmp(kind, "huge")) code = raw_bind(current, &good, 0x7fffffff);
    if (!strcmp(kind, "negative")) code = raw_bind(current, &good, -1L);
    if (!strcmp(kind, "large")) code = raw_bind(current, &good, sizeof good + 1);
    if (!strcmp(kind, "no-fd")) code = raw_bind(-1, &good, length);
    if (!strcmp(kind, "unused-fd")) code = raw_bind(999, &good, length);
    if (!strcmp(kind, "half-mapped")) {
        memcpy((char *)end - length / 2, &good, length / 2);
        code = raw_bind(current, end - length / 2, length);
    }
    if (!strcmp(kind, "file") || !strcmp(kind, "path")) {
        int fd = open("/dev/null", !strcmp(kind, "path") ? O_PATH : O_RDONLY);
        code = raw_bind(fd, &good, length);
        int error = errno;
        close(fd);
        errno = error;
    }
    if (!strcmp(kind, "listen-no-fd")) code = listen(-1, 5);
    if (!strcmp(kind, "listen-unused-fd")) code = listen(999, 5);
    if (!strcmp(kind, "listen-file")) {
        int fd = open("/dev/null", O_RDONLY);
        code = listen(fd, 5);
        int error = errno;
        close(fd);
        errno = error;
    }
    if (!strcmp(kind, "family")) {
        length = address(is_v6 == AF_INET6 ? "127.0.0.1" : "::1", &other);
        code = raw_bind(current, &other, length);
    }
    if (!strcmp(kind, "unknown-family")) {
        good.ss_family = 99;
        code = raw_bind(current, &good, length);
    }
    if (!strcmp(kind, "unspec-host")) {
        good.ss_family = AF_UNSPEC;
        code = raw_bind(current, &good, length);
    }
    /* These are no mistakes: the kernel takes them. */
    if (!strcmp(kind, "unspec")) {
        length = address("0.0.0.0", &good);
        good.ss_family = AF_UNSPEC;
        code = raw_bind(current, &good, length);
    }
    if (!strcmp(kind, "roomy")) code = raw_bind(current, &good, sizeof good);
    if (!strcmp(kind, "at-the-end")) {
        memcpy((char *)end - length, &good, length);
        code = raw_bind(current, end - length, length);
    }
    if (!strcmp(kind, "wide-fd")) code = raw_bind(current | 7L << 32, &good, length);
    if (!strcmp(kind, "wide-length")) code = raw_bind(current, &good, length | 7L << 32);
    if (code == -2) {
        errno = ENOSYS;
        fatal(kind);
    }
    result(step, code);
}

/* Gives up root, and with it all capabilities. */
void become(const char *step, char *text) {
    int id = atoi(text);
    if (!geteuid() && (setresgid(id, id, id) || setresuid(id, id, id))) fatal(step);
    say(step, "ok");
}

void close_all(const char *step, char *text) {
    (void)text;
    for (int fd = 3; fd < 1024; fd++) close(fd);
    current = -1;
    say(step, "ok");
}

static void nothing(int number) { (void)number; }

/* alarm=MICROSECONDS: a signal again and again, whose handler does not restart system calls; with
 * "restart" after it, does. */
void alarms(const char *step, char *text) {
    struct sigaction action = {.sa_handler = nothing, .sa_flags = strstr(text, "restart") ? SA_RESTART : 0};
    struct itimerval time = {{0, atoi(text)}, {0, atoi(text)}};
    sigaction(SIGALRM, &action, NULL);
    result(step, setitimer(ITIMER_REAL, &time, NULL));
}

void limit(const char *step, char *text) {
    struct rlimit files = {atoi(text), atoi(text)};
    result(step, setrlimit(RLIMIT_NOFILE, &files));
}

/* deny=ERROR,CALL,CALL...: from now on these system calls fail so. Inherited by what is run. */
void deny(const char *step, char *text) {
    static const struct { const char *name; int number; } calls[] = {
        {"seccomp", SYS_seccomp}, {"pidfd_getfd", 438}, {"pidfd_open", 434},
        {"process_vm_readv", SYS_process_vm_readv}, {"ptrace", SYS_ptrace}, {"prctl", SYS_prctl},
    };
    int error = !strncmp(text, "enosys", 6) ? ENOSYS : EPERM;
    struct sock_filter filter[64] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    int used = 1;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (!strstr(text, calls[i].name)) continue;
        int filtered_prctl = calls[i].number == SYS_prctl;
        filter[used++] = (struct sock_filter)BPF_JUMP(
            BPF_JMP | BPF_JEQ | BPF_K, calls[i].number, 0, filtered_prctl ? 4 : 1);
        if (filtered_prctl) {
            /* Only what asks for a filter. */
            filter[used++] = (struct sock_filter)BPF_STMT(
                BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args));
            filter[used++] = (struct sock_filter)BPF_JUMP(
                BPF_JMP | BPF_JEQ | BPF_K, PR_SET_SECCOMP, 0, 1);
            filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
            filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        } else
            filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
    }
    filter[used++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {used, filter};
    if (geteuid() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fatal(step);
    result(step, prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

void hide(const char *step, char *text) {
    (void)text;
    result(step, prctl(PR_SET_DUMPABLE, 0));
}

/* A network of its own, with nothing but a loopback interface. */
void netns(const char *step, char *text) {
    (void)text;
    struct ifreq lo = {.ifr_name = "lo"};
    if (unshare(geteuid() ? CLONE_NEWUSER | CLONE_NEWNET : CLONE_NEWNET)) fatal(step);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (ioctl(fd, SIOCGIFFLAGS, &lo)) fatal(step);
    lo.ifr_flags |= IFF_UP;
    result(step, ioctl(fd, SIOCSIFFLAGS, &lo));
    close(fd);
}

/* race=TIMES: binds while another thread turns the address's port to the next one and back. */
static struct sockaddr_storage raced;
static volatile int over;

static void *flip(void *unused) {
    struct sockaddr_in *to = (void *)&raced;
    for (int other = 0; !over; other = !other) {
        *(volatile in_port_t *)&to->sin_port = htons(port + other);
        for (volatile int pause = 0; pause < 300; pause++) {}
    }
    return unused;
}

void race(const char *step, char *text) {
    pthread_t thread;
    socklen_t length = address("127.0.0.1", &raced);
    int counts[4] = {0}, wrong = 0;
    if (pthread_create(&thread, NULL, flip, NULL)) fatal(step);
    for (int i = 0; i < atoi(text); i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) fatal(step);
        if (!bind(fd, (void *)&raced, length)) {
            struct sockaddr_in is;
            socklen_t size = sizeof is, width = sizeof(int);
            int slot = 0;
            if (getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &slot, &width)) fatal(step);
            if (getsockname(fd, (void *)&is, &size)) fatal(step);
            int which = ntohs(is.sin_port) - port;
            /* On the next port there is only a socket of this program's own, which has no SO_REUSEPORT. */
            if (which == 0 || (which == 1 && !slot)) counts[which]++;
            else wrong++;
        } else
            counts[errno == EADDRINUSE ? 2 : 3]++;
        close(fd);
    }
    over = 1;
    pthread_join(thread, NULL);
    say(step, "port %s, next %s, in use %s, other errors %d, wrong %d", counts[0] ? "yes" : "no",
        counts[1] ? "yes" : "no", counts[2] ? "yes" : "no", counts[3], wrong);
}

/* storm=TIMES: processes that bind again and again are killed at any moment. */
void storm(const char *step, char *text) {
    struct sockaddr_storage to;
    socklen_t length = address("127.0.0.1", &to);
    unsigned seed = getpid();
    for (int i = 0; i < atoi(text); i++) {
        int child = fork();
        if (child < 0) fatal(step);
        if (!child)
            for (;;) {
                int fd = socket(AF_INET, SOCK_STREAM, 0);
                bind(fd, (void *)&to, length);
                close(fd);
            }
        usleep(rand_r(&seed) % 3000);
        kill(child, SIGKILL);
        if (waitpid(child, NULL, 0) != child) fatal(step);
    }
    say(step, "ok");
}

/* The bind of 32-bit programs, which a 64-bit one can call too. */
void int80(const char *step, char *text) {
#ifdef __x86_64__
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) fatal(step);
    memcpy(low, &to, length);
    /* In a child: a kernel without 32-bit programs kills for it. */
    int *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), how;
    int child = fork();
    if (!child) {
        long value = 361;
        __asm__ volatile("int $0x80" : "+a"(value) : "b"(current), "c"(low), "d"(length) : "memory", "r8", "r9", "r10", "r11");
        *code = value;
        _exit(0);
    }
    waitpid(child, &how, 0);
    if (WIFSIGNALED(how))
        say(step, "killed by signal %d", WTERMSIG(how));
    else {
        errno = -*code;
        result(step, *code < 0 ? -1 : 0);
    }
#else
    (void)text;
    errno = ENOSYS;
    result(step, -1);
#endif
}

/* A child that shares this memory, but not the descriptors. */
void vforked(const char *step, char *text) {
    static struct sockaddr_storage to;
    static volatile long code;
    static volatile int error;
    socklen_t length = address(text, &to);
    int child = vfork();
    if (!child) {
        code = raw_bind(current, &to, length);
        error = errno;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    errno = error;
    result(step, code);
}

/* A bind that is no system call of its own: the kernel takes it from a ring. */
void ring(const char *step, char *text) {
    struct sockaddr_storage to;
    socklen_t length = address(text, &to);
    struct io_uring_params with = {0};
    int fd = syscall(SYS_io_uring_setup, 4, &with);
    if (fd < 0) return result(step, -1);
    size_t size = with.sq_off.array + with.sq_entries * sizeof(unsigned);
    char *sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    size = with.cq_off.cqes + with.cq_entries * sizeof(struct io_uring_cqe);
    char *cq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_CQ_RING);
    struct io_uring_sqe *sqe = mmap(NULL, with.sq_entries * sizeof *sqe, PROT_READ | PROT_WRITE,
                                    MAP_SHARED, fd, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqe == MAP_FAILED) fatal(step);
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = 56; /* IORING_OP_BIND, which older headers do not have */
    sqe->fd = current;
    sqe->addr = (uintptr_t)&to;
    sqe->off = length;
    ((unsigned *)(sq + with.sq_off.array))[0] = 0;
    __atomic_store_n((unsigned *)(sq + with.sq_off.tail), 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) fatal(step);
    int code = ((struct io_uring_cqe *)(cq + with.cq_off.cqes))->res;
    close(fd);
    errno = -code;
    result(step, code < 0 ? -1 : 0);
}

void leave(const char *step, char *text) {
    say(step, "ok");
    _exit(atoi(text));
}

static void *one_bind(void *to) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
    long code = bind(fd, to, sizeof(struct sockaddr_in));
    close(fd);
    return (void *)code;
}

/* threads=COUNT: so many at once. */
void many_threads(const char *step, char *text) {
    pthread_t threads[64];
    struct sockaddr_storage to;
    int count = atoi(text), bound = 0;
    address("127.0.0.1", &to);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, one_bind, &to)) fatal(step);
    for (int i = 0; i < count; i++) {
        void *code;
        pthread_join(threads[i], &code);
        bound += code == NULL;
    }
    say(step, "%d bound", bound);
}
