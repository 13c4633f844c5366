/* The heap's state in C's terms: the numbers agree with each other and with what was done, the
 * XML goes to stdout, malloc_stats to stderr. */
#include "check.h"
#include <malloc.h>
#include <pthread.h>

static void *blocks[300];

static void *thread(void *arg) {
    void *mine[100];
    for (int i = 0; i < 100; i++)
        CHECK((mine[i] = malloc(500)) != NULL);
    for (int i = 0; i < 100; i++)
        free(mine[i]);
    return arg;
}

int main(void) {
    check_preloaded();
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 0; i < 300; i++)
        CHECK((blocks[i] = malloc(10 + (size_t)i * 40)) != NULL);
    for (int i = 0; i < 300; i += 2)
        free(blocks[i]);
    pthread_t id;
    CHECK(pthread_create(&id, NULL, thread, NULL) == 0 && pthread_join(id, NULL) == 0);

    struct mallinfo2 m = mallinfo2();
    CHECK(m.arena > 0 && m.arena % 4096 == 0);
    CHECK(m.uordblks + m.fordblks == m.arena);
    CHECK(m.fsmblks <= m.fordblks && m.keepcost <= m.fordblks);
    CHECK(m.usmblks == 0 && m.hblks == 0 && m.hblkhd == 0);
    /* 150 blocks of 6 KB on average are in use, as many are not. */
    CHECK(m.uordblks > 800000 && m.uordblks < 1700000);
    CHECK(m.ordblks >= 1);
    struct mallinfo narrow = mallinfo();
    CHECK((size_t)narrow.arena == m.arena && (size_t)narrow.fordblks == m.fordblks);
    CHECK((size_t)narrow.uordblks == m.uordblks && (size_t)narrow.keepcost == m.keepcost);

    void *large = malloc(3 << 20);
    CHECK(large != NULL);
    struct mallinfo2 with = mallinfo2();
    CHECK(with.hblks == 1 && with.hblkhd >= 3 << 20 && with.hblkhd < 4 << 20);
    CHECK(with.arena == m.arena);

    CHECK(malloc_info(1, stdout) == EINVAL);
    CHECK(malloc_info(0, stdout) == 0);
    malloc_stats();
    free(large);
    CHECK(mallinfo2().hblks == 0);
    /* A stream that cannot be written. */
    FILE *full = fopen("/dev/full", "w");
    CHECK(full != NULL && setvbuf(full, NULL, _IONBF, 0) == 0);
    errno = 0;
    CHECK(malloc_info(0, full) == -1 && errno == ENOSPC);
    /* A stream whose buffer is still to be allocated. */
    char *text = NULL;
    size_t size = 0;
    FILE *memory = open_memstream(&text, &size);
    CHECK(memory != NULL && malloc_info(0, memory) == 0 && fclose(memory) == 0);
    CHECK(size > 100 && strncmp(text, "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>", 42) == 0);
    free(text);
    return 0;
}
