/* Prints whether the process runs with more rights than its user, and works in any case. */
#include "early.h"
#include <sys/auxv.h>

int main(void) {
    check_preloaded();
    use_everything_early();
    free_early_blocks();
    unsigned char *p = malloc(100);
    CHECK(p != NULL);
    printf("secure %lu perturbed %d\n", getauxval(AT_SECURE), p[50] == 0x5a);
    free(p);
    return 0;
}
