/* How much memory a load keeps. Every line of output is a name and a number.
 * usage: memory hundred none|BYTES|mixed|churn
 *        memory peak one|turns|beside COUNT
 *        memory long OPERATIONS
 *        memory idle holding|freely|in_turn THREADS ROUNDS
 *        memory after COUNT
 * Nothing but the load itself allocates: tables are mapped. */
#include "../threads/common.h"
#include <sched.h>
#include <time.h>

/* The number behind `field` of a file below /proc/self, in KiB. */
static long kib_of(const char *file, const char *field)
{
    char text[4096];
    int fd = open(file, O_RDONLY);
    ssize_t n = 0, more;
    while (n < (ssize_t)sizeof text - 1 && (more = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += more;
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    char *at = strstr(text, field);
    if (!at)
        _exit(85);
    return atol(at + strlen(field));
}

/* Exact, where statm may lag behind by some pages for each processor. */
static long resident(void) { return kib_of("/proc/self/smaps_rollup", "Rss:"); }
static long peak(void) { return kib_of("/proc/self/status", "VmHWM:"); }

static void pause_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t))
        ;
}

/* A size of 16 bytes to 2^`most` - 1, each doubling as likely as the next. */
static size_t any_size(uint64_t *seed, unsigned most)
{
    size_t base = (size_t)16 << next(seed) % (most - 4);
    return base + next(seed) % base;
}

/* Allocates, and writes to every page; small blocks are filled. */
static void *touched(size_t size)
{
    char *p = malloc(size);
    if (!p)
        _exit(82);
    if (size <= 4096)
        memset(p, (int)size, size);
    else
        for (size_t i = 0; i < size; i += 4096)
            p[i] = (char)size;
    p[size - 1] = (char)size;
    return p;
}

/* ---- A hundred live objects ---- */

static void hundred(const char *what)
{
    static void *p[100];
    uint64_t seed = 7;
    long fixed = atol(what);
    for (int i = 0; i < 100 && strcmp(what, "none"); i++)
        p[i] = filled(fixed > 0 ? (size_t)fixed : (size_t)16 << i % 3 * 6);
    if (!strcmp(what, "churn"))
        for (long i = 0; i < 100000; i++) {
            unsigned slot = next(&seed) % 100;
            free(p[slot]);
            p[slot] = filled(any_size(&seed, 16));
        }
    figure("resident_kib", resident());
    figure("anonymous_kib", kib_of("/proc/self/smaps_rollup", "Anonymous:"));
    figure("peak_kib", peak());
    for (int i = 0; i < 100; i++)
        free(p[i]);
}

/* ---- A peak, of which a random tenth stays, five times over ---- */

enum { ROUNDS = 5 };
static void **slots;
static unsigned *sizes;
static long count, live;
/* Slots that were visited, over all rounds. */
static _Atomic long made, gone;
/* In turns, all of a round is there before the other thread frees it. Else that one follows half
 * a round behind. */
static int turns;

static void make(long i, uint64_t *seed)
{
    long at = i % count, round = i / count;
    unsigned kind = next(seed) % 100, n = next(seed);
    if (slots[at])
        return;
    sizes[at] = kind < 70   ? 16 + 16 * round + n % 240
                : kind < 95 ? 256 + n % 2048
                : kind < 99 ? 4096 + n % 16384
                            : 100000 + n % 200000;
    slots[at] = filled(sizes[at]);
    __atomic_fetch_add(&live, (long)sizes[at], __ATOMIC_RELAXED);
}

static void unmake(long i, uint64_t *seed)
{
    long at = i % count;
    if (next(seed) % 10 == 0)
        return;
    check(slots[at], sizes[at]);
    free(slots[at]);
    slots[at] = 0;
    __atomic_fetch_sub(&live, (long)sizes[at], __ATOMIC_RELAXED);
}

static void after_round(long round)
{
    char name[] = "round_0_kib";
    name[6] += round + 1;
    figure(name, resident());
}

/* Frees what another thread allocates, a tenth excepted. */
static void *second(void *unused)
{
    uint64_t seed = 43;
    for (long i = 0; i < ROUNDS * count; i++) {
        while (made < (turns ? (i / count + 1) * count : i + count / 2) && made < ROUNDS * count)
            pause_ms(1);
        unmake(i, &seed);
        gone = i + 1;
        if ((i + 1) % count == 0)
            after_round(i / count);
    }
    return unused;
}

static void peaks(const char *how, long objects)
{
    count = objects;
    slots = table(count * sizeof *slots);
    sizes = table(count * sizeof *sizes);
    uint64_t seed = 42;
    if (!strcmp(how, "one")) {
        for (int round = 0; round < ROUNDS; round++) {
            for (long i = 0; i < count; i++)
                make(round * count + i, &seed);
            for (long i = 0; i < count; i++)
                unmake(i, &seed);
            after_round(round);
        }
    } else {
        turns = !strcmp(how, "turns");
        pthread_t t = start(second, 0);
        for (long i = 0; i < ROUNDS * count; i++) {
            /* Neither thread overtakes the other. */
            while (turns ? gone < i / count * count : gone < i - count / 4 * 3)
                pause_ms(1);
            make(i, &seed);
            made = i + 1;
        }
        pthread_join(t, 0);
    }
    figure("live_kib", live / 1024);
    figure("end_kib", resident());
    pause_ms(1000);
    figure("second_kib", resident());
    figure("peak_kib", peak());
}

