/* A small program that tells its mappings when it ends: with `heap` after it has used the heap as
   small programs do, with `few` after it has made a hundred blocks, without either after nothing
   at all. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char buffer[1 << 16];

static void use_heap(void) {
    enum { COUNT = 400 };
    static char *blocks[COUNT];
    free(NULL);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < COUNT; i++) {
            size_t size = 1 + i * 7 % 900;
            blocks[i] = i % 5 ? malloc(size) : calloc(1, size);
            if (!blocks[i])
                _exit(2);
            memset(blocks[i], i, size);
        }
        for (int i = 0; i < COUNT; i += 3)
            blocks[i] = realloc(blocks[i], 1000 + i);
        for (int i = 0; i < COUNT; i++)
            free(blocks[(i * 7 + round) % COUNT]);
    }
    char *large = malloc(300000);
    memset(large, 1, 300000);
    large = realloc(large, 600000);
    free(large);
    signal(SIGUSR1, SIG_IGN);
}

/* The exit's own work comes before this: destructors run last to first, and libraries' last. */
__attribute__((destructor)) static void tell(void) {
    int in = open("/proc/self/smaps", O_RDONLY);
    if (in < 0)
        _exit(3);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;)
        if (write(1, buffer, n) != n)
            _exit(4);
    close(in);
}

static void make_few(void) {
    static char *blocks[100];
    for (int i = 0; i < 100; i++) {
        blocks[i] = malloc(16);
        if (!blocks[i])
            _exit(2);
        memset(blocks[i], i, 16);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "heap") == 0)
        use_heap();
    if (argc > 1 && strcmp(argv[1], "few") == 0)
        make_few();
    return 0;
}
