/* The process has used up its thread keys before its first thread starts; with an argument
 * even before main. */
#include "check.h"
#include <pthread.h>

static int keys;

static void exhaust(void) {
    pthread_key_t key;
    while (pthread_key_create(&key, NULL) == 0)
        keys++;
}

static void early(int argc, char **argv, char **envp) {
    (void)argv, (void)envp;
    if (argc > 1)
        exhaust();
}

__attribute__((section(".preinit_array"), used)) static void (*entry)(int, char **, char **) = early;

static void *thread(void *arg) {
    void *blocks[200];
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 200; i++) {
            CHECK((blocks[i] = malloc((size_t)i * 13)) != NULL);
            fill(blocks[i], (size_t)i * 13);
        }
        for (int i = 0; i < 200; i++)
            free(blocks[i]);
    }
    free(arg);
    return malloc(100);
}

int main(void) {
    check_preloaded();
    exhaust();
    CHECK(keys > 900);
    for (int round = 0; round < 50; round++) {
        pthread_t threads[4];
        for (int i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, thread, malloc(50)) == 0);
        for (int i = 0; i < 4; i++) {
            void *result;
            CHECK(pthread_join(threads[i], &result) == 0);
            CHECK(result != NULL);
            free(result);
        }
    }
    puts("ok");
    return 0;
}
