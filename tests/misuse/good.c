/* The honest twins of the crimes: each must end with 0 and say nothing.
 * usage: good KIND */
#include "tell.h"

extern void free_sized(void *, size_t) __attribute__((weak));
extern void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

static void fill(char *p, size_t size, int value)
{
    if (!p || malloc_usable_size(p) < size)
        _exit(1);
    memset(p, value, malloc_usable_size(p));
}

static void intact(char *p, size_t size, int value)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] != (char)value)
            _exit(2);
}

static const size_t sizes[] = {0, 1, 8, 24, 25, 40, 100, 128, 129, 700, 1032, 1033, 5000,
    20000, 65000, 100000, 131048, 131049, 300000, 5000000};
#define COUNT (sizeof sizes / sizeof *sizes)

/* Every size, all of the usable bytes, freed once in another order. */
static void whole_size(void)
{
    char *p[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        fill(p[i] = malloc(sizes[i]), sizes[i], i);
    for (size_t i = 0; i < COUNT; i++) {
        size_t at = i * 7 % COUNT;
        intact(p[at], malloc_usable_size(p[at]), at);
        free(p[at]);
    }
}

/* The same addresses again and again: freed once per allocation. */
static void again(void)
{
    for (int round = 0; round < 3000; round++) {
        void *p = malloc(sizes[round % COUNT]), *q = malloc(48);
        free(p);
        free(q);
    }
}

static void nothing(void)
{
    free(0);
    if (malloc_usable_size(0))
        _exit(3);
    free(realloc(0, 100));
}

static void resized(void)
{
    for (size_t i = 0; i < COUNT; i++)
        for (size_t j = 0; j < COUNT; j++) {
            size_t from = sizes[i] + 1, to = sizes[j] + 1;
            char *p = malloc(from);
            fill(p, from, i);
            p = realloc(p, to);
            intact(p, from < to ? from : to, i);
            fill(p, to, j);
            free(p);
        }
}

static void aligned(void)
{
    for (size_t align = 8; align <= 1 << 21; align *= 2)
        for (size_t i = 0; i < COUNT; i++) {
            void *p = 0;
            if (posix_memalign(&p, align, sizes[i]) || (uintptr_t)p % align)
                _exit(4);
            fill(p, sizes[i], 1);
            if (i & 1)
                p = realloc(p, sizes[i] + 100);
            free(p);
        }
    free(valloc(100));
    free(pvalloc(100));
    free(memalign(64, 100));
    free(aligned_alloc(64, 128));
}

static void cleared(void)
{
    for (int round = 0; round < 50; round++)
        for (size_t i = 0; i < COUNT; i++) {
            char *p = calloc(1, sizes[i]);
            intact(p, sizes[i], 0);
            fill(p, sizes[i], 7);
            free(p);
        }
}

static void with_size(void)
{
    for (size_t i = 0; i < COUNT; i++) {
        if (free_sized)
            free_sized(malloc(sizes[i]), sizes[i]);
        if (free_aligned_sized)
            free_aligned_sized(aligned_alloc(64, sizes[i] * 64), 64, sizes[i] * 64);
    }
}

/* Chunks whose neighbours come and go beside them. */
static void neighbours(void)
{
    enum { N = 400 };
    static char *p[N];
    static size_t size[N];
    unsigned seed = 1;
    for (int round = 0; round < 60000; round++) {
        seed = seed * 1103515245 + 12345;
        int at = seed >> 8 & 0xffff;
        at %= N;
        if (p[at]) {
            intact(p[at], size[at], at);
            free(p[at]);
        }
        size[at] = (seed >> 20) % 3000;
        fill(p[at] = malloc(size[at]), size[at], at);
    }
    for (int i = 0; i < N; i++)
        free(p[i]);
    malloc_trim(0);
}

/* Payloads that look like heads and links. */
static void lookalikes(void)
{
    for (size_t head = 0x20; head < 0x2000; head += 8) {
        size_t *p = malloc(256), *q = malloc(256);
        for (int i = 0; i < 32; i++)
            p[i] = i & 1 ? head : (size_t)p, q[i] = p[-1];
        free(p);
        free(q);
    }
}

static void *free_it(void *p) { free(p); return malloc(200); }
static void across_threads(void)
{
    for (int round = 0; round < 100; round++)
        for (size_t i = 0; i < COUNT; i++) {
            pthread_t t;
            void *back;
            if (pthread_create(&t, 0, free_it, malloc(sizes[i])) || pthread_join(t, &back))
                _exit(5);
            free(back);
        }
}

static const struct {
    const char *name;
    void (*act)(void);
} kinds[] = {
#define KIND(f) {#f, f}
    KIND(whole_size), KIND(again), KIND(nothing), KIND(resized), KIND(aligned), KIND(cleared),
    KIND(with_size), KIND(neighbours), KIND(lookalikes), KIND(across_threads),
};

int main(int argc, char **argv)
{
    no_core();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (argc == 2 && !strcmp(kinds[i].name, argv[1])) {
            kinds[i].act();
            return 0;
        }
    return 97;
}
