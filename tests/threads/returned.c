/* What is resident one second after a peak.
 * usage: returned equal COUNT forward|backward|random|pinned
 *        returned mixed COUNT */
#include "common.h"
#include <time.h>

static void a_second_later(long peak)
{
    struct timespec second = {1, 0};
    figure("peak_kib", peak);
    figure("at_once_kib", rss_kib());
    nanosleep(&second, 0);
    figure("later_kib", rss_kib());
}

static void equal(long count, const char *order)
{
    size_t bytes = count * sizeof(char *);
    char **p = table(bytes);
    for (long i = 0; i < count; i++) {
        p[i] = malloc(120);
        if (!p[i])
            _exit(3);
        memset(p[i], 1, 120);
    }
    long peak = rss_kib();
    void *pin = malloc(120);
    if (!strcmp(order, "random")) {
        uint64_t seed = 1;
        for (long i = count - 1; i > 0; i--) {
            long j = next(&seed) % (i + 1);
            char *q = p[i];
            p[i] = p[j], p[j] = q;
        }
    }
    if (strcmp(order, "pinned"))
        free(pin);
    for (long i = 0; i < count; i++)
        free(p[!strcmp(order, "backward") ? count - 1 - i : i]);
    munmap(p, bytes);
    a_second_later(peak);
}

/* Objects of all sizes; of the whole a random tenth survives each round, and
 * the small ones grow from round to round. */
static void mixed(long count)
{
    void **p = table(count * sizeof *p);
    long *size = table(count * sizeof *size), live = 0, peak = 0;
    uint64_t seed = 42;
    for (int round = 0; round < 5; round++) {
        for (long i = 0; i < count; i++) {
            if (p[i])
                continue;
            unsigned kind = next(&seed) % 100, n = next(&seed);
            size[i] = kind < 70   ? 16 + 32 * round + n % 240
                      : kind < 95 ? 256 + n % 2048
                      : kind < 99 ? 4096 + n % 16384
                                  : 100000 + n % 200000;
            p[i] = filled(size[i]);
            live += size[i];
        }
        if (rss_kib() > peak)
            peak = rss_kib();
        for (long i = 0; i < count; i++)
            if (next(&seed) % 10) {
                check(p[i], size[i]);
                free(p[i]);
                p[i] = 0;
                live -= size[i];
            }
    }
    figure("live_kib", live / 1024);
    a_second_later(peak);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "equal"))
        equal(atol(argv[2]), argv[3]);
    else if (argc == 3 && !strcmp(argv[1], "mixed"))
        mixed(atol(argv[2]));
    else
        return 97;
    return 0;
}
