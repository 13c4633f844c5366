// A call inside a function that is inlined into another one.
void tell(void);

static inline __attribute__((always_inline)) int inner(volatile int *count) {
    tell(); // line: inner
    return *count + 1;
}

__attribute__((noinline)) int outer(volatile int *count) {
    int sum = inner(count); // line: outer
    return sum * 2;
}
