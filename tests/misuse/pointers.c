/* Hands a pointer that must not be handed over to free, realloc or
 * malloc_usable_size.   usage: pointers VERB KIND */
#include "tell.h"

static void *freed(size_t size)
{
    void *p = fresh(size);
    free(p);
    return p;
}

/* With a neighbour that keeps it from top, so that it has to go into a bin
 * when no cache takes it. */
static void *freed_below(size_t size)
{
    void *p = fresh(size);
    void *neighbour = malloc(size);
    free(p);
    return neighbour ? p : 0;
}

static void *tiny(void) { return freed_below(1); }
static void *cached(void) { return freed_below(40); }
static void *medium(void) { return freed_below(700); }
static void *large(void) { return freed_below(20000); }
static void *binned(void) { return freed_below(100000); }

static void *sorted(void)
{
    void *p = binned();
    free(malloc(120000)); /* sorts the unsorted bin */
    return p;
}

/* Its memory has been joined with a free neighbour below it. */
static void *coalesced(void)
{
    char *p[3], *last;
    size_t size = 80000;
    for (int i = 0; i < 3; i++)
        p[i] = fresh(size);
    last = malloc(size);
    free(p[0]);
    free(p[1]);
    return last ? p[1] : 0;
}

static void *in_top(void)
{
    void *p = fresh(100000);
    free(p);
    return p;
}

static void *mapped(void) { return freed(300000); }
static void *big_mapped(void) { return freed((size_t)200 << 20); }

/* Buried below a thousand later frees of its size. */
static void *buried(void)
{
    void *p[1001];
    for (int i = 0; i < 1001; i++)
        p[i] = fresh(48);
    for (int i = 0; i < 1001; i++)
        free(p[i]);
    return p[0];
}

/* What realloc moved away from. */
static void *moved(void)
{
    void *p = fresh(100), *in_the_way = malloc(100);
    return in_the_way && realloc(p, 50000) != p ? p : 0;
}

static void *shared;
static void *free_it(void *p) { free(p); return 0; }
static void *alloc_it(void *unused) { return shared = fresh(64); }
static void *alloc_and_free_it(void *unused) { free(shared = fresh(64)); return 0; }
static void in_thread(void *(*f)(void *), void *p)
{
    pthread_t t;
    if (pthread_create(&t, 0, f, p) || pthread_join(t, 0))
        _exit(93);
}

static void *freed_by_thread(void)
{
    void *p = fresh(64);
    in_thread(free_it, p);
    return p;
}

static void *freed_in_gone_thread(void)
{
    in_thread(alloc_and_free_it, 0);
    return shared;
}

static void *made_by_thread(void)
{
    in_thread(alloc_it, 0);
    free(shared);
    return shared;
}

static void *inside_small(void) { return (char *)fresh(200) + 32; }
static void *inside_large(void) { return (char *)fresh(50000) + 4096; }
static void *inside_mapped(void) { return (char *)fresh(500000) + 65536; }
static void *inside_forged(void)
{
    size_t *p = fresh(400);
    p[8] = 0, p[9] = 0x41, p[17] = 0x41; /* two heads as another malloc writes them */
    return p + 10;
}
static void *inside_copied(void)
{
    size_t *p = fresh(400);
    p[9] = p[-1]; /* its own head, at another address */
    return p + 10;
}
static void *inside_freed(void) { return (char *)freed(600) + 64; }
static void *inside_top(void) { return (char *)freed(100000) + 160; }

static void *misaligned1(void) { return (char *)fresh(100) + 1; }
static void *misaligned8(void) { return (char *)fresh(100) + 8; }
static void *misaligned_mapped(void) { return (char *)fresh(500000) + 4; }

static void *on_stack(void)
{
    static size_t *kept;
    size_t area[32] __attribute__((aligned(16)));
    memset(area, 0, sizeof area);
    area[9] = 0x31;
    kept = area + 10;
    return kept;
}

static size_t area[64] __attribute__((aligned(16)));
static void *in_static(void) { return area + 8; }
static void *in_static_forged(void)
{
    area[7] = 0x31, area[13] = 0x31;
    return area + 8;
}
static const char text[] __attribute__((aligned(16))) = "a constant that nobody allocated";
static void *constant(void) { return (void *)(text + 16); }
static void *code(void) { return (void *)((uintptr_t)in_static & ~15ul); }

static void *page(void)
{
    char *p = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? 0 : p;
}
static void *plain_mmap(void) { return (char *)page() + 16; }
static void *plain_mmap_middle(void) { return (char *)page() + 8192; }
static void *plain_mmap_forged(void)
{
    size_t *p = page();
    p[1] = 0x100002;
    return p + 2;
}
static void *no_access(void)
{
    char *p = page();
    mprotect(p, 1 << 20, PROT_NONE);
    return p + 4096;
}
static void *unmapped(void)
{
    char *p = page();
    munmap(p, 1 << 20);
    return p + 4096;
}

static void *wild16(void) { return (void *)0x10; }
static void *wild(void) { return (void *)0xdeadbeef0; }
static void *non_canonical(void) { return (void *)0x123456789abcdef0; }
static void *kernel_half(void) { return (void *)0xffff888012345670; }
static void *last_byte(void) { return (void *)0xfffffffffffffff0; }
static void *minus_one(void) { return (void *)-1; }

static const struct {
    const char *name;
    void *(*make)(void);
} kinds[] = {
#define KIND(f) {#f, f}
    KIND(cached), KIND(tiny), KIND(medium), KIND(large), KIND(binned), KIND(sorted),
    KIND(coalesced), KIND(in_top), KIND(mapped), KIND(big_mapped), KIND(buried), KIND(moved),
    KIND(freed_by_thread), KIND(freed_in_gone_thread), KIND(made_by_thread),
    KIND(inside_small), KIND(inside_large), KIND(inside_mapped), KIND(inside_forged),
    KIND(inside_copied), KIND(inside_freed), KIND(inside_top),
    KIND(misaligned1), KIND(misaligned8), KIND(misaligned_mapped),
    KIND(on_stack), KIND(in_static), KIND(in_static_forged), KIND(constant), KIND(code),
    KIND(plain_mmap), KIND(plain_mmap_middle), KIND(plain_mmap_forged), KIND(no_access), KIND(unmapped),
    KIND(wild16), KIND(wild), KIND(non_canonical), KIND(kernel_half), KIND(last_byte), KIND(minus_one),
};

int main(int argc, char **argv)
{
    if (argc != 3)
        return 94;
    no_core();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, argv[2]))
            continue;
        void *p = kinds[i].make();
        if (!p)
            return 95;
        tell(p);
        if (!strcmp(argv[1], "free"))
            free(p);
        else if (!strcmp(argv[1], "realloc"))
            realloc(p, 1000);
        else if (!strcmp(argv[1], "realloc0"))
            realloc(p, 0);
        else if (!strcmp(argv[1], "usable_size"))
            malloc_usable_size(p);
        else
            return 96;
        survived();
    }
    return 97;
}
