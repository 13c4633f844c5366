// Destructors of thread_local objects that allocate and free, and call for more of them.
#include "check.h"
#include <atomic>
#include <string>
#include <thread>
#include <vector>

static std::atomic<int> destroyed;

struct Inner {
    std::vector<std::string> *words = new std::vector<std::string>(100, std::string(200, 'x'));
    ~Inner() {
        for (auto &word : *words)
            word += std::string(word.size(), 'y');
        delete words;
        destroyed++;
    }
};

struct Outer {
    std::string text = std::string(5000, 'z');
    ~Outer() {
        // The first use of another thread_local, while the thread is ending.
        static thread_local Inner late;
        text += late.words->front();
        void *p = malloc(text.size());
        memcpy(p, text.data(), text.size());
        free(p);
        destroyed++;
    }
};

static thread_local Inner inner;
static thread_local Outer outer;

int main() {
    check_preloaded();
    for (int round = 0; round < 50; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++)
            threads.emplace_back([] { CHECK(inner.words->size() + outer.text.size() == 5100); });
        for (auto &thread : threads)
            thread.join();
    }
    CHECK(destroyed == 50 * 4 * 3);
    puts("ok");
}
