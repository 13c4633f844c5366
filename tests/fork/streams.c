/* The program of glibc BZ 19431: one thread forks, one flushes all streams, one
 * reads lines. fork takes the lock of the list of streams after the prepare
 * handlers, and the other two hold that lock while they allocate.
 * usage: streams FORKS FILE */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int done;
static atomic_long lines, flushes;
static const char *file;

static void *flush(void *unused)
{
    while (!done) {
        fflush(NULL);
        flushes++;
    }
    return 0;
}

static void *read_lines(void *unused)
{
    /* Lines of many lengths, each in a buffer of its own that lives on for a
     * while: so the cache of the thread runs dry while the stream is locked. */
    enum { KEPT = 500 };
    static char *kept[KEPT];
    long n = 0;
    while (!done) {
        size_t size = 0;
        ssize_t got;
        FILE *f = fopen(file, "r");
        if (!f)
            _exit(2);
        do {
            char **line = &kept[n++ % KEPT];
            free(*line);
            *line = NULL;
            size = 0;
            got = getline(line, &size, f);
            lines += got > 0;
        } while (got > 0);
        fclose(f);
    }
    for (int i = 0; i < KEPT; i++)
        free(kept[i]);
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    long forks = argc == 3 ? atol(argv[1]) : 0;
    file = argv[2];
    alarm(60);
    if (pthread_create(&threads[0], 0, flush, 0) || pthread_create(&threads[1], 0, read_lines, 0))
        return 3;
    for (long i = 0; i < forks; i++) {
        int status;
        pid_t child = fork();
        if (child < 0)
            return 4;
        if (child == 0)
            _exit(0);
        if (waitpid(child, &status, 0) != child || status)
            return 5;
        alarm(60); /* the watchdog bites when one fork takes a minute */
    }
    done = 1;
    pthread_join(threads[0], 0);
    pthread_join(threads[1], 0);
    printf("forks %ld lines %d flushes %d\n", forks, lines > 0, flushes > 0);
    return 0;
}
