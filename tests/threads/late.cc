// Allocations and frees that come late: in the destructors of thread-specific
// data and of thread_local objects, after the allocator has taken leave of the
// thread; in atexit handlers and static destructors, while other threads run.
// usage: late thread | late exit
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <pthread.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static std::atomic<long> destroyed, key_rounds;

static void work(int seed)
{
    std::map<std::string, std::vector<int>> m;
    for (int i = 0; i < 50; i++)
        m[std::string(10 + (i * seed) % 90, 'a' + i % 26)].resize(i * 20);
    std::unique_ptr<char[]> large(new char[200000]);
    memset(large.get(), seed, 200000);
}

struct Late {
    std::vector<std::string> held;
    ~Late()
    {
        for (auto &s : held)
            if (s != std::string(100, 'x'))
                _exit(3);
        work(static_cast<int>(held.size()));
        held.clear();
        held.shrink_to_fit();
        destroyed++;
    }
};

static thread_local Late object;
static pthread_key_t first_key, keys[40];

// Comes back in every one of the rounds that the C library grants.
static void key_destructor(void *value)
{
    auto *text = static_cast<std::string *>(value);
    if (*text != std::string(200, 'k'))
        _exit(4);
    delete text;
    work(7);
    key_rounds++;
    pthread_setspecific(keys[39], new std::string(200, 'k'));
}

static void plain_destructor(void *value)
{
    free(value);
    free(malloc(5000));
}

static void thread_body(int seed)
{
    for (int i = 0; i < 20; i++)
        object.held.emplace_back(100, 'x');
    pthread_setspecific(first_key, malloc(100));
    for (int i = 0; i < 39; i++)
        pthread_setspecific(keys[i], malloc(10 * i + 1));
    pthread_setspecific(keys[39], new std::string(200, 'k'));
    work(seed);
}

static long rss_kib()
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &pages, &resident) != 2)
        _exit(5);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static int threads()
{
    // More keys than the C library keeps in the thread's own block.
    for (int i = 0; i < 39; i++)
        pthread_key_create(&keys[i], plain_destructor);
    pthread_key_create(&keys[39], key_destructor);
    long early = 0;
    for (int round = 0; round < 125; round++) {
        std::array<std::thread, 4> all;
        for (auto &t : all)
            t = std::thread(thread_body, round);
        for (auto &t : all)
            t.join();
        if (round == 10)
            early = rss_kib();
    }
    printf("destroyed %ld\nkey_rounds %d\nearly_kib %ld\nlate_kib %ld\n", destroyed.load(),
           key_rounds >= 4 * 500, early, rss_kib());
    return 0;
}

struct Static {
    std::vector<std::string> held{std::vector<std::string>(500, std::string(300, 's'))};
    ~Static()
    {
        work(3);
        held.clear();
        static const char text[] = "static destructor\n";
        if (write(1, text, sizeof text - 1) < 0)
            _exit(6);
    }
};
static void *kept[1000];

static void at_exit()
{
    for (auto &p : kept)
        free(p);
    for (auto &p : kept)
        p = malloc(300);
    work(5);
}

static void *run_for_ever(void *)
{
    std::vector<char *> mine(100);
    for (unsigned i = 0;; i++) {
        delete[] mine[i % 100];
        mine[i % 100] = new char[1 + i * 37 % 5000];
    }
}

static int leave()
{
    static Static global;
    for (auto &p : kept)
        p = malloc(500);
    for (int i = 0; i < 40; i++) // from the 33rd on, the C library allocates
        atexit(at_exit);
    for (int i = 0; i < 3; i++) {
        pthread_t t;
        if (pthread_create(&t, nullptr, run_for_ever, nullptr) || pthread_detach(t))
            return 7;
    }
    for (int i = 0; i < 20; i++)
        object.held.emplace_back(100, 'x');
    usleep(2000);
    exit(9);
}

int main(int argc, char **argv)
{
    // Before the first allocation of this file's own, for what that is worth.
    pthread_key_create(&first_key, plain_destructor);
    return argc == 2 && !strcmp(argv[1], "thread") ? threads() : leave();
}
