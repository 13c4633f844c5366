/* argv[1]: a C++ library, loaded without making its runtime's names global. */
#include "check.h"

int main(int argc, char **argv) {
    check_preloaded();
    CHECK(argc == 2);
    CHECK(dlsym(RTLD_DEFAULT, "__cxa_throw") == NULL);
    void *plugin = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (plugin == NULL)
        say(dlerror());
    int (*run)(void) = (int (*)(void))dlsym(plugin, "cxx_run");
    CHECK(run != NULL);
    CHECK(run() == 0);
    puts("ok");
    return 0;
}
