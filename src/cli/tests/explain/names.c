// Names as C++ and Rust compilers make them.
void tell(void);

#define CALLS(name, symbol) \
    void name(volatile int *count) __asm__(symbol); \
    __attribute__((noinline)) void name(volatile int *count) { tell(); ++*count; }

CALLS(cplusplus, "_ZN5space5thingIiE4fillEj")
CALLS(legacy, "_ZN5crate6module4fill17h0123456789abcdefE")
CALLS(v0, "_RNvNtCs1234_5crate6module4fill")

int main(int count, char **arguments) {
    (void)arguments;
    cplusplus(&count);
    legacy(&count);
    v0(&count);
    return 0;
}
