/* Run with MALLOC_PERTURB_=0xa5, or with an argument, then by mallopt (which counts for the
 * threads that start later): new memory is filled with the complement of the byte, calloc's is
 * zero, freed memory is filled with the byte. */
#include "check.h"
#include <malloc.h>
#include <pthread.h>

static void *thread(void *arg) {
    for (size_t size = 24; size < 300000; size += 16 + size / 2)
        for (int round = 0; round < 3; round++) {
            unsigned char *p = opaque(malloc(size));
            for (size_t i = 0; i < size; i++)
                CHECK(p[i] == 0x5a);
            unsigned char *q = opaque(calloc(1, size));
            for (size_t i = 0; i < size; i++)
                CHECK(q[i] == 0);
            memset(p, 1, size);
            /* The block stays readable while it waits in a list; only what
             * the allocator keeps of it in its first 64 bytes and its last word is other than
             * the fill. Mapped blocks are gone. */
            size_t usable = malloc_usable_size(p);
            free(p);
            if (size > 72 && usable < 65536)
                for (size_t i = 64; i < size - 8; i++)
                    CHECK(((volatile unsigned char *)p)[i] == 0xa5);
            free(q);
        }
    return arg;
}

int main(int argc, char **argv) {
    (void)argv;
    check_preloaded();
    if (argc > 1) {
        /* The caches have served before. */
        for (size_t size = 1; size < 300000; size += size)
            free(opaque(malloc(size)));
        CHECK(mallopt(M_PERTURB, 0xa5) == 1);
    } else {
        thread(NULL);
    }
    pthread_t id;
    CHECK(pthread_create(&id, NULL, thread, NULL) == 0 && pthread_join(id, NULL) == 0);
    puts("ok");
    return 0;
}
