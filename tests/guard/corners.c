/* What a guarded process does in odd corners; argv[1] says which. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* C23; the library has it, the C library perhaps not. */
extern void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

static int bytes_differ(const unsigned char *p, size_t size, unsigned char byte) {
    for (size_t i = 0; i < size; i++)
        if (p[i] != byte)
            return 1;
    return 0;
}

/* With M_PERTURB malloc's memory is filled, but calloc's is zero. */
static int perturb(unsigned char byte) {
    for (size_t size = 1; size < 300000; size = size * 3 + 1) {
        unsigned char *zero = calloc(1, size), *full = malloc(size);
        void *aligned = NULL;
        if (!zero || !full || posix_memalign(&aligned, 256, size))
            return 2;
        if (bytes_differ(zero, size, 0))
            return 3;
        if (bytes_differ(full, size, byte) || bytes_differ(aligned, size, byte))
            return 4;
        free(zero);
        free(full);
        free(aligned);
    }
    return 0;
}

/* Blocks whose end happens to be aligned to more than anybody asked for. */
static int aligned(void) {
    if (!free_aligned_sized)
        return 2;
    for (int i = 0; i < 20000; i++) {
        size_t align = (size_t)32 << i % 6, size = align * (1 + i % 3);
        char *p = aligned_alloc(align, size);
        if (!p || (uintptr_t)p % align)
            return 3;
        memset(p, i, size);
        free_aligned_sized(p, align, size);
    }
    return 0;
}

/* So many blocks of a size, freed at once or kept. */
static int many(int count, size_t size, int keep) {
    static void *kept[20000];
    for (int i = 0; i < count && i < 20000; i++) {
        void *p = malloc(size);
        if (!p)
            return 2;
        if (keep)
            kept[i] = p;
        else
            free(p);
    }
    return 0;
}

static volatile pid_t waiter;

/* Waits for every signal there is, and ends the process when one comes. */
static void *wait_for_signals(void *unused) {
    sigset_t all;
    int signal;
    sigfillset(&all);
    waiter = syscall(SYS_gettid);
    sigwait(&all, &signal);
    _exit(100 + signal % 100);
}

static int sigwaits(void) {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pthread_create(&thread, NULL, wait_for_signals, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    for (int tries = 0; tries < 5000; tries++) {
        char path[64];
        int call = -1;
        snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)waiter);
        FILE *file = waiter ? fopen(path, "r") : NULL;
        if (file) {
            if (fscanf(file, "%d", &call) != 1)
                call = -1;
            fclose(file);
        }
        if (call == SYS_rt_sigtimedwait)
            return 0;
        usleep(1000);
    }
    return 3;
}

static char *forbidden;

static void allow(int signal, siginfo_t *info, void *context) {
    if (info->si_addr != forbidden + 5000)
        _exit(4);
    mprotect(forbidden, 8192, PROT_READ | PROT_WRITE);
}

/* A program that protects its own memory and handles the faults. */
static int protects(void) {
    struct sigaction action = {.sa_sigaction = allow, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    if (posix_memalign((void **)&forbidden, 65536, 8192))
        return 2;
    if (mprotect(forbidden, 8192, PROT_READ))
        return 3;
    forbidden[5000] = 1;
    free(forbidden);
    return 0;
}

/* Loses many blocks of every kind, all asked for by this very function. */
static int loses(void) {
    void *volatile p;
    for (int i = 0; i < 300; i++) {
        p = malloc(1000);
        p = calloc(1, 1100);
        p = realloc(malloc(10), 1200);
        p = aligned_alloc(64, 1280);
        void *aligned = NULL;
        if (posix_memalign(&aligned, 128, 1400))
            return 2;
        p = malloc(100000);
    }
    p = NULL;
    return 0;
}

extern int fencepost_audit(void) __attribute__((weak));

/* Says how many contradictions an audit finds; before, a freed object's guard is taken away if
 * `behind` the library's back. The kernel may not know guards, or not tell them. */
static int audited(int behind) {
    char *p = malloc(100);
    uintptr_t page = (uintptr_t)p & -(uintptr_t)4096;
    free(p);
    if (behind && madvise((void *)page, 4096, 103))
        puts("no guards");
    printf("%d\n", fencepost_audit());
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 1;
    if (!strcmp(argv[1], "perturb"))
        return perturb((unsigned char)~atoi(getenv("MALLOC_PERTURB_")));
    if (!strcmp(argv[1], "aligned"))
        return aligned();
    if (!strcmp(argv[1], "audited"))
        return audited(argc == 3);
    if (!strcmp(argv[1], "sigwaits"))
        return sigwaits();
    if (!strcmp(argv[1], "protects"))
        return protects();
    if (!strcmp(argv[1], "loses"))
        return loses();
    if (argc == 5 && !strcmp(argv[1], "many"))
        return many(atoi(argv[2]), strtoul(argv[3], NULL, 0), atoi(argv[4]));
    return 1;
}
