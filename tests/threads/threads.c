/* Threads that come and go, and blocks that die in other threads.
 * usage: threads churn|pipeline|exchange|idle|arenas */
#include "common.h"

static size_t mixed(uint64_t *seed)
{
    unsigned n = next(seed), kind = n % 100;
    n /= 100;
    return kind < 70 ? 16 + n % 240 : kind < 95 ? 256 + n % 2048 : kind < 99 ? 4096 + n % 16384 : 30000 + n % 70000;
}

/* --- 2000 short threads: half of each one's blocks are freed by main. */

enum { AT_ONCE = 8, BLOCKS = 200 };
static struct { void *p; size_t size; } left[AT_ONCE][BLOCKS];

static void *short_life(void *arg)
{
    uint64_t seed = (uintptr_t)arg + 1;
    int slot = (uintptr_t)arg % AT_ONCE;
    void *p[BLOCKS];
    size_t size[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        p[i] = filled(size[i] = mixed(&seed));
    for (int i = 0; i < BLOCKS; i++) {
        check(p[i], size[i]);
        left[slot][i].p = 0;
        if (i & 1)
            free(p[i]);
        else
            left[slot][i].p = p[i], left[slot][i].size = size[i];
    }
    return 0;
}

static void churn(void)
{
    pthread_t t[AT_ONCE];
    long early = 0;
    for (long round = 0; round < 2000 / AT_ONCE; round++) {
        for (long i = 0; i < AT_ONCE; i++)
            t[i] = start(short_life, round * AT_ONCE + i);
        for (int i = 0; i < AT_ONCE; i++) {
            pthread_join(t[i], 0);
            for (int j = 0; j < BLOCKS; j++)
                if (left[i][j].p) {
                    check(left[i][j].p, left[i][j].size);
                    free(left[i][j].p);
                }
        }
        if (round == 24)
            early = rss_kib();
    }
    figure("early_kib", early);
    figure("late_kib", rss_kib());
}

/* --- One thread allocates a million blocks, another frees them. */

enum { RING = 1024, TOTAL = 1000000 };
static void *_Atomic ring[RING];

static size_t nth_size(long i) { return 16 + (uint64_t)i * 2654435761u % 1000; }

static void *produce(void *unused)
{
    for (long i = 0; i < TOTAL; i++) {
        void *p = filled(nth_size(i));
        while (ring[i % RING])
            sched_yield();
        ring[i % RING] = p;
    }
    return 0;
}

static void pipeline(void)
{
    pthread_t t = start(produce, 0);
    long most = 0;
    for (long i = 0; i < TOTAL; i++) {
        void *p;
        while (!(p = ring[i % RING]))
            sched_yield();
        check(p, nth_size(i));
        ring[i % RING] = 0;
        free(p);
        if (i % 50000 == 0 && rss_kib() > most)
            most = rss_kib();
    }
    pthread_join(t, 0);
    figure("blocks", TOTAL);
    figure("most_kib", most);
}

/* --- Four threads swap blocks through shared slots. */

enum { SLOTS = 1000 };
static void *_Atomic slots[SLOTS];
static atomic_long freed;

static void *swap(void *arg)
{
    uint64_t seed = (uintptr_t)arg + 7;
    for (int i = 0; i < 200000; i++) {
        size_t size = sizeof(size_t) + mixed(&seed) % 3000;
        size_t *p = filled(size);
        *p = size;
        p = atomic_exchange(&slots[next(&seed) % SLOTS], p);
        if (!p)
            continue;
        size_t its = *p;
        memset(p, (int)its, sizeof *p);
        check(p, its);
        free(p);
        freed++;
    }
    return 0;
}

static void exchange(void)
{
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        t[i] = start(swap, i);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], 0);
    for (int i = 0; i < SLOTS; i++) {
        freed += slots[i] != 0;
        free(slots[i]);
    }
    figure("freed", freed);
    figure("late_kib", rss_kib());
}

/* --- Two hundred threads that allocated and went idle. */

enum { IDLE = 200 };
static pthread_barrier_t all_here, go_home;

static void *idle_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;
    void *p[2000];
    for (int i = 0; i < 2000; i++)
        p[i] = filled(16 + next(&seed) % 1000);
    for (int i = 0; i < 2000; i++)
        free(p[i]);
    pthread_barrier_wait(&all_here);
    pthread_barrier_wait(&go_home);
    return 0;
}

static void idle(void)
{
    pthread_t t[IDLE];
    long before = rss_kib();
    pthread_barrier_init(&all_here, 0, IDLE + 1);
    pthread_barrier_init(&go_home, 0, IDLE + 1);
    for (int i = 0; i < IDLE; i++)
        t[i] = start(idle_thread, i);
    pthread_barrier_wait(&all_here);
    figure("resident_kib", rss_kib() - before);
    pthread_barrier_wait(&go_home);
    for (int i = 0; i < IDLE; i++)
        pthread_join(t[i], 0);
}

/* --- Eight threads at work at once; malloc_info tells the arenas. */

static void *hold(void *arg)
{
    uint64_t seed = (uintptr_t)arg;
    void *p[3000];
    for (int i = 0; i < 3000; i++)
        p[i] = filled(mixed(&seed));
    pthread_barrier_wait(&all_here);
    pthread_barrier_wait(&go_home);
    for (int i = 0; i < 3000; i++)
        free(p[i]);
    return 0;
}

static void arenas(void)
{
    pthread_t t[8];
    pthread_barrier_init(&all_here, 0, 9);
    pthread_barrier_init(&go_home, 0, 9);
    for (int i = 0; i < 8; i++)
        t[i] = start(hold, i);
    pthread_barrier_wait(&all_here);
    if (malloc_info(0, stdout))
        _exit(3);
    fflush(stdout);
    pthread_barrier_wait(&go_home);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], 0);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*act)(void); } acts[] = {
        {"churn", churn}, {"pipeline", pipeline}, {"exchange", exchange}, {"idle", idle}, {"arenas", arenas},
    };
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (argc == 2 && !strcmp(argv[1], acts[i].name)) {
            acts[i].act();
            return 0;
        }
    return 97;
}
