/* operator new runs out of memory in a process without any C++ runtime. */
#include "check.h"

void *_Znwm(size_t) __attribute__((weak));

int main(void) {
    check_preloaded();
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    CHECK(make != NULL);
    free(make(10));
    make(PTRDIFF_MAX);
    return 0;
}
