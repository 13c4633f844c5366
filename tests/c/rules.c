/* The rules of C's allocation functions, each once. */
#include "check.h"
#include <malloc.h>

/* Not every C library has these to link with. */
static void (*cfree_)(void *);
static void (*free_sized_)(void *, size_t);
static void (*free_aligned_sized_)(void *, size_t, size_t);

#define ENOMEM_NULL(call)                                                      \
    do {                                                                       \
        errno = 0;                                                             \
        CHECK(opaque(call) == NULL);                                           \
        CHECK(errno == ENOMEM);                                                \
    } while (0)
#define EINVAL_NULL(call)                                                      \
    do {                                                                       \
        errno = 0;                                                             \
        CHECK(opaque(call) == NULL);                                           \
        CHECK(errno == EINVAL);                                                \
    } while (0)

static const size_t sizes[] = {0,    1,    15,    16,     17,     24,      25,      120,     121,
                               1000, 1032, 1033,  4096,   5000,   65536,   65544,   65545,   131048,
                               131049, 200000, 1 << 20, 5 << 20, 33 << 20};
#define SIZES (sizeof sizes / sizeof *sizes)

static int all_zero(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return 0;
    return 1;
}

static void zero_size_is_unique_and_freeable(void) {
    void *blocks[64];
    for (int i = 0; i < 64; i++) {
        blocks[i] = opaque(i % 2 ? malloc(0) : calloc(0, 8));
        CHECK(blocks[i] != NULL);
        for (int j = 0; j < i; j++)
            CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    free(opaque(realloc(NULL, 0)));
    void *p = opaque(realloc(NULL, 0));
    CHECK(p != NULL);
    free(p);
}

static void free_of_null_does_nothing(void) {
    free(NULL);
    cfree_(NULL);
    free_sized_(NULL, 0);
    free_aligned_sized_(NULL, 64, 0);
    CHECK(malloc_usable_size(NULL) == 0);
}

static void free_keeps_errno(void) {
    for (size_t i = 0; i < SIZES; i++)
        for (int round = 0; round < 3; round++) {
            void *p = opaque(malloc(sizes[i]));
            CHECK(p != NULL);
            errno = 4711;
            free(p);
            CHECK(errno == 4711);
        }
    /* Enough to leave every cache and give memory back. */
    enum { MANY = 40000 };
    static void *many[MANY];
    for (int i = 0; i < MANY; i++)
        CHECK((many[i] = malloc(1 + i % 3000)) != NULL);
    for (int i = 0; i < MANY; i++) {
        errno = 4711;
        free(many[i]);
        CHECK(errno == 4711);
    }
    void *p = malloc(100);
    errno = 4711;
    CHECK(opaque(realloc(p, 0)) == NULL);
    CHECK(errno == 4711);
}

static void impossible_sizes_are_enomem(void) {
    volatile size_t half = SIZE_MAX / 2, max = PTRDIFF_MAX, all = SIZE_MAX;
    ENOMEM_NULL(malloc(max));
    ENOMEM_NULL(malloc(max + 1));
    ENOMEM_NULL(malloc(all));
    for (size_t below = 0; below < 70; below++)
        ENOMEM_NULL(malloc(all - below));
    ENOMEM_NULL(calloc(half, 3));
    ENOMEM_NULL(calloc(3, half));
    ENOMEM_NULL(calloc(1, max));
    ENOMEM_NULL(calloc((size_t)1 << 32, (size_t)1 << 32));
    ENOMEM_NULL(memalign(64, max));
    ENOMEM_NULL(memalign(64, all));
    ENOMEM_NULL(memalign((size_t)1 << 62, (size_t)1 << 62));
    ENOMEM_NULL(aligned_alloc((size_t)1 << 63, 8));
    ENOMEM_NULL(aligned_alloc((size_t)1 << 63, all));
    ENOMEM_NULL(valloc(all));
    ENOMEM_NULL(pvalloc(all));
    ENOMEM_NULL(pvalloc(max));
    for (int large = 0; large < 2; large++) {
        size_t size = large ? 1 << 20 : 100;
        unsigned char *p = malloc(size);
        memset(p, 0x5a, size);
        ENOMEM_NULL(realloc(p, max));
        ENOMEM_NULL(realloc(p, all));
        ENOMEM_NULL(reallocarray(p, half, 3));
        for (size_t i = 0; i < size; i++)
            CHECK(p[i] == 0x5a);
        free(p);
    }
    ENOMEM_NULL(reallocarray(NULL, half, 3));
    void *block = &block;
    errno = 4711;
    CHECK(posix_memalign(&block, 64, max) == ENOMEM);
    CHECK(posix_memalign(&block, (size_t)1 << 63, all) == ENOMEM);
    CHECK(block == &block && errno == 4711);
}

static void alignments(void) {
    volatile size_t three = 3, none = 0, top = (size_t)1 << 63;
    EINVAL_NULL(aligned_alloc(three, 64));
    EINVAL_NULL(aligned_alloc(none, 64));
    EINVAL_NULL(aligned_alloc(48, 96));
    EINVAL_NULL(memalign(top + 1, 1));
    void *block = &block;
    errno = 4711;
    CHECK(posix_memalign(&block, three, 8) == EINVAL);
    CHECK(posix_memalign(&block, 4, 8) == EINVAL);
    CHECK(posix_memalign(&block, 24, 8) == EINVAL);
    CHECK(posix_memalign(&block, none, 8) == EINVAL);
    CHECK(block == &block && errno == 4711);
    for (size_t align = 1; align <= (size_t)4 << 20; align *= 2)
        for (size_t i = 0; i + 1 < SIZES; i++) {
            void *p[5] = {aligned_alloc(align, sizes[i]), memalign(align, sizes[i]), NULL, NULL, NULL};
            if (align >= sizeof(void *))
                CHECK(posix_memalign(&p[2], align, sizes[i]) == 0 && p[2] != NULL);
            /* What is no power of two is rounded up. */
            size_t odd = align > 2 ? align - align / 4 : align;
            p[3] = memalign(odd, sizes[i]);
            for (int j = 0; j < 4; j++) {
                if (p[j] == NULL) {
                    CHECK(j == 2 && align < sizeof(void *));
                    continue;
                }
                CHECK((uintptr_t)p[j] % align == 0 && (uintptr_t)p[j] % 16 == 0);
                CHECK(malloc_usable_size(p[j]) >= sizes[i]);
                fill(p[j], sizes[i]);
            }
            free(p[1]);
            cfree_(p[3]);
            free_aligned_sized_(p[0], align, sizes[i]);
            if (p[2]) {
                /* An aligned block is reallocated like any other. */
                void *q = realloc(p[2], sizes[i] + 1000);
                CHECK(q != NULL && (uintptr_t)q % 16 == 0);
                free(q);
            }
        }
    long page = sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < SIZES; i++) {
        void *p = valloc(sizes[i]), *q = pvalloc(sizes[i]);
        CHECK(p != NULL && (uintptr_t)p % page == 0);
        CHECK(q != NULL && (uintptr_t)q % page == 0);
        size_t whole = (sizes[i] + page - 1) / page * page;
        CHECK(malloc_usable_size(q) >= whole);
        memset(q, 1, whole);
        free(p);
        free(q);
    }
}

