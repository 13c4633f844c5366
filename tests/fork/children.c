/* Children of a program whose threads allocate like mad, so that locks of every
 * kind are held at the moment of the fork. Each child frees what the parent's
 * threads allocated, allocates, and (after a true fork) starts threads and
 * forks again.
 * usage: children fork|_Fork|clone|vfork|spawn|crowd CHILDREN */
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, GIFTS = 64, SLOTS = 256 };

extern char **environ;
static char *self;
static atomic_int done;
static atomic_int ready;
static _Atomic(char *) slots[SLOTS];
static struct { unsigned char *p; size_t size; } gifts[THREADS + 1][GIFTS];

static const size_t sizes[] = {1, 16, 24, 40, 64, 100, 200, 500, 1000, 1500, 3000, 9000, 40000, 150000};
static size_t size_of(unsigned n) { return sizes[n % (sizeof sizes / sizeof *sizes)]; }
static unsigned next(unsigned *seed) { return (*seed = *seed * 1103515245 + 12345) >> 8; }

static unsigned char *filled(size_t size, int value)
{
    unsigned char *p = malloc(size);
    if (!p)
        _exit(10);
    memset(p, value, size);
    return p;
}

static void intact(const unsigned char *p, size_t size, int value, int code)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] != (unsigned char)value)
            _exit(code);
}

static void give(int thread)
{
    for (int i = 0; i < GIFTS; i++) {
        gifts[thread][i].size = size_of(i);
        gifts[thread][i].p = filled(size_of(i), thread * 31 + i);
    }
}

/* Allocates and frees, half of it through slots that all threads share. */
static void *mad(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    give((int)(uintptr_t)arg);
    ready++;
    while (!done) {
        size_t size = size_of(next(&seed));
        char *p = malloc(size);
        *p = 1;
        if (next(&seed) & 1)
            p = atomic_exchange(&slots[next(&seed) % SLOTS], p);
        free(p);
    }
    return 0;
}

static void work(unsigned seed, int rounds)
{
    unsigned char *p[200] = {0};
    size_t size[200];
    for (int i = 0; i < rounds; i++) {
        int at = next(&seed) % 200;
        if (p[at]) {
            intact(p[at], size[at], at, 11);
            if (next(&seed) & 1) {
                p[at] = realloc(p[at], size[at] + 50);
                if (!p[at])
                    _exit(12);
                intact(p[at], size[at], at, 13);
            }
            free(p[at]);
        }
        size[at] = size_of(next(&seed)) % 9001 + 1;
        p[at] = filled(size[at], at);
    }
    for (int i = 0; i < 200; i++)
        free(p[i]);
}

static void *work_in_thread(void *arg)
{
    work((unsigned)(uintptr_t)arg, 1000);
    return 0;
}

/* What every child does; `full`: the C library knows that this is a child. */
static void child(int full, unsigned seed)
{
    alarm(20); /* a child that hangs dies of SIGALRM */
    for (int t = 0; t <= THREADS; t++)
        for (int i = 0; i < GIFTS; i++) {
            intact(gifts[t][i].p, gifts[t][i].size, t * 31 + i, 14);
            if (i % 3 == 0)
                gifts[t][i].p = realloc(gifts[t][i].p, gifts[t][i].size + 5000);
            if (!gifts[t][i].p)
                _exit(15);
            intact(gifts[t][i].p, gifts[t][i].size, t * 31 + i, 16);
            free(gifts[t][i].p);
        }
    /* Other threads' blocks, wherever they were last seen. */
    for (int i = 0; i < SLOTS; i++)
        free(slots[i]);
    work(seed, 2000);
    if (!full)
        _exit(0);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        if (pthread_create(&threads[i], 0, work_in_thread, (void *)(uintptr_t)(seed + i)))
            _exit(17);
    /* Beside them, in the thread that came from the parent. */
    work(seed + 5, 2000);
    int status;
    pid_t grandchild = fork();
    if (grandchild == 0) {
        alarm(20);
        work(seed + 9, 1000);
        _exit(0);
    }
    if (waitpid(grandchild, &status, 0) != grandchild || status)
        _exit(18);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], 0);
    _exit(0);
}

static void expect_zero(pid_t pid)
{
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("child");
        _exit(20);
    }
    if (status) {
        dprintf(2, "child: %s %d\n", WIFSIGNALED(status) ? "signal" : "exit",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        _exit(21);
    }
}

static void one(const char *how, unsigned seed)
{
    char *args[] = {self, "exec", 0};
    pid_t pid;
    if (!strcmp(how, "fork") || !strcmp(how, "crowd")) {
        if ((pid = fork()) == 0)
            child(1, seed);
    } else if (!strcmp(how, "_Fork")) {
        if ((pid = _Fork()) == 0)
            child(0, seed);
    } else if (!strcmp(how, "clone")) {
        if ((pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)) == 0)
            child(0, seed);
    } else if (!strcmp(how, "vfork")) {
        if ((pid = vfork()) == 0) {
            execve(self, args, environ);
            _exit(19);
        }
    } else if (posix_spawn(&pid, self, 0, 0, args, environ)) {
        pid = -1;
    }
    expect_zero(pid);
}

static const char *how;
static int children;

static void *crowd(void *arg)
{
    for (int i = 0; i < children / 3; i++) {
        one(how, i * 7 + (unsigned)(uintptr_t)arg);
        work(i, 200);
    }
    return 0;
}

/* A program's own handlers may allocate. */
static void handler(void)
{
    void *p = malloc(77), *q = calloc(3, 1000);
    free(p);
    free(q);
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS], forkers[3];
    if (argc == 2) {
        work(5, 2000);
        return 0;
    }
    if (argc != 3)
        return 2;
    self = argv[0];
    how = argv[1];
    children = atoi(argv[2]);
    pthread_atfork(handler, handler, handler);
    give(THREADS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], 0, mad, (void *)(uintptr_t)i))
            return 3;
    while (ready < THREADS)
        usleep(100);
    if (!strcmp(how, "crowd")) {
        for (int i = 0; i < 3; i++)
            if (pthread_create(&forkers[i], 0, crowd, (void *)(uintptr_t)i))
                return 4;
        for (int i = 0; i < 3; i++)
            pthread_join(forkers[i], 0);
    } else {
        for (int i = 0; i < children; i++)
            one(how, i);
    }
    done = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], 0);
    /* The parent's memory is as it was. */
    for (int t = 0; t <= THREADS; t++)
        for (int i = 0; i < GIFTS; i++) {
            intact(gifts[t][i].p, gifts[t][i].size, t * 31 + i, 22);
            free(gifts[t][i].p);
        }
    work(1, 2000);
    printf("%s %d\n", how, children);
    return 0;
}
