/* Blocks that are lost, and blocks that something still leads to.
 * usage: leaks KIND. Every block that may be told has a size of its own. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern int fencepost_leak_check(void) __attribute__((weak));

#define APART __attribute__((noinline, noclone))
#define MASK ((uintptr_t)0x5a5a5a5a5a5a5a5a)

static void *volatile kept;
static __thread void *volatile in_tls;
static volatile int ready, go;
static volatile uintptr_t masked;
static int pipes[2];

/* Overwrites what calls have left below, and the registers that a call may change: from several
 * depths, so that what one leaves out the next does not. */
APART static void wipe_below(size_t shift)
{
    volatile char first[shift];
    for (size_t i = 0; i < shift; i++)
        first[i] = 0;
    volatile char dead[16 << 10];
    for (size_t i = 0; i < sizeof dead; i++)
        dead[i] = 0;
}

APART static void wipe(void)
{
    for (size_t shift = 8; shift < 200; shift += 40)
        wipe_below(shift);
}

/* A block's address, in a form that no search knows. */
APART static uintptr_t hidden(size_t size)
{
    char *volatile p = malloc(size);
    memset(p, 'x', size);
    uintptr_t result = (uintptr_t)p ^ MASK;
    p = 0;
    return result;
}

APART static uintptr_t secret(size_t size)
{
    uintptr_t result = hidden(size);
    wipe();
    return result;
}

/* The address again; the caller keeps it in one place only. */
#define SHOW(secret) ((void *)((secret) ^ MASK))

/* Exported, so that its name can be told. */
APART void lose_by_name(size_t size)
{
    secret(size);
}

static void lost(void) { secret(1001); }
static void by_name(void) { lose_by_name(1002); }

static void silent(void)
{
    free(malloc(1003));
    kept = malloc(1003);
}

APART static void lose_here(size_t size) { hidden(size); }
APART static void lose_there(size_t size) { hidden(size); }

/* Five blocks from one place, two larger ones from another. */
static void grouped(void)
{
    volatile int five = 5, two = 2;
    while (five--)
        lose_here(100);
    while (two--)
        lose_there(400);
    wipe();
}

static void in_static(void) { kept = SHOW(secret(1010)); }
static void interior(void) { kept = (char *)SHOW(secret(1011)) + 500; }
static void past_end(void) { kept = (char *)SHOW(secret(1012)) + 1012; }
static void beyond_end(void) { kept = (char *)SHOW(secret(1013)) + 1013 + 64; }

static void chain(void)
{
    void **first = calloc(1, 1020);
    kept = first;
    first[3] = SHOW(secret(1021));
    void **second = first[3];
    second[7] = SHOW(secret(1022));
}

APART static void make_ring(void)
{
    void **a = calloc(1, 1030), **b = calloc(1, 1031), **c = calloc(1, 1032);
    a[0] = b;
    b[0] = c;
    c[0] = a;
    c[1] = calloc(1, 1033);
    a[1] = a;
}

static void ring(void)
{
    make_ring();
    wipe();
}

static void other_calls(void)
{
    char *volatile p = calloc(3, 347);
    p = realloc(malloc(10), 1042);
    p = memalign(4096, 1043);
    void *q;
    posix_memalign(&q, 64, 1044);
    p = q = 0;
    wipe();
}

static void large(void) { secret(3 << 20); }

static void in_large(void)
{
    char *p = malloc(64 << 20);
    kept = p + (60 << 20);
    *(void **)(p + (33 << 20)) = SHOW(secret(1051));
}

