/* What the inventory's rows ask of guard mode; argv[1] is the row. */
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static char statics[64];

__attribute__((noinline)) static void forget(void) {
    char *only = malloc(10);
    memset(only, 1, 10);
}

/* So that no register or dead frame keeps a pointer. */
__attribute__((noinline)) static void overwrite_stack(void) {
    volatile char space[8192];
    memset((char *)space, 0, sizeof space);
}

int main(int argc, char **argv) {
    int row = argc > 1 ? atoi(argv[1]) : 0;
    const char *how = argc > 2 ? argv[2] : "";
    volatile char *p;
    switch (row) {
    case 34: {
        /* Each time that the child is about to get the signal, it stops here. */
        pid_t child = fork();
        if (child == 0) {
            ptrace(PTRACE_TRACEME, 0, NULL, NULL);
            p = malloc(64);
            p[64] = 1;
            _exit(1);
        }
        int status, deliver = 0;
        while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
            siginfo_t info;
            if (WSTOPSIG(status) == SIGSEGV && !ptrace(PTRACE_GETSIGINFO, child, NULL, &info))
                printf("%p\n", info.si_addr);
            deliver = WSTOPSIG(status);
            ptrace(PTRACE_CONT, child, NULL, (void *)(long)deliver);
        }
        printf("%d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
        return 0;
    }
    case 32:
        p = malloc(64);
        printf("%p\n", (void *)(p + 64));
        fflush(stdout);
        p[64] = 1;
        return 1;
    case 46:
        p = (volatile char *)8;
        return *p;
    case 82: {
        char *a = malloc(0), *b = malloc(0);
        if (!a || !b || a == b || malloc_usable_size(a))
            return 2;
        free(b);
        if (!*how) {
            free(a);
            return 0;
        }
        *(volatile char *)a = 1;
        return 1;
    }
    case 84: {
        char *a = malloc(100), *same = a;
        free(a);
        if ((uintptr_t)a != (uintptr_t)same)
            return 2;
        for (int i = 0; i < 1000; i++) {
            char *other = malloc(100);
            if ((uintptr_t)other == (uintptr_t)same)
                return 3;
            free(other);
        }
        return !*how ? 0 : *(volatile char *)same;
    }
    case 85: {
        size_t size = strtoul(how, NULL, 0);
        char *a = malloc(size);
        free(a);
        free(a);
        return 1;
    }
    case 86: {
        char on_stack[64];
        char *a = malloc(64);
        if (!strcmp(how, "inside"))
            free(a + 16);
        else if (!strcmp(how, "misaligned"))
            free(a + 1);
        else if (!strcmp(how, "stack"))
            free(on_stack + 16);
        else if (!strcmp(how, "static"))
            free(statics + 16);
        return 1;
    }
    case 88:
        forget();
        overwrite_stack();
        return 0;
    case 122: {
        char *page = aligned_alloc(4096, 4096);
        if (mprotect(page + 1, 4096, PROT_READ) == 0)
            return 2;
        if (mprotect(page, 4096, PROT_READ))
            return 3;
        printf("%p\n", (void *)page);
        fflush(stdout);
        *(volatile char *)page = 1;
        return 1;
    }
    }
    return 9;
}
