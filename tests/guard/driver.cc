// Commits one heap error of C++, or its honest twin:   driver [good-]NAME
//
// The first line of standard output is the address and the size of the object.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <vector>

static bool good;

static void tell(const void *p, size_t bytes)
{
    char line[100];
    int n = snprintf(line, sizeof line, "%p %zu\n", p, bytes);
    if (write(1, line, n) != n)
        _exit(91);
}

template <class T> static T *hidden(T *p)
{
    T *volatile through = p;
    return through;
}

struct Wide {
    alignas(64) char bytes[192];
};

struct Plain {
    char bytes[48];
};

static void sized()
{
    void *p = ::operator new(100);
    tell(p, 100);
    ::operator delete(hidden(p), std::size_t(good ? 100 : 90));
}
static void sized_array()
{
    void *p = ::operator new[](100);
    tell(p, 100);
    ::operator delete[](hidden(p), std::size_t(good ? 100 : 104));
}
static void aligned()
{
    void *p = ::operator new(192, std::align_val_t(64));
    tell(p, 192);
    ::operator delete(hidden(p), 192, std::align_val_t(good ? 64 : 32));
}
static void aligned_sized()
{
    void *p = ::operator new(192, std::align_val_t(64));
    tell(p, 192);
    ::operator delete(hidden(p), std::size_t(good ? 192 : 128), std::align_val_t(64));
}
static void twice()
{
    auto *p = new Plain;
    tell(p, sizeof *p);
    delete hidden(p);
    if (!good)
        delete hidden(p);
}
static void inside()
{
    auto *p = new char[64];
    tell(p, 64);
    delete[] hidden(p + (good ? 0 : 8));
}
static void array_end()
{
    auto *p = new char[64];
    tell(p, 64);
    *static_cast<volatile char *>(hidden(p) + (good ? 63 : 64)) = 1;
    delete[] p;
}
static void member()
{
    auto *p = new Wide;
    tell(p, sizeof *p);
    if (!good)
        delete p;
    static_cast<volatile char *>(hidden(p)->bytes)[7] = 1;
    if (good)
        delete p;
}
static void iterator()
{
    std::vector<char> list(64, 'x');
    char *first = hidden(list.data());
    tell(first, 64);
    if (!good)
        list.reserve(4000);
    volatile char seen = first[10];
    (void)seen;
}
static void text()
{
    std::string line(99, 'x'); // 100 bytes with its zero
    char *last = hidden(&line[0]) + 99;
    tell(line.data(), 100);
    if (!good)
        line.assign(5000, 'y');
    volatile char seen = *last;
    (void)seen;
}

static const struct {
    const char *name;
    void (*commit)();
} crimes[] = {
    {"sized", sized},       {"sized-array", sized_array}, {"aligned", aligned},
    {"aligned-sized", aligned_sized}, {"twice", twice},   {"inside", inside},
    {"array-end", array_end}, {"member", member},         {"iterator", iterator},
    {"text", text},
};

int main(int argc, char **argv)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    const char *name = argc == 2 ? argv[1] : "";
    good = !strncmp(name, "good-", 5);
    if (good)
        name += 5;
    for (auto &crime : crimes)
        if (!strcmp(crime.name, name)) {
            crime.commit();
            return 0;
        }
    fprintf(stderr, "driver: no such crime\n");
    return 90;
}
