/* Commits one heap error, or its honest twin, as the arguments say.
 *
 *   driver access FUNCTION SIZE ALIGN STATE OFFSET LENGTH MEANS PLACE
 *   driver call   FUNCTION SIZE ALIGN TARGET OFFSET CALL PLACE
 *   driver single NAME
 *   driver cycle  OPERATIONS ALIVE THREADS LEAST MOST
 *
 * The first line of standard output is the address and the size of the object;
 * what follows is the same under every allocator. An error that nobody caught
 * ends in exit status 0, like a twin, so that a tool's verdict is its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FILLERS 8 /* allocations and frees between a free and its misuse */

static char *object;
static size_t size, alignment;
static int freed;

static void fail(const char *what)
{
    dprintf(2, "driver: %s\n", what);
    _exit(90);
}

static void say(const char *what, long number)
{
    char line[100];
    int n = snprintf(line, sizeof line, "%s %ld\n", what, number);
    if (write(1, line, n) != n)
        _exit(91);
}

static void tell(const void *p, size_t bytes)
{
    char line[100];
    int n = snprintf(line, sizeof line, "%p %zu\n", p, bytes);
    if (write(1, line, n) != n)
        _exit(91);
}

/* ---- objects ---- */

__attribute__((noinline)) static char *make(const char *function)
{
    void *p = 0;
    if (!strcmp(function, "malloc"))
        p = malloc(size);
    else if (!strcmp(function, "calloc")) {
        p = calloc(size, 1);
        for (size_t i = 0; p && i < size; i++)
            if (((char *)p)[i])
                fail("calloc did not clear");
    } else if (!strcmp(function, "grown"))
        p = realloc(malloc(size / 2 + 1), size);
    else if (!strcmp(function, "shrunk"))
        p = realloc(malloc(size * 3 + 64), size);
    else if (!strcmp(function, "reallocarray"))
        p = reallocarray(0, size, 1);
    else if (!strcmp(function, "memalign"))
        p = memalign(alignment, size);
    else if (!strcmp(function, "posix_memalign")) {
        if (posix_memalign(&p, alignment, size))
            p = 0;
    } else if (!strcmp(function, "aligned_alloc"))
        p = aligned_alloc(alignment, size);
    else if (!strcmp(function, "valloc"))
        p = valloc(size);
    else if (!strcmp(function, "strdup")) {
        char text[5000];
        if (!size || size > sizeof text)
            fail("no such string");
        memset(text, 'x', size - 1);
        text[size - 1] = 0;
        p = strdup(text);
    } else
        fail("no such function");
    if (!p)
        fail("no memory");
    if ((uintptr_t)p % (alignment ? alignment : 1))
        fail("not aligned");
    memset(p, 0x5a, size);
    return p;
}

static void fillers(void)
{
    for (int i = 0; i < FILLERS / 2; i++) {
        char *volatile p = malloc(32);
        free(p);
    }
}

/* ---- accesses ---- */

static char *source; /* what the writers write */
static long length;

/* Bytes and a string's letters. None is above 127, as a canary's bytes are. */
static void prepare_bytes(char *at) { memset(source, 0x3c, length); }
static void prepare_text(char *at)
{
    memset(source, 'a', length - 1);
    source[length - 1] = 0;
}

static long sum(const char *bytes, long count)
{
    long total = 0;
    for (long i = 0; i < count; i++)
        total += (unsigned char)bytes[i];
    return total;
}

