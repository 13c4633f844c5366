// The main arena where the break is not ours alone. Prints "ok".
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define CHECK(what) \
    do { if (!(what)) { fprintf(stderr, "line %d: %s\n", __LINE__, #what); exit(1); } } while (0)

enum { SMALL = 48000, LARGE = 120 };
static unsigned char *small[SMALL], *large[LARGE];

static int is(const unsigned char *p, int byte, size_t n) {
    return p[0] == byte && memcmp(p, p + 1, n - 1) == 0;
}

// Small blocks in segments of their own, and mappings between these.
static void churn(void (*between)(void)) {
    int s = 0, l = 0;
    while (s < SMALL) {
        for (int i = 0; i < SMALL / LARGE * 2; i++, s++) {
            CHECK(small[s] = malloc(600));
            memset(small[s], s % 251, 600);
        }
        size_t sizes[2] = {200000, 3000000};
        for (int i = 0; i < 2; i++, l++) {
            CHECK(large[l] = malloc(sizes[i]));
            memset(large[l], l, sizes[i]);
        }
        if (between)
            between();
    }
    for (l = 0; l < LARGE; l++) {
        CHECK(malloc_usable_size(large[l]) >= 200000 && is(large[l], l, 200000));
        CHECK(large[l] = realloc(large[l], 260000 + 4096 * l));
        CHECK(is(large[l], l, 200000));
        free(large[l]);
    }
    for (s = 0; s < SMALL; s++)
        CHECK(is(small[s], s % 251, 600));
    for (s = 0; s < SMALL; s += 2)
        free(small[s]);
    malloc_trim(0);
    for (s = 1; s < SMALL; s += 2)
        CHECK(is(small[s], s % 251, 600));
    for (s = 1; s < SMALL; s += 2)
        free(small[s]);
}

static unsigned char *foreign[SMALL];
static int foreigners;

static void sbrk_too(void) {
    unsigned char *mine = sbrk(5000);
    CHECK(mine != (void *)-1);
    memset(mine, 0xf0, 5000);
    foreign[foreigners++] = mine;
}

static void wall(void) {
    unsigned long page = sysconf(_SC_PAGESIZE);
    unsigned long at = ((unsigned long)sbrk(0) + page - 1) / page * page;
    void *stands = mmap((void *)at, page, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(stands == (void *)at);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    if (!strcmp(argv[1], "wall")) {
        wall();
        churn(NULL);
    } else if (!strcmp(argv[1], "late wall")) {
        free(malloc(100));
        wall();
        churn(NULL);
    } else if (!strcmp(argv[1], "sbrk")) {
        churn(sbrk_too);
        CHECK(foreigners > 10);
        for (int i = 0; i < foreigners; i++)
            CHECK(is(foreign[i], 0xf0, 5000));
    } else {
        // Break and private mappings count as data, and so does the map of heap memory (18 MiB).
        struct rlimit limit = {48 << 20, 48 << 20};
        CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
        for (int turn = 0; turn < 3; turn++) {
            int got = 0;
            errno = 0;
            while (got < SMALL && (small[got] = malloc(1000)))
                memset(small[got++], turn, 1000);
            CHECK(got > 20000 && got < SMALL && errno == ENOMEM);
            CHECK(malloc(500000) == NULL && errno == ENOMEM);
            for (int i = 0; i < got; i++)
                CHECK(is(small[i], turn, 1000));
            for (int i = 0; i < got; i++)
                free(small[i]);
        }
    }
    puts("ok");
    return 0;
}
