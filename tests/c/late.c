/* Thread-key destructors that allocate and free in every round that the C library grants, in
 * threads whose keys lie before and after the allocator's own. */
#include "check.h"
#include <pthread.h>

enum { KEYS = 40, THREADS = 100 };
static pthread_key_t keys[KEYS];
static int calls;

static void work(void) {
    void *blocks[64];
    for (int i = 0; i < 64; i++) {
        CHECK((blocks[i] = malloc((size_t)i * i * 3)) != NULL);
        fill(blocks[i], (size_t)i * i * 3);
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
}

static void destructor(void *block) {
    work();
    int key = *(int *)block;
    free(block);
    __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
    int *next = malloc(sizeof *next);
    CHECK(next != NULL);
    *next = key;
    /* Asks for another round; the last one's block is a leak of the program's. */
    CHECK(pthread_setspecific(keys[key], next) == 0);
}

static void *thread(void *arg) {
    for (int i = 0; i < KEYS; i++) {
        int *block = malloc(sizeof *block);
        CHECK(block != NULL);
        *block = i;
        CHECK(pthread_setspecific(keys[i], block) == 0);
    }
    work();
    return arg;
}

int main(void) {
    check_preloaded();
    for (int i = 0; i < KEYS; i++)
        CHECK(pthread_key_create(&keys[i], destructor) == 0);
    for (int i = 0; i < THREADS; i += 4) {
        pthread_t threads[4];
        for (int j = 0; j < 4; j++)
            CHECK(pthread_create(&threads[j], NULL, thread, NULL) == 0);
        for (int j = 0; j < 4; j++)
            CHECK(pthread_join(threads[j], NULL) == 0);
    }
    CHECK(calls >= THREADS * KEYS * 4);
    puts("ok");
    return 0;
}
