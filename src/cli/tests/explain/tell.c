// Prints who called: the return address, where its module begins, and the module's name.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

__attribute__((noinline)) void tell(void) {
    void *pc = __builtin_return_address(0);
    Dl_info info;
    if (dladdr(pc, &info)) {
        printf("%p %p %s\n", pc, info.dli_fbase, info.dli_fname);
    }
}
