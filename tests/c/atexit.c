/* Exit handlers and destructors that allocate and free what others made, with other threads
 * still at work. */
#include "check.h"
#include <pthread.h>

static void *blocks[1000];

static void handler(void) {
    for (int i = 0; i < 1000; i++) {
        free(blocks[i]);
        CHECK((blocks[i] = malloc((size_t)i * 50)) != NULL);
        fill(blocks[i], (size_t)i * 50);
    }
}

__attribute__((destructor)) static void last(void) {
    handler();
    say("destroyed\n");
}

static void *thread(void *arg) {
    for (;;) {
        void *p = malloc(1000);
        CHECK(p != NULL);
        fill(p, 1000);
        free(p);
    }
    return arg;
}

int main(void) {
    check_preloaded();
    /* More than the C library has room for without allocating. */
    for (int i = 0; i < 40; i++)
        CHECK(atexit(handler) == 0);
    for (int i = 0; i < 2; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, NULL, thread, NULL) == 0);
    }
    puts("ok");
    return 0;
}