static void in_mapping(void)
{
    int protection = PROT_READ | PROT_WRITE;
    char *p = mmap(0, 4 << 20, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(void **)(p + (1 << 20)) = SHOW(secret(1052));
    char *q = mmap(0, 1 << 20, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *(void **)(q + 8192) = SHOW(secret(1053));
    /* A page that may only be read from now on. */
    char *r = mmap(0, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(void **)r = SHOW(secret(1054));
    mprotect(r, 4096, PROT_READ);
    /* A reservation of which next to nothing is there. */
    char *s = mmap(0, 1ul << 38, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s != MAP_FAILED)
        *(void **)(s + (1ul << 37)) = SHOW(secret(1055));
    else
        free(SHOW(masked = secret(1055)));
}

static void in_main_tls(void) { in_tls = SHOW(secret(1060)); }

/* The frame that holds the pointer is alive when the process exits. */
static void on_stack(void)
{
    void *volatile here[8];
    memset((void *)here, 0, sizeof here);
    here[3] = SHOW(secret(1061));
    exit(5);
}

static void wait_for(volatile int *flag)
{
    while (!*flag)
        usleep(1000);
}

/* ---- threads ---- */

APART static void hold_on_stack(size_t size, int block)
{
    void *volatile here[8];
    memset((void *)here, 0, sizeof here);
    here[5] = SHOW(secret(size));
    ready = 1;
    char byte;
    if (block)
        read(pipes[0], &byte, 1);
    else
        while (!go)
            ;
    here[5] = 0;
}

static void *holder_blocked(void *unused)
{
    hold_on_stack(1070, 1);
    return 0;
}

static void *holder_running(void *unused)
{
    hold_on_stack(1071, 0);
    return 0;
}

static void *holder_deaf(void *unused)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
    hold_on_stack(1072, 1);
    return 0;
}

static void *holder_tls(void *unused)
{
    in_tls = SHOW(secret(1073));
    ready = 1;
    char byte;
    read(pipes[0], &byte, 1);
    return 0;
}

static void *holder_register(void *unused)
{
#if defined __x86_64__
    __asm__ volatile("mov %[masked], %%r13\n xor %[mask], %%r13\n movl $1, %[ready]\n"
                     "1: pause\n cmpl $0, %[go]\n je 1b\n xor %%r13, %%r13\n"
                     : [ready] "+m"(ready)
                     : [masked] "m"(masked), [mask] "r"(MASK), [go] "m"(go)
                     : "r13", "cc", "memory");
#elif defined __aarch64__
    __asm__ volatile("ldr x20, %[masked]\n eor x20, x20, %[mask]\n mov w9, #1\n str w9, %[ready]\n"
                     "1: yield\n ldr w9, %[go]\n cbz w9, 1b\n mov x20, #0\n"
                     : [ready] "+m"(ready)
                     : [masked] "m"(masked), [mask] "r"(MASK), [go] "m"(go)
                     : "x9", "x20", "cc", "memory");
#endif
    return 0;
}

static void *ends_with_stack(void *unused)
{
    void *volatile here[8];
    here[2] = SHOW(secret(1080));
    return 0;
}

static void *ends_with_tls(void *unused)
{
    in_tls = SHOW(secret(1081));
    return 0;
}

static pthread_t begin(void *(*body)(void *))
{
    pthread_t thread;
    ready = 0;
    if (pthread_create(&thread, 0, body, 0))
        _exit(9);
    return thread;
}

static void held(void *(*body)(void *))
{
    begin(body);
    wait_for(&ready);
    wipe();
}

static void ended(void *(*body)(void *))
{
    pthread_join(begin(body), 0);
    wipe();
}

static void thread_blocked(void) { held(holder_blocked); }
static void thread_running(void) { held(holder_running); }
static void thread_deaf(void) { held(holder_deaf); }
static void thread_tls(void) { held(holder_tls); }
static void thread_ended(void) { ended(ends_with_stack); }
static void thread_tls_ended(void) { ended(ends_with_tls); }

static void thread_deaf_lost(void)
{
    held(holder_deaf);
    lose_by_name(1074);
}

static void thread_register(void)
{
    masked = secret(1075);
    held(holder_register);
    masked = 0;
}

static void thread_many(void)
{
    for (int i = 0; i < 40; i++)
        held(i % 2 ? holder_blocked : holder_tls);
    lose_by_name(1076);
}

static void *nothing(void *unused) { return 0; }

/* Threads come and go while the process exits. */
static void *restless(void *unused)
{
    for (;;) {
        pthread_t thread;
        if (!pthread_create(&thread, 0, nothing, 0))
            pthread_join(thread, 0);
        ready = 1;
    }
    return 0;
}

static void thread_restless(void)
{
    for (int i = 0; i < 3; i++)
        held(restless);
    lose_by_name(1077);
}

/* ---- fork ---- */

static void fork_child(void)
{
    begin(holder_blocked);
    wait_for(&ready);
    lose_by_name(1090);
    pid_t child = fork();
    if (child == 0) {
        lose_by_name(1091);
        exit(7);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
        _exit(8);
}

/* ---- on demand ---- */

static volatile long rounds;

static void *counts(void *unused)
{
    for (;;) {
        rounds++;
        ready = 1;
    }
    return 0;
}

static volatile int got;

static void *reads(void *unused)
{
    char byte = 0;
    ready = 1;
    ssize_t n = read(pipes[0], &byte, 1);
    got = n == 1 && byte == 'x' ? 1 : 2;
    return 0;
}

/* Asks before and after something is lost; other threads go on in between. */
static void on_demand(void)
{
    struct sigaction before[65], now;
    for (int i = 1; i < 65; i++)
        sigaction(i, 0, &before[i]);
    held(counts);
    held(reads);
    kept = SHOW(secret(1100));
    printf("%d\n", fencepost_leak_check());
    kept = 0;
    printf("%d\n", fencepost_leak_check());
    lose_by_name(1101);
    printf("%d\n", fencepost_leak_check());
    long seen = rounds;
    while (rounds == seen)
        usleep(1000);
    write(pipes[1], "x", 1);
    while (!got)
        usleep(1000);
    printf("%s\n", got == 1 ? "read" : "interrupted");
    for (int i = 1; i < 65; i++)
        if (!sigaction(i, 0, &now) && now.sa_handler != before[i].sa_handler)
            printf("signal %d is not as it was\n", i);
    fflush(stdout);
    _exit(0);
}

static void many(void)
{
    for (int i = 0; i < 2000; i++)
        hidden(48);
    wipe();
}

#define KIND(f) {#f, f}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {
    KIND(lost), KIND(by_name), KIND(silent), KIND(grouped), KIND(in_static), KIND(interior),
    KIND(past_end), KIND(beyond_end), KIND(chain), KIND(ring), KIND(other_calls), KIND(large),
    KIND(in_large), KIND(in_mapping), KIND(in_main_tls), KIND(on_stack), KIND(thread_blocked),
    KIND(thread_running), KIND(thread_deaf), KIND(thread_deaf_lost), KIND(thread_tls),
    KIND(thread_ended), KIND(thread_tls_ended), KIND(thread_register), KIND(thread_many),
    KIND(thread_restless), KIND(fork_child), KIND(on_demand), KIND(many),
};

int main(int argc, char **argv)
{
    if (argc != 2 || pipe(pipes))
        return 2;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, argv[1])) {
            kinds[i].run();
            wipe();
            return 3;
        }
    return 2;
}
