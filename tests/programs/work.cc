// Template-heavy input for the C++ compiler.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct Level {
    using Below = Level<N - 1>;
    std::map<std::string, std::vector<typename Below::Value>> held;
    using Value = std::tuple<std::string, std::variant<int, double, typename Below::Value>>;
};
template <> struct Level<0> { using Value = std::string; };

template <int... Ns> int total(std::integer_sequence<int, Ns...>) {
    return (0 + ... + static_cast<int>(sizeof(Level<Ns % 6 + 1>)));
}

struct Shape {
    virtual ~Shape() = default;
    virtual double area() const = 0;
};
template <int N> struct Polygon : Shape {
    double side = N;
    double area() const override { return side * side * N / 4; }
};
template <int... Ns> std::vector<std::unique_ptr<Shape>> shapes(std::integer_sequence<int, Ns...>) {
    std::vector<std::unique_ptr<Shape>> all;
    (all.push_back(std::make_unique<Polygon<Ns + 3>>()), ...);
    return all;
}

int main(int argc, char **argv) {
    std::unordered_map<std::string, std::function<int(int)>> table;
    for (int i = 0; i < argc; i++)
        table.emplace(argv[i], [i](int x) { return x + i; });
    std::regex words("([a-z]+)([0-9]*)");
    std::ostringstream out;
    for (auto &entry : table)
        out << std::regex_replace(entry.first, words, "$2$1") << entry.second(1);
    auto all = shapes(std::make_integer_sequence<int, 60>());
    std::sort(all.begin(), all.end(), [](auto &a, auto &b) { return a->area() < b->area(); });
    Level<5>::Value value;
    return static_cast<int>(out.str().size()) + total(std::make_integer_sequence<int, 120>());
}