static void read_index(char *at)
{
    long total = 0;
    for (long i = 0; i < length; i++)
        total += *(volatile unsigned char *)(at + i);
    say("sum", total);
}
static void read_word(char *at)
{
    long total = 0;
    for (long i = 0; i + 8 <= length; i += 8)
        total += *(volatile long *)(at + i);
    say("sum", total);
}
static void read_memcpy(char *at)
{
    memcpy(source, at, length);
    say("sum", sum(source, length));
}
static void read_memmove(char *at)
{
    memmove(source, at, length);
    say("sum", sum(source, length));
}
static void read_memcmp(char *at)
{
    memset(source, 0x5a, length);
    say("equal", memcmp(at, source, length) == 0);
}
static void read_memchr(char *at) { say("found", memchr(at, 1, length) != 0); }
static void read_strnlen(char *at) { say("length", strnlen(at, length)); }
static void read_strncmp(char *at)
{
    memset(source, 0x5a, length);
    say("equal", strncmp(at, source, length) == 0);
}
static void read_printf(char *at)
{
    snprintf(source, length + 1, "%.*s", (int)length, at);
    say("sum", sum(source, length));
}

static void write_index(char *at)
{
    for (long i = 0; i < length; i++)
        *(volatile char *)(at + i) = source[i];
}
static void write_word(char *at)
{
    for (long i = 0; i + 8 <= length; i += 8)
        *(volatile long *)(at + i) = *(long *)(source + i);
}
static void write_memcpy(char *at) { memcpy(at, source, length); }
static void write_memmove(char *at) { memmove(at, source, length); }
static void write_memset(char *at) { memset(at, source[0], length); }
static void write_strcpy(char *at) { strcpy(at, source); }
static void write_stpcpy(char *at) { stpcpy(at, source); }
static void write_strncpy(char *at) { strncpy(at, source, length); }
static void write_sprintf(char *at) { sprintf(at, "%s", source); }
static void write_snprintf(char *at) { snprintf(at, length, "%s", source); }
static void write_strcat(char *at)
{
    at[0] = 0;
    strcat(at, source);
}

/* Strings whose terminating zero is missing: the whole object is letters. */
static void unended_strlen(char *at) { say("length", strlen(at)); }
static void unended_strchr(char *at) { say("found", strchr(at, 1) != 0); }
static void unended_strdup(char *at)
{
    char *copy = strdup(at);
    say("length", strlen(copy));
    free(copy);
}
static void unended_printf(char *at) { say("length", snprintf(source, 1, "%s", at)); }

static const struct means {
    const char *name;
    void (*run)(char *at);
    void (*prepare)(char *at);
} means[] = {
    {"read-index", read_index},
    {"read-word", read_word},
    {"read-memcpy", read_memcpy},
    {"read-memmove", read_memmove},
    {"read-memcmp", read_memcmp},
    {"read-memchr", read_memchr},
    {"read-strnlen", read_strnlen},
    {"read-strncmp", read_strncmp},
    {"read-printf", read_printf},
    {"write-index", write_index, prepare_bytes},
    {"write-word", write_word, prepare_bytes},
    {"write-memcpy", write_memcpy, prepare_bytes},
    {"write-memmove", write_memmove, prepare_bytes},
    {"write-memset", write_memset, prepare_text},
    {"write-strcpy", write_strcpy, prepare_text},
    {"write-stpcpy", write_stpcpy, prepare_text},
    {"write-strncpy", write_strncpy, prepare_text},
    {"write-sprintf", write_sprintf, prepare_text},
    {"write-snprintf", write_snprintf, prepare_text},
    {"write-strcat", write_strcat, prepare_text},
    {"unended-strlen", unended_strlen},
    {"unended-strchr", unended_strchr},
    {"unended-strdup", unended_strdup},
    {"unended-printf", unended_printf},
};

static const struct means *chosen;
static long offset;

static void access_it(void)
{
    char *at = object + offset;
    if (chosen->prepare)
        chosen->prepare(at);
    chosen->run(at);
    /* What looks at the canary. */
    const char *end = getenv("DRIVER_END");
    if (end && !strcmp(end, "realloc"))
        free(realloc(object, size + 100));
    else if (end && !strcmp(end, "exit"))
        exit(0);
    else if (!freed)
        free(object);
}

/* ---- calls ---- */

static const char *call;
static char *target;

