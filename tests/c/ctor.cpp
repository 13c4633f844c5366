// The first calls come from a constructor of a C++ static with the earliest priority there is.
#include "early.h"
#include <string>
#include <vector>

struct Early {
    std::vector<std::string> *words;
    Early() {
        use_everything_early();
        words = new std::vector<std::string>;
        for (int i = 0; i < 1000; i++)
            words->push_back("a word that is longer than a short string " + std::to_string(i));
    }
    // Runs after main, among the last.
    ~Early() {
        delete words;
        free_early_blocks();
        say("destroyed\n");
    }
};

__attribute__((init_priority(101))) static Early early;

int main() {
    check_preloaded();
    CHECK(early.words->size() == 1000 && early.words->back().size() > 40);
    early.words->push_back("one more");
    puts("ok");
}
