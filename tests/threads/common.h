/* Helpers that do not allocate, so that they disturb no figure. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Resident memory in KiB. */
static long rss_kib(void)
{
    char text[128];
    long pages = 0, resident = 0;
    int fd = open("/proc/self/statm", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    if (sscanf(text, "%ld %ld", &pages, &resident) != 2)
        _exit(80);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Not dprintf, which allocates its buffer. */
static void figure(const char *name, long value)
{
    char line[128];
    int n = snprintf(line, sizeof line, "%s %ld\n", name, value);
    if (write(1, line, n) != n)
        _exit(86);
}

/* Memory for tables that is not malloc's. */
static void *table(size_t bytes)
{
    void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        _exit(81);
    return p;
}

static unsigned next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*seed >> 33);
}

static void *filled(size_t size)
{
    size_t *p = malloc(size);
    if (!p)
        _exit(82);
    memset(p, (int)size, size);
    return p;
}

static void check(const void *p, size_t size)
{
    const unsigned char *c = p;
    for (size_t i = 0; i < size; i += 1 + size / 64)
        if (c[i] != (unsigned char)size)
            _exit(83);
}

static pthread_t start(void *(*f)(void *), long arg)
{
    pthread_t t;
    if (pthread_create(&t, 0, f, (void *)arg))
        _exit(84);
    return t;
}
