/* A library that allocates in its constructor, its destructor and its thread-local data. */
#include "early.h"

static __thread char wide[64];

__attribute__((constructor)) static void constructed(void) { use_everything_early(); }

__attribute__((destructor)) static void destroyed(void) {
    free_early_blocks();
    free(malloc(100));
}

void *plugin_make(size_t size) {
    wide[0]++;
    void *p = malloc(size);
    CHECK(p != NULL);
    fill(p, size);
    return p;
}

void plugin_free(void *p) { free(p); }