static void *symbol(const char *name)
{
    /* The library's own; where there is none, what it stands for. */
    void *found = dlsym(RTLD_DEFAULT, name);
    return found ? found : (void *)free;
}

static void (*sized)(void *, size_t);
static void (*aligned_sized)(void *, size_t, size_t);
static size_t given_size, given_alignment;

static void call_it(void)
{
    char *result = 0;
    if (!strcmp(call, "free"))
        free(target);
    else if (!strcmp(call, "realloc"))
        result = realloc(target, size + 1);
    else if (!strcmp(call, "shrink"))
        result = realloc(target, size / 2 + 1);
    else if (!strcmp(call, "realloc0"))
        result = realloc(target, 0);
    else if (!strcmp(call, "reallocarray"))
        result = reallocarray(target, size + 1, 1);
    else if (!strcmp(call, "usable_size"))
        say("enough", malloc_usable_size(target) >= size);
    else if (!strcmp(call, "free_sized"))
        sized(target, given_size);
    else if (!strcmp(call, "free_aligned_sized"))
        aligned_sized(target, given_alignment, given_size);
    else
        fail("no such call");
    if (result) {
        free(result);
    } else if (!strcmp(call, "usable_size")) {
        free(target);
    }
}

static char in_static[256] __attribute__((aligned(64)));

static char *elsewhere(const char *kind, char *on_stack)
{
    if (!strcmp(kind, "stack"))
        return on_stack;
    if (!strcmp(kind, "static"))
        return in_static;
    if (!strcmp(kind, "code"))
        return (char *)((uintptr_t)fail & ~(uintptr_t)15);
    if (!strcmp(kind, "text"))
        return (char *)((uintptr_t)"a constant text of some length" & ~(uintptr_t)15);
    if (!strcmp(kind, "mmap"))
        return mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(kind, "unmapped"))
        return (char *)0x1234560000; /* where no kernel puts a mapping */
    fail("no such target");
    return 0;
}

/* ---- places ---- */

static void *in_thread(void *act)
{
    ((void (*)(void))act)();
    return 0;
}

static void (*acting)(void);

static void in_handler(int number)
{
    (void)number;
    acting();
}

static void at(const char *place, void (*act)(void))
{
    pthread_t thread;
    int status;
    if (!strcmp(place, "main"))
        act();
    else if (!strcmp(place, "thread")) {
        if (pthread_create(&thread, 0, in_thread, (void *)act))
            fail("no thread");
        pthread_join(thread, 0);
    } else if (!strcmp(place, "signal")) {
        acting = act;
        signal(SIGUSR1, in_handler);
        raise(SIGUSR1);
    } else if (!strcmp(place, "fork")) {
        pid_t child = fork();
        if (child == 0) {
            act();
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child)
            fail("no child");
        if (WIFSIGNALED(status))
            _exit(128 + WTERMSIG(status));
        if (WEXITSTATUS(status))
            _exit(WEXITSTATUS(status));
        /* The child's heap was a copy. */
        if (!freed || target == object)
            free(object);
    } else
        fail("no such place");
}

/* ---- errors of one kind only ---- */

static void *volatile kept[8];

struct node {
    struct node *next;
    char text[40];
};

__attribute__((noinline)) static void lose(void)
{
    for (int i = 0; i < 3; i++) {
        char *volatile p = malloc(16 + i);
        p[0] = 1;
    }
}
__attribute__((noinline)) static void give_back(void)
{
    for (int i = 0; i < 3; i++) {
        char *volatile p = malloc(16 + i);
        p[0] = 1;
        free(p);
    }
}
__attribute__((noinline)) static void keep(void)
{
    for (int i = 0; i < 3; i++)
        kept[i] = malloc(16 + i);
}
__attribute__((noinline)) static void tie(int untie)
{
    struct node *a = malloc(sizeof *a), *b = malloc(sizeof *b);
    a->next = b;
    b->next = a;
    if (untie) {
        free(a->next);
        free(a);
    }
}
/* What the calls above left in registers and on the stack. */
__attribute__((noinline)) static void wash(void)
{
    volatile char stack[8192];
    for (size_t i = 0; i < sizeof stack; i++)
        stack[i] = 0;
}

