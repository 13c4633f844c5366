/* A sandbox allows from some point on only the system calls that an allocator needs for memory
 * (and futex, and those that end the program). Anything else is an error with its number. */
#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { THREADS = 4 };
static pthread_barrier_t barrier;

static void forbidden(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    char text[] = "system call number 0000\n";
    int number = info->si_syscall;
    for (char *digit = text + 22; number > 0; number /= 10)
        *digit-- = (char)('0' + number % 10);
    say(text);
    _exit(3);
}

static void sandbox(void) {
#define ALLOW(name)                                                            \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(brk),     ALLOW(mmap),  ALLOW(munmap),       ALLOW(mremap),
        ALLOW(mprotect), ALLOW(madvise), ALLOW(futex),     ALLOW(write),
        ALLOW(exit),    ALLOW(exit_group), ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    struct sigaction action = {0};
    action.sa_sigaction = forbidden;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGSYS, &action, NULL) == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0);
}

static void work(unsigned seed) {
    enum { SLOTS = 2000 };
    static __thread struct {
        unsigned char *p;
        size_t size;
    } slots[SLOTS];
    for (int i = 0; i < 60000; i++) {
        seed = seed * 1103515245 + 12345;
        unsigned slot = (seed >> 8) % SLOTS;
        size_t size = i % 100 == 0 ? (size_t)1 << (17 + seed % 6) : 1 + (seed >> 4) % 5000;
        if (i % 7 == 0) {
            slots[slot].p = realloc(slots[slot].p, size);
        } else {
            free(slots[slot].p);
            slots[slot].p = i % 5 == 0 ? calloc(1, size) : malloc(size);
        }
        CHECK(slots[slot].p != NULL);
        slots[slot].p[0] = slots[slot].p[size - 1] = 1;
    }
    for (int i = 0; i < SLOTS; i++)
        free(slots[i].p);
    malloc_trim(0);
}

/* The first allocation of some threads comes after the filter, that of others before it. */
static void *thread(void *arg) {
    unsigned seed = (unsigned)(uintptr_t)arg;
    if (seed % 2)
        free(malloc(100));
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    work(seed);
    return NULL;
}

int main(void) {
    check_preloaded();
    puts("ok"); /* Before the filter: a pipe's stdio asks for its state once. */
    fflush(stdout);
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, thread, (void *)(uintptr_t)i) == 0);
    pthread_barrier_wait(&barrier);
    sandbox();
    pthread_barrier_wait(&barrier);
    work(99);
for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    say("still here\n");
    _exit(0);
}
