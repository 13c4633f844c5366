/* argv[1]: the plugin. Blocks go both ways between it and the program, it is loaded and
 * unloaded again and again, with and without other threads about. */
#include "check.h"
#include <pthread.h>

static const char *path;

static void use(int flags) {
    void *plugin = dlopen(path, flags);
    if (plugin == NULL) {
        say(dlerror());
        _exit(1);
    }
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(plugin, "plugin_make");
    void (*release)(void *) = (void (*)(void *))dlsym(plugin, "plugin_free");
    CHECK(make != NULL && release != NULL);
    for (size_t size = 1; size < (size_t)1 << 22; size *= 3) {
        void *ours = malloc(size), *theirs = make(size);
        CHECK(ours != NULL && theirs != NULL && ours != theirs);
        theirs = realloc(theirs, size + 1);
        CHECK(theirs != NULL);
        release(ours);
        free(theirs);
    }
    CHECK(dlclose(plugin) == 0);
}

static void *thread(void *arg) {
    for (int i = 0; i < 20; i++)
        use(i % 2 ? RTLD_NOW : RTLD_LAZY);
    return arg;
}

int main(int argc, char **argv) {
    check_preloaded();
    CHECK(argc == 2);
    path = argv[1];
    for (int i = 0; i < 20; i++)
        use(i % 2 ? RTLD_NOW | RTLD_GLOBAL : RTLD_LAZY);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, thread, NULL) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    puts("ok");
    return 0;
}
