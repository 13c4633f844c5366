/* Allocations between mtrace() and muntrace().
 * usage: calls KIND. A line with LEAK in its comment is one that the script must name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <mcheck.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile p;
static void *volatile q;

static void leaks(void)
{
    p = calloc(3, 10); /* LEAK calloc */
    p = malloc(20); /* LEAK malloc */
    q = malloc(30);
    free(q);
    p = realloc(malloc(40), 50000); /* LEAK realloc */
    p = memalign(256, 60); /* LEAK memalign */
    p = aligned_alloc(32, 64); /* LEAK aligned_alloc */
    void *r = 0;
    posix_memalign(&r, 128, 70); /* LEAK posix_memalign */
    p = valloc(80); /* LEAK valloc */
    p = malloc(300000); /* LEAK large */
    malloc(90); /* LEAK nobody looks at the result */
}

static void clean(void)
{
    void *all[64];
    for (int i = 0; i < 64; i++)
        all[i] = i % 2 ? malloc(i * 1000) : calloc(i, 3000);
    for (int i = 0; i < 64; i++)
        all[i] = realloc(all[i], (64 - i) * 700);
    for (int i = 0; i < 64; i++)
        free(all[i * 7 % 64]);
    free(0);
}

/* Every call and every way it can end. */
static void every_call(void)
{
    free(0);
    p = malloc(0);
    free(p);
    p = realloc(0, 24);
    p = realloc(p, 25);
    p = realloc(p, 4000);
    p = realloc(p, 500000);
    p = realloc(p, 900000);
    p = realloc(p, 200);
    q = realloc(p, SIZE_MAX / 4);
    q = realloc(p, 0);
    p = calloc(7, 9);
    q = calloc(SIZE_MAX / 2, 3);
    q = malloc(SIZE_MAX / 4);
    q = memalign(1 << 20, 100);
    free(p);
    free(q);
    q = aligned_alloc(64, 640);
    void *r = 0;
    posix_memalign(&r, 4096, 1);
    free(q);
    free(r);
    r = valloc(77);
    free(r);
}

static void arrays(void)
{
    q = pvalloc(78);
    free(q);
    q = reallocarray(0, 11, 13);
    q = reallocarray(q, 17, 19);
    q = reallocarray(q, 1000, 1000);
    free(q);
}

enum { THREADS = 4, ROUNDS = 500 };
static void *exchange[THREADS * ROUNDS];

static void *allocates(void *number)
{
    void **mine = exchange + (intptr_t)number * ROUNDS;
    for (int i = 0; i < ROUNDS; i++) {
        void *gone = malloc(100);
        mine[i] = realloc(malloc(i + 1), 2 * i + 50);
        free(gone);
    }
    return 0;
}

static void *frees(void *number)
{
    for (int i = 0; i < ROUNDS; i++)
        free(exchange[((intptr_t)number + 1) % THREADS * ROUNDS + i]);
    return 0;
}

static void each(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], 0, body, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
}

static void threads(void)
{
    each(allocates);
    each(frees);
}

/* What a child does is not the parent's. */
static void forks(void)
{
    p = malloc(111);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 100; i++)
            q = malloc(222);
        exit(0);
    }
    waitpid(child, 0, 0);
    free(p);
}

/* A daemon: closes all that it does not know, then opens its own. */
static void closes(void)
{
    p = malloc(333);
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    char path[] = "daemon.data";
    int low = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    for (int fd = 3; fd < 1024; fd++)
        if (fd != low)
            dup2(low, fd);
    for (int i = 0; i < 100; i++)
        free(malloc(444));
    struct { char bytes[4096]; } buffer;
    ssize_t n = pread(low, &buffer, sizeof buffer, 0);
    printf("%zd\n", n);
}

static void keeps_errno(void)
{
    for (int i = 0; i < 100; i++) {
        errno = 77;
        free(malloc(555));
        if (errno != 77)
            exit(4);
    }
}

#define KIND(f) {#f, f}

static const struct {
    const char *name;
    void (*run)(void);
} kinds[] = {
    KIND(leaks), KIND(clean), KIND(every_call), KIND(arrays), KIND(threads), KIND(forks), KIND(closes),
    KIND(keeps_errno),
};

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    void *before = malloc(1234);
    if (argc == 2) {
        mtrace();
        mtrace();
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, argv[1])) {
            kinds[i].run();
            if (argc == 2)
                muntrace();
            free(before);
            p = malloc(4321);
            return 3;
        }
    return 2;
}
