/* The first calls come from .preinit_array, before any constructor of any library. */
#include "early.h"

static int ran;

static void before_all(void) {
    use_everything_early();
    ran = 1;
}

__attribute__((section(".preinit_array"), used)) static void (*entry)(void) = before_all;

int main(void) {
    check_preloaded();
    CHECK(ran);
    free_early_blocks();
    puts("ok");
    return 0;
}
