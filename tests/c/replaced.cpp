// A program that replaces only the plain operators, with blocks that no other allocator could
// free. As the standard has it, the array, sized and nothrow forms then come to it as well.
#include "check.h"
#include <new>

static int news, deletes;
static bool out_of_memory;
alignas(16) static char pool[1 << 16];
static std::size_t used;

void *operator new(std::size_t size) {
    news++;
    if (out_of_memory)
        throw std::bad_alloc();
    void *p = pool + used;
    used += (size + 31) / 16 * 16;
    CHECK(used <= sizeof pool);
    return p;
}

void operator delete(void *p) noexcept {
    CHECK(p == nullptr || ((char *)p >= pool && (char *)p < pool + sizeof pool));
    deletes++;
}

#define BOTH(made, deleted)                                                    \
    do {                                                                       \
        news = deletes = 0;                                                    \
        void *p = opaque(made);                                                \
        CHECK(p != nullptr && news == 1 && deletes == 0);                      \
        deleted;                                                               \
        CHECK(news == 1 && deletes == 1);                                      \
    } while (0)

int main() {
    check_preloaded();
    using std::nothrow;
    BOTH(operator new(10), operator delete(p));
    BOTH(operator new[](10), operator delete[](p));
    BOTH(operator new(10, nothrow), operator delete(p, 10));
    BOTH(operator new[](10, nothrow), operator delete[](p, 10));
    BOTH(operator new(10), operator delete(p, nothrow));
    BOTH(operator new[](10), operator delete[](p, nothrow));
    out_of_memory = true;
    news = 0;
    CHECK(opaque(operator new(10, nothrow)) == nullptr);
    CHECK(opaque(operator new[](10, nothrow)) == nullptr);
    bool caught = false;
    try {
        opaque(operator new[](10));
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    CHECK(caught && news == 3);
    // The aligned forms are operators of their own, which this program did not replace.
    news = deletes = 0;
    void *p = opaque(operator new[](100, std::align_val_t(64)));
    CHECK(p != nullptr && (uintptr_t)p % 64 == 0);
    operator delete[](p, 100, std::align_val_t(64));
    CHECK(news == 0 && deletes == 0);
    puts("ok");
}
