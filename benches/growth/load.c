/* What a malloc and a free cost as the heap grows.
 * usage: load bytes LIVE_BYTES OPERATIONS     objects of 16 bytes to 32 KiB
 *        load objects COUNT OPERATIONS        objects of 16 bytes
 *        load threads THREADS OPERATIONS      16 bytes to 1 KiB, 10,000 for each thread
 * Up to four phases are measured, each when the rest is there: the last objects of all are allocated
 * (grow), random ones are replaced one by one (replace) and 512 at a time (batch), random ones are
 * freed (shrink). Output: the phase, then nanoseconds of CPU time per call of malloc or free or per
 * pair of both, everything around included; the phase with _calls, then how many there were.
 *
 * Under callgrind started with --instr-atstart=no --toggle-collect='counted_*', each phase leaves a
 * dump of its own: what was spent inside malloc and free. */
#include "../../tests/threads/common.h"
#include <sched.h>
#include <time.h>
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_STOP_INSTRUMENTATION
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name)
#endif

/* What callgrind counts. */
__attribute__((noinline)) static void *counted_malloc(size_t size)
{
    void *p = malloc(size);
    __asm__ volatile("" : "+r"(p)); /* a call, not a jump */
    return p;
}

__attribute__((noinline)) static void counted_free(void *p)
{
    free(p);
    __asm__ volatile("");
}

/* An object is touched where every program touches it: at its start. */
static void *object(void *p)
{
    if (!p)
        _exit(82);
    *(size_t *)p = 1;
    return p;
}

static double cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void result(const char *phase, const char *what, double value)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%s%s %.2f\n", phase, what, value);
    if (write(1, line, n) != n)
        _exit(86);
}

/* Calls before what is counted: callgrind's caches are cold when it starts. */
enum { WARMUP = 20000 };

static void **slots;
static long count;
static unsigned most; /* sizes are below 2^most; 0: all 16 */

static size_t size_of(uint64_t *seed)
{
    if (!most)
        return 16;
    size_t base = (size_t)16 << next(seed) % (most - 4);
    return base + next(seed) % base;
}

/* More than 31 bits, for as many slots. */
static long any_slot(uint64_t *seed) { return ((long)next(seed) << 20 ^ next(seed)) % count; }

/* Replaces objects until `operations` are done. */
static void replaced(long operations, uint64_t *seed, int counted)
{
    for (long i = 0; i < operations; i++) {
        long at = any_slot(seed);
        size_t size = size_of(seed);
        if (counted)
            counted_free(slots[at]);
        else
            free(slots[at]);
        slots[at] = object(counted ? counted_malloc(size) : malloc(size));
    }
}

/* Frees a batch of objects, then allocates as many; so until `operations` are done. */
static void replaced_batches(long operations, uint64_t *seed, int counted)
{
    enum { BATCH = 512 };
    long at[BATCH];
    for (long done = 0; done < operations; done += BATCH) {
        for (int i = 0; i < BATCH; i++) {
            do
                at[i] = any_slot(seed);
            while (!slots[at[i]]); /* not one of this batch */
            if (counted)
                counted_free(slots[at[i]]);
            else
                free(slots[at[i]]);
            slots[at[i]] = 0;
        }
        for (int i = 0; i < BATCH; i++) {
            size_t size = size_of(seed);
            slots[at[i]] = object(counted ? counted_malloc(size) : malloc(size));
        }
    }
}

/* With an even number, the lower one of the two in the middle. */
static double median(double *values, int n)
{
    for (int i = 1; i < n; i++) /* qsort may allocate */
        for (int j = i; j > 0 && values[j - 1] > values[j]; j--) {
            double v = values[j];
            values[j] = values[j - 1], values[j - 1] = v;
        }
    return values[(n - 1) / 2];
}

static void measured(const char *phase, void (*work)(long, uint64_t *, int), long operations,
                     uint64_t *seed)
{
    CALLGRIND_START_INSTRUMENTATION;
    work(WARMUP, seed, 0);
    CALLGRIND_ZERO_STATS;
    double took[5];
    int times = RUNNING_ON_VALGRIND ? 1 : 5;
    for (int i = 0; i < times; i++) {
        double start = cpu_ns();
        work(operations, seed, 1);
        took[i] = (cpu_ns() - start) / operations;
    }
    CALLGRIND_DUMP_STATS_AT(phase);
    CALLGRIND_STOP_INSTRUMENTATION;
    result(phase, "", median(took, times));
    result(phase, "_calls", operations);
}

