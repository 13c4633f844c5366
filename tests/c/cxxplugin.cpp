// A C++ library that runs out of memory, for a C program that knows nothing of C++.
#include "check.h"
#include <malloc.h>
#include <new>
#include <string>

static volatile std::size_t huge = PTRDIFF_MAX;
static int calls;

extern "C" int cxx_run(void) {
    std::string text(100, 'x');
    try {
        opaque(operator new(huge));
        return 1;
    } catch (const std::bad_alloc &) {
        text += "caught";
    }
    if (opaque(operator new(huge, std::nothrow)) != nullptr)
        return 2;
    if (opaque(operator new[](huge, std::align_val_t(64), std::nothrow)) != nullptr)
        return 3;
    std::set_new_handler([] {
        if (++calls == 2)
            std::set_new_handler(nullptr);
    });
    try {
        opaque(operator new[](huge, std::align_val_t(64)));
        return 4;
    } catch (const std::bad_alloc &) {
        text += "caught";
    }
    return calls == 2 && text.size() == 112 ? 0 : 5;
}