static void every_block_is_aligned_to_16(void) {
    for (size_t size = 0; size < 5000; size++) {
        void *a = malloc(size), *b = calloc(1, size), *c = realloc(malloc(1), size + 1);
        CHECK(a && b && c);
        CHECK((((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) & 15) == 0);
        fill(a, size);
        fill(b, size);
        fill(c, size + 1);
        free(a);
        free_sized_(b, size);
        free(c);
    }
    for (size_t i = 0; i < SIZES; i++) {
        void *p = malloc(sizes[i]);
        CHECK(p && (uintptr_t)p % 16 == 0);
        free(p);
    }
}

static void realloc_to_zero_frees(void) {
    size_t before = mallinfo2().arena + mallinfo2().hblkhd;
    /* 4 GB, were it not so. */
    for (int i = 0; i < 40000; i++) {
        void *p = malloc(100000);
        CHECK(p != NULL);
        memset(p, 1, 100000);
        CHECK(opaque(realloc(p, 0)) == NULL);
    }
    CHECK(mallinfo2().arena + mallinfo2().hblkhd < before + ((size_t)64 << 20));
    void *p = malloc(10);
    CHECK(opaque(reallocarray(p, 0, 5)) == NULL);
    p = malloc(10);
    CHECK(opaque(reallocarray(p, 5, 0)) == NULL);
}

static void calloc_is_zero(void) {
    for (int round = 0; round < 4; round++)
        for (size_t i = 0; i < SIZES; i++) {
            /* Dirty memory of that size is lying about. */
            void *dirty[4];
            for (int j = 0; j < 4; j++) {
                CHECK((dirty[j] = malloc(sizes[i])) != NULL);
                memset(dirty[j], 0xff, malloc_usable_size(dirty[j]));
            }
            for (int j = 0; j < 4; j++)
                free(dirty[j]);
            unsigned char *p[4];
            for (int j = 0; j < 4; j++) {
                CHECK((p[j] = calloc(1, sizes[i])) != NULL);
                CHECK(all_zero(p[j], sizes[i]));
                memset(p[j], 0xff, malloc_usable_size(p[j]));
            }
            for (int j = 0; j < 4; j++)
                free(p[j]);
        }
    malloc_trim(0);
    unsigned char *p = calloc(1000, 3000);
    CHECK(all_zero(p, 3000000));
    free(p);
}

static void usable_size_is_stable(void) {
    enum { N = 500 };
    static void *p[N];
    static size_t usable[N];
    for (int i = 0; i < N; i++) {
        size_t size = (size_t)i * i;
        CHECK((p[i] = malloc(size)) != NULL);
        usable[i] = malloc_usable_size(p[i]);
        CHECK(usable[i] >= size);
        fill(p[i], usable[i]);
    }
    for (int i = 0; i < N; i += 2)
        free(p[i]);
    for (int i = 1; i < N; i += 2) {
        CHECK(malloc_usable_size(p[i]) == usable[i]);
        unsigned char expected = ((uintptr_t)p[i] >> 4) ^ usable[i];
        for (size_t j = 0; j < usable[i]; j++)
            CHECK(((unsigned char *)p[i])[j] == expected);
        free(p[i]);
    }
}

static void realloc_keeps_the_contents(void) {
    for (size_t i = 0; i < SIZES; i++)
        for (size_t j = 0; j < SIZES; j++) {
            size_t from = sizes[i], to = sizes[j], both = from < to ? from : to;
            unsigned char *p = malloc(from);
            for (size_t k = 0; k < from; k += 61)
                p[k] = (unsigned char)(k * 7 + i);
            void *neighbour = malloc(from);
            if (to == 0)
                continue; /* This loop's leak is bounded; the rule has its own test. */
            p = realloc(p, to);
            CHECK(p != NULL && malloc_usable_size(p) >= to);
            for (size_t k = 0; k < both; k += 61)
                CHECK(p[k] == (unsigned char)(k * 7 + i));
            free(neighbour);
            free(p);
        }
    /* A block that grows by and by. */
    unsigned char *p = NULL;
    size_t size = 0;
    for (int i = 0; i < 300; i++) {
        size_t more = size + size / 20 + 7;
        p = reallocarray(p, more, 1);
        CHECK(p != NULL);
        for (size_t k = size; k < more; k++)
            p[k] = (unsigned char)(k * 31);
        size = more;
    }
    for (size_t k = 0; k < size; k++)
        CHECK(p[k] == (unsigned char)(k * 31));
    free(p);
}

static void mallopt_answers(void) {
    CHECK(mallopt(M_MXFAST, 160) == 1);
    CHECK(mallopt(M_MXFAST, 161) == 0);
    CHECK(mallopt(M_MXFAST, -1) == 0);
    CHECK(mallopt(M_MXFAST, 0) == 1);
    free(malloc(20));
    CHECK(mallopt(M_MXFAST, 128) == 1);
    CHECK(mallopt(M_TRIM_THRESHOLD, -1) == 1);
    CHECK(mallopt(M_TRIM_THRESHOLD, 128 << 10) == 1);
    CHECK(mallopt(M_TOP_PAD, 64 << 10) == 1);
    CHECK(mallopt(M_MMAP_THRESHOLD, 32 << 20) == 1);
    CHECK(mallopt(M_MMAP_THRESHOLD, (32 << 20) + 1) == 0);
    CHECK(mallopt(M_MMAP_THRESHOLD, 128 << 10) == 1);
    CHECK(mallopt(M_MMAP_MAX, -1) == 1); /* none */
    free(malloc(1 << 20));
    CHECK(mallopt(M_MMAP_MAX, 65536) == 1);
    CHECK(mallopt(M_ARENA_MAX, 2) == 1);
    CHECK(mallopt(M_ARENA_TEST, 2) == 1);
    CHECK(mallopt(M_CHECK_ACTION, 3) == 1);
    CHECK(mallopt(M_GRAIN, 64) == 1);
    CHECK(mallopt(77, 1) == 0);
    CHECK(mallopt(-77, 1) == 0);
}

static void trim_answers(void) {
    enum { N = 3000 };
    static void *p[N];
    for (int i = 0; i < N; i++) {
        CHECK((p[i] = malloc(10000)) != NULL);
        memset(p[i], 1, 10000);
    }
    size_t before = mallinfo2().arena;
    for (int i = 0; i < N; i++)
        free(p[i]);
    int given = malloc_trim(0);
    CHECK(given == 0 || given == 1);
    CHECK(mallinfo2().arena <= before);
    CHECK(malloc_trim(0) == 0);
}

int main(void) {
    check_preloaded();
    cfree_ = (void (*)(void *))dlsym(RTLD_DEFAULT, "cfree");
    free_sized_ = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    free_aligned_sized_ =
        (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    CHECK(cfree_ && free_sized_ && free_aligned_sized_);
    zero_size_is_unique_and_freeable();
    free_of_null_does_nothing();
    free_keeps_errno();
    impossible_sizes_are_enomem();
    alignments();
    every_block_is_aligned_to_16();
    realloc_to_zero_frees();
    calloc_is_zero();
    usable_size_is_stable();
    realloc_keeps_the_contents();
    trim_answers();
    mallopt_answers();
    puts("ok");
    return 0;
}
