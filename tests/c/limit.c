/* Under an address space limit of 512 MiB, from the process's start: four threads use most of
 * it, too much is refused, and what is freed can be had again. */
#include "check.h"
#include <pthread.h>
#include <sys/resource.h>

enum { THREADS = 4, BLOCKS = 60000 };

static void *thread(void *arg) {
    static __thread void *blocks[BLOCKS];
    for (int round = 0; round < 2; round++) {
        size_t total = 0;
        /* 4 x 60 MiB. */
        int n = 0;
        while (total < (size_t)60 << 20 && n < BLOCKS) {
            size_t size = 16 + (size_t)n * 37 % 4000;
            CHECK((blocks[n] = malloc(size)) != NULL);
            fill(blocks[n++], size);
            total += size;
        }
        while (n > 0)
            free(blocks[--n]);
    }
    return arg;
}

int main(int argc, char **argv) {
    if (argc == 1) {
        struct rlimit limit = {(rlim_t)512 << 20, (rlim_t)512 << 20};
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
        execl("/proc/self/exe", argv[0], "limited", (char *)NULL);
        _exit(2);
    }
    check_preloaded();
    pthread_attr_t small;
    CHECK(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 1 << 20) == 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], &small, thread, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);

    errno = 0;
    CHECK(opaque(malloc((size_t)1 << 30)) == NULL && errno == ENOMEM);
    /* Until nothing is left, twice: nothing is lost on the way. */
    size_t first = 0;
    for (int round = 0; round < 2; round++) {
        void **list = NULL;
        size_t count = 0;
        for (;;) {
            errno = 0;
            void **p = malloc(100000);
            if (p == NULL)
                break;
            *p = list;
            list = p;
            count++;
        }
        CHECK(errno == ENOMEM);
        CHECK(count > 2500); /* 250 MB at least */
        if (round == 0)
            first = count;
        else
            CHECK(count >= first - first / 50);
        while (list != NULL) {
            void **next = *list;
            free(list);
            list = next;
        }
    }
    puts("ok");
    return 0;
}