__attribute__((noinline)) static long deep(volatile char *above, long level)
{
    volatile char frame[2000];
    frame[level % sizeof frame] = above[0];
    return deep(frame, level + 1) + frame[7];
}

static void single(const char *name)
{
    int good = !strncmp(name, "good-", 5);
    if (good)
        name += 5;
    /* As every program that has a heap. */
    fillers();
    if (!strcmp(name, "lost")) {
        good ? give_back() : lose();
        wash();
    } else if (!strcmp(name, "reachable")) {
        keep();
        for (int i = 0; good && i < 3; i++)
            free(kept[i]);
    } else if (!strcmp(name, "cycle")) {
        tie(good);
        wash();
    } else if (!strcmp(name, "wrapped")) {
        /* 0x10000004 elements of 16 bytes: the product is cut to 64 bytes. */
        uint32_t count = 0x10000004, bytes = count * 16;
        object = malloc(bytes);
        tell(object, bytes);
        for (uint32_t i = 0; i < (good ? bytes / 16 : count); i++)
            *(volatile char *)(object + 16 * (size_t)i) = 1;
        free(object);
    } else if (!strcmp(name, "negative")) {
        /* Letter 200 as an index is -56 where char has a sign. */
        signed char letter = good ? 100 : (signed char)200;
        object = malloc(256);
        tell(object, 256);
        *(volatile char *)(object + letter) = 1;
        free(object);
    } else if (!strcmp(name, "truncated")) {
        /* A length of 65,552 bytes kept in 16 bits is 16. */
        uint16_t bytes = (uint16_t)65552;
        object = malloc(bytes);
        tell(object, bytes);
        memset(object, 1, good ? bytes : 65552);
        free(object);
    } else if (!strcmp(name, "huge")) {
        /* One less than no byte: refused, and nobody looked. */
        size_t none = 0;
        errno = 0;
        object = malloc(none - 1);
        say("refused", !object && errno == ENOMEM);
        if (!good)
            *(volatile char *)object = 1;
    } else if (!strcmp(name, "multiplied")) {
        errno = 0;
        object = calloc(SIZE_MAX / 4, 8);
        say("refused", !object && errno == ENOMEM);
        if (!good)
            *(volatile char *)object = 1;
    } else if (!strcmp(name, "null")) {
        struct node *volatile none = good ? malloc(sizeof *none) : 0;
        tell(none, 0);
        none->text[0] = 1;
        free(none);
    } else if (!strcmp(name, "wild")) {
        char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        tell(p, 0);
        if (!good)
            munmap(p, 4096);
        *(volatile char *)p = 1;
    } else if (!strcmp(name, "noncanonical")) {
        char *p = good ? in_static : (char *)0xdead000000000100;
        say("read", *(volatile char *)p);
    } else if (!strcmp(name, "readonly")) {
        char *p = mmap(0, 4096, good ? PROT_READ | PROT_WRITE : PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        tell(p, 0);
        *(volatile char *)p = 1;
    } else if (!strcmp(name, "execute")) {
        object = malloc(64);
        memset(object, 0xc3, 64);
        tell(object, 64);
        if (!good)
            ((void (*)(void))object)();
        free(object);
    } else if (!strcmp(name, "deep")) {
        char start = 0;
        if (!good)
            say("deep", deep(&start, 0));
    } else if (!strcmp(name, "bus")) {
        FILE *file = tmpfile();
        char *p = mmap(0, 8192, PROT_READ, MAP_SHARED, fileno(file), 0);
        tell(p, 0);
        if (!good)
            say("read", *(volatile char *)(p + 4096));
        fclose(file);
    } else if (!strcmp(name, "kernel-read") || !strcmp(name, "kernel-write")) {
        /* The kernel's own access: no signal, EFAULT or a short count. */
        int ends[2];
        long done;
        if (pipe(ends) || write(ends[1], in_static, 128) != 128)
            fail("no pipe");
        object = calloc(64, 1);
        tell(object, 64);
        if (!strcmp(name, "kernel-read"))
            done = read(ends[0], object, good ? 64 : 128);
        else
            done = write(ends[1], object + (good ? 0 : 64), 64);
        say("done", done);
        free(object);
    } else if (!strcmp(name, "kernel-slack")) {
        /* Seven bytes too many, all of them in the alignment slack. */
        int ends[2];
        if (pipe(ends) || write(ends[1], "0123456789abcdef", 16) != 16)
            fail("no pipe");
        object = malloc(9);
        tell(object, 9);
        say("done", read(ends[0], object, good ? 9 : 16));
        free(object);
    } else if (!strcmp(name, "busy")) {
        /* Honest work over every function, in four threads. */
        extern void busy(void);
        busy();
    } else
        fail("no such error");
}

static void *work(void *seed)
{
    unsigned state = (unsigned)(uintptr_t)seed;
    char *held[64] = {0};
    size_t sizes[64] = {0};
    for (int i = 0; i < 2000; i++) {
        unsigned n = (state = state * 1664525 + 1013904223) >> 8, slot = n % 64;
        size_t bytes = (n >> 6) % 3000;
        char *p = held[slot];
        if (p && sizes[slot] && (p[0] != (char)slot || p[sizes[slot] - 1] != (char)slot))
            fail("an object changed");
        switch (n % 5) {
        case 0:
            p = realloc(p, bytes + 1);
            bytes++;
            break;
        case 1:
            free(p);
            p = calloc(bytes, 1);
            break;
        case 2:
            free(p);
            p = memalign(16 << (n % 6), bytes);
            break;
        case 3:
            free(p);
            p = 0;
            bytes = 0;
            break;
        default:
            free(p);
            p = malloc(bytes);
        }
        if (p)
            memset(p, (char)slot, malloc_usable_size(p) < bytes ? 0 : bytes);
        held[slot] = p;
        sizes[slot] = bytes;
    }
    for (int i = 0; i < 64; i++)
        free(held[i]);
    return 0;
}

void busy(void)
{
    pthread_t threads[4];
    for (long i = 0; i < 4; i++)
        if (pthread_create(&threads[i], 0, work, (void *)(i + 1)))
            fail("no thread");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], 0);
    say("threads", 4);
}