static void alone(long operations)
{
    uint64_t seed = 5;
    /* The last of the objects, as far as there are enough to tell. */
    long few = count < 10000 ? 0 : count / 10 < operations ? count / 10 : operations;
    slots = table(count * sizeof *slots);
    for (long i = 0; i < count - few; i++)
        slots[i] = object(malloc(size_of(&seed)));
    if (few) {
        CALLGRIND_START_INSTRUMENTATION;
        long warm = few / 10;
        for (long i = count - few; i < count - few + warm; i++)
            slots[i] = object(malloc(size_of(&seed)));
        CALLGRIND_ZERO_STATS;
        double start = cpu_ns();
        for (long i = count - few + warm; i < count; i++)
            slots[i] = object(counted_malloc(size_of(&seed)));
        double took = cpu_ns() - start;
        CALLGRIND_DUMP_STATS_AT("grow");
        CALLGRIND_STOP_INSTRUMENTATION;
        result("grow", "", took / (few - warm));
        result("grow", "_calls", few - warm);
    }
    /* So many that the state is that of a program which has run for a while. */
    replaced(count < 4000000 ? count + operations : 4000000, &seed, 0);
    measured("replace", replaced, operations, &seed);
    if (few)
        measured("batch", replaced_batches, operations / 512 * 512, &seed);
    if (few) {
        CALLGRIND_START_INSTRUMENTATION;
        long freed = 0;
        double start = 0;
        for (long i = 0; i < few; i++) {
            long at = any_slot(&seed);
            if (i == few / 10) {
                CALLGRIND_ZERO_STATS;
                start = cpu_ns();
                freed = 0;
            }
            if (i < few / 10)
                free(slots[at]);
            else if (slots[at])
                counted_free(slots[at]), freed++;
            slots[at] = 0;
        }
        double took = cpu_ns() - start;
        CALLGRIND_DUMP_STATS_AT("shrink");
        CALLGRIND_STOP_INSTRUMENTATION;
        result("shrink", "", took / freed);
        result("shrink", "_calls", freed);
    }
    _exit(0); /* What is alive stays. */
}

/* ---- Threads ---- */

enum { SLOTS = 10000, ROUND = 4000, HANDED = ROUND / 4, MOST_THREADS = 256 };
static long threads, rounds;
static pthread_barrier_t all;
static void *(*hands)[HANDED];
static double spent[MOST_THREADS];

/* In each round: 4000 objects are allocated and as many freed, a quarter of them by the
 * neighbour. Barriers make that share the same however the threads are scheduled. */
static void *worker(void *number)
{
    long me = (long)number;
    void **mine = table(SLOTS * sizeof *mine), **out = hands[me], **in = hands[(me + 1) % threads];
    uint64_t seed = 1000 + me;
    for (int i = 0; i < SLOTS; i++)
        mine[i] = object(malloc(size_of(&seed)));
    /* As many rounds before as are counted, at least enough to replace everything twice. */
    long before = rounds > 5 ? rounds : 5;
    for (long round = 0; round < before + rounds; round++) {
        if (round == before) {
            if (pthread_barrier_wait(&all) == PTHREAD_BARRIER_SERIAL_THREAD) {
                CALLGRIND_START_INSTRUMENTATION;
                CALLGRIND_ZERO_STATS;
            }
            pthread_barrier_wait(&all);
            spent[me] = 0;
        }
        int counted = round >= before;
        double start = cpu_ns();
        for (int i = 0; i < ROUND; i++) {
            unsigned at = next(&seed) % SLOTS;
            size_t size = size_of(&seed);
            if (i % 4 == 0)
                out[i / 4] = mine[at];
            else if (counted)
                counted_free(mine[at]);
            else
                free(mine[at]);
            mine[at] = object(counted ? counted_malloc(size) : malloc(size));
        }
        spent[me] += cpu_ns() - start;
        pthread_barrier_wait(&all);
        start = cpu_ns();
        for (int i = 0; i < HANDED; i++)
            if (counted)
                counted_free(in[i]);
            else
                free(in[i]);
        spent[me] += cpu_ns() - start;
        pthread_barrier_wait(&all);
    }
    return 0;
}

static void crowd(void)
{
    pthread_t *t = table(threads * sizeof *t);
    hands = table(threads * sizeof *hands);
    pthread_barrier_init(&all, 0, threads);
    for (long i = 0; i < threads; i++)
        t[i] = start(worker, i);
    for (long i = 0; i < threads; i++)
        pthread_join(t[i], 0);
    CALLGRIND_DUMP_STATS_AT("replace");
    double sum = 0;
    for (long i = 0; i < threads; i++)
        sum += spent[i];
    long operations = threads * rounds * ROUND;
    result("replace", "", sum / operations);
    result("replace", "_calls", operations);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 97;
    long amount = atol(argv[2]), operations = atol(argv[3]);
    if (!strcmp(argv[1], "bytes")) {
        most = 15;
        count = amount / 4466; /* the mean size */
        alone(operations);
    } else if (!strcmp(argv[1], "objects")) {
        count = amount;
        alone(operations);
    } else if (!strcmp(argv[1], "threads") && amount > 0 && amount <= MOST_THREADS) {
        most = 10;
        threads = amount;
        rounds = operations / ROUND;
        crowd();
    }
    return 97;
}
