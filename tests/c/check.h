/* What the test programs share: a check that says where it failed, and the proof that the
 * allocator under test is the one that runs. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes without stdio, which allocates. */
static inline void say(const char *text) {
    ssize_t ignored = write(2, text, strlen(text));
    (void)ignored;
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            say(__FILE__ ":" TEXT(__LINE__) ": failed: " #condition "\n");     \
            _exit(1);                                                          \
        }                                                                      \
    } while (0)

/* Keeps the compiler from knowing anything about a pointer. */
static inline void *opaque(void *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

/* Fails unless this process's malloc is fencepost's. */
static inline void check_preloaded(void) {
    Dl_info info;
    void *where = dlsym(RTLD_DEFAULT, "malloc");
    CHECK(where != NULL && dladdr(where, &info) != 0);
    CHECK(strstr(info.dli_fname, "libfencepost.so") != NULL);
}

/* Fills a block with a pattern that depends on its address. */
static inline void fill(void *p, size_t size) {
    memset(p, (int)(((uintptr_t)p >> 4) ^ size), size);
}

#ifdef __cplusplus
}
#endif
#endif