/* ---- A long mixed run ---- */

enum { SLOTS = 200000, PHASES = 10, SAMPLES = 2 * PHASES };

static void replace(unsigned at, size_t size)
{
    if (slots[at]) {
        free(slots[at]);
        live -= sizes[at];
    }
    slots[at] = touched(size);
    sizes[at] = size;
    live += size;
}

/* Ten phases, twice over: each favours another size. A quarter of the slots sees three quarters of
 * the traffic, so that long lives lie beside short ones. */
static void lasting(long operations)
{
    slots = table(SLOTS * sizeof *slots);
    sizes = table(SLOTS * sizeof *sizes);
    uint64_t seed = 11;
    for (int sample = 0; sample <= SAMPLES; sample++) {
        size_t favoured = 40 + 56 * (sample * 7 % PHASES);
        /* Before the first sample, all slots are filled. */
        for (long i = 0; i < (sample ? operations / SAMPLES : SLOTS); i++) {
            unsigned at = next(&seed) % (next(&seed) % 4 ? SLOTS / 4 : SLOTS);
            size_t any = any_size(&seed, next(&seed) % 32 ? 12 : 16);
            if (sample)
                replace(at, next(&seed) % 4 ? any : favoured);
            else
                replace(i, any);
        }
        if (sample) {
            char name[32];
            snprintf(name, sizeof name, "resident_%02d_kib", sample);
            figure(name, resident());
            snprintf(name, sizeof name, "live_%02d_kib", sample);
            figure(name, live / 1024);
        }
    }
    figure("peak_kib", peak());
}

/* ---- Threads that allocated and went idle ---- */

static pthread_barrier_t ready, finish;
static _Atomic long at_rest;
static long rounds;
/* Whether all blocks of the last round are there at one time; whether each thread waits until the
 * one before it is idle. */
static int holding, in_turn;

static void *idler(void *number)
{
    /* Every thread touches as much of its stack as another. */
    volatile char stack[24 << 10];
    for (size_t i = 0; i < sizeof stack; i += 4096)
        stack[i] = 1;
    if (in_turn)
        while (at_rest < (long)number)
            pause_ms(1);
    else
        pthread_barrier_wait(&ready);
    uint64_t seed = 100 + (long)number;
    for (long round = 1; round <= rounds; round++) {
        void *p[64];
        for (int i = 0; i < 64; i++)
            p[i] = touched(i % 16 == 15 ? 100 << 10 : any_size(&seed, 16));
        if (holding && round == rounds)
            pthread_barrier_wait(&ready);
        for (int i = 0; i < 64; i++)
            free(p[i]);
    }
    at_rest++;
    pthread_barrier_wait(&finish);
    return 0;
}

static void idle(const char *how, long threads, long times)
{
    pthread_t *t = table(threads * sizeof *t);
    holding = !strcmp(how, "holding");
    in_turn = !strcmp(how, "in_turn");
    rounds = times;
    pthread_barrier_init(&ready, 0, threads);
    pthread_barrier_init(&finish, 0, threads + 1);
    for (long i = 0; i < threads; i++)
        t[i] = start(idler, i);
    while (at_rest < threads)
        pause_ms(10);
    figure("resident_kib", resident());
    pause_ms(1000);
    figure("second_kib", resident());
    figure("peak_kib", peak());
    pthread_barrier_wait(&finish);
    for (long i = 0; i < threads; i++)
        pthread_join(t[i], 0);
    figure("joined_kib", resident());
}

/* ---- All of many equal blocks freed ---- */

static void after(long blocks)
{
    size_t bytes = blocks * sizeof(char *);
    char **p = table(bytes);
    uint64_t seed = 1;
    for (long i = 0; i < blocks; i++)
        p[i] = filled(120);
    figure("full_kib", resident() - (long)(bytes / 1024));
    for (long i = 0; i < blocks; i++)
        free(p[i]);
    munmap(p, bytes);
    figure("freed_kib", resident());
    pause_ms(1000);
    figure("second_kib", resident());
    void *q[1000] = {0};
    for (long i = 0; i < 1000000; i++) {
        unsigned at = next(&seed) % 1000;
        free(q[at]);
        q[at] = touched(any_size(&seed, 12));
    }
    for (int i = 0; i < 1000; i++)
        free(q[i]);
    figure("worked_kib", resident());
    figure("peak_kib", peak());
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 3 && !strcmp(what, "hundred"))
        hundred(argv[2]);
    else if (argc == 4 && !strcmp(what, "peak"))
        peaks(argv[2], atol(argv[3]));
    else if (argc == 3 && !strcmp(what, "long"))
        lasting(atol(argv[2]));
    else if (argc == 5 && !strcmp(what, "idle"))
        idle(argv[2], atol(argv[3]), atol(argv[4]));
    else if (argc == 3 && !strcmp(what, "after"))
        after(atol(argv[2]));
    else
        return 97;
    return 0;
}
