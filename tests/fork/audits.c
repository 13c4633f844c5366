/* Threads allocate all the time while the process forks. Each child audits itself: what the
   threads were in the middle of must not be held against it. Prints how many children found
   something. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile kept;

static void *churn(void *seed)
{
    unsigned random = (unsigned)(uintptr_t)seed;
    for (;;) {
        random = random * 1103515245 + 12345;
        char *large = malloc(130000 + (random >> 8) % 400000);
        char *small = malloc((random >> 8) % 5000);
        if (large)
            large[0] = 1;
        kept = small;
        free(large);
        free(small);
    }
    return NULL;
}

int main(void)
{
    int (*audit)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "fencepost_audit");
    if (!audit)
        return 2;
    for (uintptr_t i = 1; i <= 6; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, churn, (void *)i))
            return 3;
    }
    int accused = 0;
    for (int i = 0; i < 40; i++) {
        usleep(1000);
        pid_t child = fork();
        if (child == 0)
            _exit(audit() != 0);
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 4;
        accused += status != 0;
    }
    printf("%d\n", accused);
    fflush(stdout);
    _exit(0);
}
