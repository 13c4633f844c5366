/* What a guarded process does in odd corners; argv[1] says which. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int main(int argc, char **argv) {
    if (argc < 2)
        return 1;
    if (!strcmp(argv[1], "perturb"))
        return perturb((unsigned char)~atoi(getenv("MALLOC_PERTURB_")));
    if (!strcmp(argv[1], "aligned"))
        return aligned();
    if (argc == 5 && !strcmp(argv[1], "many"))
        return many(atoi(argv[2]), strtoul(argv[3], NULL, 0), atoi(argv[4]));
    return 1;
}
