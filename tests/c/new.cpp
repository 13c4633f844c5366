// Every replaceable operator new and delete: blocks, alignments, the new_handler, bad_alloc.
#include "check.h"
#include <malloc.h>
#include <initializer_list>
#include <new>
#include <sys/resource.h>
#include <sys/wait.h>

using std::align_val_t;
using std::nothrow;

static volatile std::size_t huge = PTRDIFF_MAX;
static int calls;

static void give_up_after_three() {
    if (++calls == 3)
        std::set_new_handler(nullptr);
}

struct Mine {
    int value;
};

static void throw_mine() {
    calls++;
    throw Mine{4711};
}

static void throw_bad_alloc() {
    calls++;
    throw std::bad_alloc();
}

// The handler that the standard has in mind: it makes memory available.
static void *reserve;
static void release_reserve() {
    calls++;
    free(reserve);
    reserve = nullptr;
    std::set_new_handler(nullptr);
}

// An object whose destructor proves that the stack between throw and catch is unwound.
struct Guard {
    int &count;
    ~Guard() { count++; }
};

template <class New> static void throwing(New make) {
    int unwound = 0;
    for (int round = 0; round < 3; round++) {
        // No handler.
        std::set_new_handler(nullptr);
        bool caught = false;
        try {
            Guard guard{unwound};
            opaque(make(huge));
        } catch (const std::bad_alloc &e) {
            caught = e.what() != nullptr;
        }
        CHECK(caught);
        // A handler that is called until it takes itself away.
        calls = 0;
        caught = false;
        std::set_new_handler(give_up_after_three);
        try {
            Guard guard{unwound};
            opaque(make(huge));
        } catch (const std::bad_alloc &) {
            caught = true;
        }
        CHECK(caught && calls == 3);
        // A handler that throws.
        calls = 0;
        caught = false;
        std::set_new_handler(throw_mine);
        try {
            Guard guard{unwound};
            opaque(make(huge));
        } catch (const Mine &mine) {
            caught = mine.value == 4711;
        }
        CHECK(caught && calls == 1);
    }
    CHECK(unwound == 9);
    std::set_new_handler(nullptr);
}

template <class New> static void not_throwing(New make) {
    std::set_new_handler(nullptr);
    CHECK(opaque(make(huge)) == nullptr);
    calls = 0;
    std::set_new_handler(give_up_after_three);
    CHECK(opaque(make(huge)) == nullptr);
    CHECK(calls == 3);
    for (auto handler : {throw_bad_alloc, throw_mine}) {
        calls = 0;
        std::set_new_handler(handler);
        CHECK(opaque(make(huge)) == nullptr);
        CHECK(calls == 1);
    }
    std::set_new_handler(nullptr);
}

template <class New, class Delete>
static void pair(std::size_t align, New make, Delete release) {
    for (std::size_t size = 0; size < 300000; size += 1 + size / 3) {
        void *p = opaque(make(size)), *q = opaque(make(size));
        CHECK(p != nullptr && q != nullptr && p != q);
        CHECK((uintptr_t)p % align == 0 && (uintptr_t)q % align == 0);
        CHECK(malloc_usable_size(p) >= size);
        fill(p, size);
        release(p, size);
        release(q, size);
        release(nullptr, size);
    }
}

template <std::size_t A> static void aligned() {
    constexpr auto a = align_val_t(A);
    auto make = [](std::size_t n) { return operator new(n, a); };
    auto make_array = [](std::size_t n) { return operator new[](n, a); };
    auto quiet = [](std::size_t n) { return operator new(n, a, nothrow); };
    auto quiet_array = [](std::size_t n) { return operator new[](n, a, nothrow); };
    pair(A, make, [](void *p, std::size_t) { operator delete(p, a); });
    pair(A, quiet, [](void *p, std::size_t n) { operator delete(p, n, a); });
    pair(A, make, [](void *p, std::size_t) { operator delete(p, a, nothrow); });
    pair(A, make_array, [](void *p, std::size_t) { operator delete[](p, a); });
    pair(A, quiet_array, [](void *p, std::size_t n) { operator delete[](p, n, a); });
    pair(A, make_array, [](void *p, std::size_t) { operator delete[](p, a, nothrow); });
    throwing(make);
    throwing(make_array);
    not_throwing(quiet);
    not_throwing(quiet_array);
}

// Memory that is really used up, and a handler that gives some back.
static void out_of_address_space() {
    rlimit limit{rlim_t(512) << 20, rlim_t(512) << 20};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK((reserve = malloc(150 << 20)) != nullptr);
    void *large = nullptr;
    std::set_new_handler(release_reserve);
    calls = 0;
    for (int i = 0; i < 8 && calls == 0; i++)
        CHECK((large = opaque(operator new(100 << 20))) != nullptr);
    CHECK(calls == 1 && reserve == nullptr && large != nullptr);
}

int main() {
    check_preloaded();
    if (pid_t child = fork()) {
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    } else {
        out_of_address_space();
        return 0;
    }
    auto make = [](std::size_t n) { return operator new(n); };
    auto make_array = [](std::size_t n) { return operator new[](n); };
    auto quiet = [](std::size_t n) { return operator new(n, nothrow); };
    auto quiet_array = [](std::size_t n) { return operator new[](n, nothrow); };
    pair(16, make, [](void *p, std::size_t) { operator delete(p); });
    pair(16, quiet, [](void *p, std::size_t n) { operator delete(p, n); });
    pair(16, make, [](void *p, std::size_t) { operator delete(p, nothrow); });
    pair(16, make_array, [](void *p, std::size_t) { operator delete[](p); });
    pair(16, quiet_array, [](void *p, std::size_t n) { operator delete[](p, n); });
    pair(16, make_array, [](void *p, std::size_t) { operator delete[](p, nothrow); });
    throwing(make);
    throwing(make_array);
    not_throwing(quiet);
    not_throwing(quiet_array);
    aligned<8>();
    aligned<16>();
    aligned<64>();
    aligned<4096>();
    aligned<1 << 20>();

    puts("ok");
}
