/* Uses every kind of call once, with little of the C library. */
#include "check.h"
#include <malloc.h>

static void *early_blocks[40];

static inline void use_everything_early(void) {
    for (int i = 0; i < 40; i++) {
        size_t size = (size_t)1 << (i / 2);
        void *p = i % 4 == 0   ? calloc(1, size)
                  : i % 4 == 1 ? malloc(size)
                  : i % 4 == 2 ? realloc(malloc(8), size)
                               : memalign(256, size);
        CHECK(opaque(p) != NULL);
        fill(p, size);
        early_blocks[i] = p;
        if (i % 3 == 0) {
            free(p);
            early_blocks[i] = NULL;
        }
    }
}

static inline void free_early_blocks(void) {
    for (int i = 0; i < 40; i++)
        free(early_blocks[i]);
}