/* ---- time and memory of many objects ---- */

struct cycles {
    long operations, alive, least, most;
    unsigned seed;
};

static void *cycles(void *given)
{
    struct cycles *c = given;
    char **held = mmap(0, c->alive * sizeof *held, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned state = c->seed;
    if (held == MAP_FAILED)
        fail("no table");
    for (long i = 0; i < c->operations; i++) {
        state = state * 1664525 + 1013904223;
        size_t bytes = c->least + (state >> 8) % (unsigned)(c->most - c->least + 1);
        char **slot = &held[i % c->alive];
        free(*slot);
        char *p = malloc(bytes);
        if (!p)
            fail("no memory");
        p[0] = p[bytes - 1] = 1;
        *slot = p;
    }
    for (long i = 0; i < c->alive; i++)
        free(held[i]);
    return 0;
}

/* The process's own peak in KiB: not what exec inherits, as in rusage. */
static long peak(void)
{
    static char text[8192];
    int fd = open("/proc/self/status", O_RDONLY);
    long n = read(fd, text, sizeof text - 1);
    char *found = n > 0 ? strstr(text, "VmHWM:") : 0;
    close(fd);
    return found ? atol(found + 6) : -1;
}

static void cycle(char **argv)
{
    struct cycles each[64] = {0};
    pthread_t threads[64];
    struct timespec from, to, cpu_from, cpu_to;
    long operations = atol(argv[2]), alive = atol(argv[3]), count = atol(argv[4]);
    if (count < 1 || count > 64 || alive < count || atol(argv[5]) < 1)
        fail("no such cycle");
    clock_gettime(CLOCK_MONOTONIC, &from);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_from);
    for (long i = 0; i < count; i++) {
        each[i].operations = operations / count;
        each[i].alive = alive / count;
        each[i].least = atol(argv[5]);
        each[i].most = atol(argv[6]);
        each[i].seed = (unsigned)i + 1;
    }
    if (count == 1)
        cycles(&each[0]);
    else {
        for (long i = 0; i < count; i++)
            if (pthread_create(&threads[i], 0, cycles, &each[i]))
                fail("no thread");
        for (long i = 0; i < count; i++)
            pthread_join(threads[i], 0);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_to);
    char line[200];
    int n = snprintf(line, sizeof line, "ns %.1f cpu-ns %.1f rss-kib %ld\n",
                     ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / operations,
                     ((cpu_to.tv_sec - cpu_from.tv_sec) * 1e9 + (cpu_to.tv_nsec - cpu_from.tv_nsec)) / operations,
                     peak());
    if (write(1, line, n) != n)
        _exit(91);
}

