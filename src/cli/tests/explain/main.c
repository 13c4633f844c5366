#include <stdio.h>

int outer(volatile int *count);

int main(int count, char **arguments) {
    (void)arguments;
    int sum = outer(&count); // line: main
    return sum == 0 || fflush(stdout) != 0;
}