int main(int argc, char **argv)
{
    char on_stack[256] __attribute__((aligned(64))) = {0};
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    if (argc == 3 && !strcmp(argv[1], "single")) {
        single(argv[2]);
        say("done", 0);
        return 0;
    }
    if (argc == 7 && !strcmp(argv[1], "cycle")) {
        cycle(argv);
        return 0;
    }
    int access = argc == 10 && !strcmp(argv[1], "access");
    if (!access && (argc != 9 || strcmp(argv[1], "call")))
        fail("wrong arguments");
    size = strtoul(argv[3], 0, 0);
    alignment = strtoul(argv[4], 0, 0);
    offset = strtol(argv[6], 0, 0);
    if (access) {
        length = strtol(argv[7], 0, 0);
        for (size_t i = 0; i < sizeof means / sizeof *means; i++)
            if (!strcmp(means[i].name, argv[8]))
                chosen = &means[i];
        if (!chosen)
            fail("no such means");
        source = mmap(0, length + 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    const char *state = argv[5];
    /* Objects of one site may change sides: one before this one, if asked for. */
    static char *earlier, *moved;
    for (int before = getenv("DRIVER_EARLIER") ? 1 : 0; before >= 0; before--) {
        object = make(argv[2]);
        if (before)
            earlier = object;
    }
    tell(object, size);
    if (!strcmp(state, "freed")) {
        free(object);
        freed = 1;
        fillers();
    } else if (!strcmp(state, "moved")) {
        moved = realloc(object, size * 8 + 5000);
        if (moved == object)
            fail("realloc did not move");
        freed = 1;
        fillers();
    } else if (access && strcmp(state, "live"))
        fail("no such state");
    if (access) {
        at(argv[9], access_it);
    } else {
        /* CALL is NAME, NAME:SIZE or NAME:ALIGN:SIZE. */
        static char name[64];
        snprintf(name, sizeof name, "%s", argv[7]);
        char *first = strchr(name, ':'), *second = first ? strchr(first + 1, ':') : 0;
        if (first)
            *first = 0;
        if (second)
            given_alignment = strtoul(first + 1, 0, 0);
        if (first)
            given_size = strtoul((second ? second : first) + 1, 0, 0);
        call = name;
        sized = (void (*)(void *, size_t))symbol("free_sized");
        aligned_sized = (void (*)(void *, size_t, size_t))symbol("free_aligned_sized");
        target = freed || !strcmp(state, "live") ? object : elsewhere(state, on_stack);
        target += offset;
        if (!freed && target == object)
            freed = 1; /* by the call */
        else
            tell(target, size);
        at(argv[8], call_it);
    }
    free(moved);
    free(earlier);
    say("done", 0);
    return 0;
}
