/* Programs that handle SIGSEGV and SIGBUS themselves, or do not. Each says on standard output what
 * it sees; the test compares that, and the end, with the same program alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

extern __sighandler_t bsd_signal(int, __sighandler_t);
extern __sighandler_t ssignal(int, __sighandler_t);
extern __sighandler_t __sysv_signal(int, __sighandler_t);
extern __sighandler_t sigset(int, __sighandler_t);

static void say(const char *format, ...) {
    char text[400];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    write(1, text, length);
}

static void check(int good, const char *what) {
    if (!good) {
        say("failed: %s\n", what);
        _exit(3);
    }
}

#define MUST(what) check((what), #what)

/* An address that is never mapped, and one that is. */
#define NOWHERE ((volatile int *)0x18)

static __attribute__((noinline)) void crash(void) {
    *NOWHERE = 1;
}

static sigjmp_buf back;
static volatile int calls;

static unsigned long blocked(void) {
    sigset_t set;
    sigprocmask(SIG_BLOCK, NULL, &set);
    unsigned long mask = 0;
    for (int signal = 1; signal <= 64; signal++)
        if (sigismember(&set, signal) == 1)
            mask |= 1ul << (signal - 1);
    return mask;
}

static void with_info(int signal, siginfo_t *info, void *context) {
    calls++;
    say("handler: signal %d, si_signo %d, si_code %d, si_addr %p, blocked %lx\n", signal,
        info->si_signo, info->si_code, info->si_addr, blocked());
    MUST(context != NULL);
    siglongjmp(back, 1);
}

static void without_info(int signal) {
    calls++;
    say("handler: signal %d, blocked %lx\n", signal, blocked());
    siglongjmp(back, 1);
}

static void show(const char *what, const struct sigaction *action) {
    unsigned long mask = 0;
    for (int signal = 1; signal <= 64; signal++)
        if (sigismember(&action->sa_mask, signal) == 1)
            mask |= 1ul << (signal - 1);
    const char *name = action->sa_handler == SIG_DFL                     ? "default"
                       : action->sa_handler == SIG_IGN                   ? "ignored"
                       : action->sa_sigaction == with_info               ? "with_info"
                       : action->sa_handler == without_info              ? "without_info"
                                                                         : "unknown";
    say("%s: %s, flags %x, mask %lx\n", what, name, action->sa_flags, mask);
}

static void ask(const char *what, int signal) {
    struct sigaction now;
    MUST(sigaction(signal, NULL, &now) == 0);
    show(what, &now);
}

static void install(int signal, void *handler, int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags}, old;
    sigaddset(&action.sa_mask, SIGUSR1);
    MUST(sigaction(signal, &action, &old) == 0);
    show("before", &old);
    ask("now", signal);
}

static void try(void) {
    if (sigsetjmp(back, 1) == 0)
        crash();
    else
        say("survived, blocked %lx\n", blocked());
}

static void program_info(void) {
    install(SIGSEGV, with_info, SA_SIGINFO);
    try();
    try();
    say("%d calls\n", calls);
    ask("after", SIGSEGV);
}

static void program_plain(void) {
    install(SIGSEGV, without_info, SA_RESTART);
    try();
    try();
    install(SIGSEGV, with_info, SA_SIGINFO | SA_ONSTACK);
    try();
    say("%d calls\n", calls);
}

static void program_names(void) {
    typedef __sighandler_t (*setter)(int, __sighandler_t);
    setter setters[] = {signal, bsd_signal, __sysv_signal, sigset};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++) {
            int number = (int[]){SIGSEGV, SIGBUS, SIGUSR2}[j];
            __sighandler_t before = setters[i](number, without_info);
            say("setter %d, signal %d: before %s\n", i, number,
                before == SIG_DFL        ? "default"
                : before == without_info ? "without_info"
                                         : "unknown");
            ask("now", number);
            if (number == SIGSEGV) {
                try();
            } else if (sigsetjmp(back, 1) == 0)
                raise(number);
            ask("after", number);
        }
    say("hold: %d\n", sigset(SIGSEGV, SIG_HOLD) == without_info);
    say("blocked %lx\n", blocked());
    say("again: %d\n", sigset(SIGSEGV, without_info) == SIG_HOLD);
    say("blocked %lx\n", blocked());
    errno = 0;
    say("%d", signal(SIGSEGV, SIG_ERR) == SIG_ERR);
    say(" %d\n", errno);
    errno = 0;
    say("%d", signal(SIGKILL, without_info) == SIG_ERR);
    say(" %d\n", errno);
    errno = 0;
    say("%d", sigset(99, without_info) == SIG_ERR);
    say(" %d\n", errno);
    struct sigaction action = {.sa_handler = without_info};
    errno = 0;
    say("%d", sigaction(SIGSTOP, &action, NULL));
    say(" %d\n", errno);
    errno = 0;
    say("%d", sigaction(0, &action, NULL));
    say(" %d\n", errno);
}

static void program_mask(void) {
    sigset_t outer;
    sigemptyset(&outer);
    sigaddset(&outer, SIGHUP);
    sigprocmask(SIG_BLOCK, &outer, NULL);
    install(SIGSEGV, with_info, SA_SIGINFO);
    try();
    install(SIGSEGV, with_info, SA_SIGINFO | SA_NODEFER);
    try();
    struct sigaction all = {.sa_sigaction = with_info, .sa_flags = SA_SIGINFO};
    sigfillset(&all.sa_mask);
    sigaction(SIGSEGV, &all, NULL);
    ask("all", SIGSEGV);
    try();
}

static void program_resethand(void) {
    install(SIGSEGV, with_info, SA_SIGINFO | SA_RESETHAND);
    try();
    ask("after", SIGSEGV);
    crash();
}

static void nested(int signal, siginfo_t *info, void *context) {
    say("call %d at %p, blocked %lx\n", ++calls, info->si_addr, blocked());
    if (calls < 4)
        *(volatile int *)(uintptr_t)(0x100 * calls) = 1;
    siglongjmp(back, 1);
}

static void program_nodefer(void) {
    struct sigaction action = {.sa_sigaction = nested, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, NULL);
    try();
}

static void program_fault_in_handler(void) {
    struct sigaction action = {.sa_sigaction = nested, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    try();
}

/* A write barrier: pages are read-only until they are written to. */
enum { PAGES = 64 };
static char *heap;
static size_t page;
static volatile int barriers;

static void barrier(int signal, siginfo_t *info, void *context) {
    uintptr_t address = (uintptr_t)info->si_addr;
    if (address < (uintptr_t)heap || address >= (uintptr_t)heap + PAGES * page)
        _exit(4);
    if (info->si_code != SEGV_ACCERR)
        _exit(5);
    __atomic_add_fetch(&barriers, 1, __ATOMIC_RELAXED);
    mprotect((void *)(address & -page), page, PROT_READ | PROT_WRITE);
}

static void *writer(void *which) {
    for (int round = 0; round < 20; round++) {
        for (int i = (intptr_t)which; i < PAGES; i += 4) {
            mprotect(heap + i * page, page, PROT_READ);
            free(malloc(100));
            heap[i * page + round] = i;
            errno = 77;
        }
    }
    MUST(errno == 77);
    return NULL;
}

static void program_barrier(void) {
    page = sysconf(_SC_PAGESIZE);
    heap = mmap(NULL, PAGES * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_sigaction = barrier, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    pthread_t threads[4];
    for (intptr_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, writer, (void *)i);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    say("%d barriers\n", barriers);
}

static char alternate[64 << 10] __attribute__((aligned(16)));

static void set_alternate(size_t size) {
    stack_t stack = {.ss_sp = alternate, .ss_size = size};
    MUST(sigaltstack(&stack, NULL) == 0);
}

static void where(int signal, siginfo_t *info, void *context) {
    char here;
    say("on the alternate stack: %d\n", &here >= alternate && &here < alternate + sizeof alternate);
    siglongjmp(back, 1);
}

static int use_up(int depth) {
    volatile char frame[1000];
    frame[depth % 1000] = 1;
    return use_up(depth + 1) + frame[depth % 1000];
}

static void program_onstack(void) {
    set_alternate(sizeof alternate);
    struct sigaction action = {.sa_sigaction = where, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    try();
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, NULL);
    try();
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
    for (int i = 0; i < 2; i++)
        if (sigsetjmp(back, 1) == 0)
            use_up(0);
    say("survived an overflow twice\n");
}

static void to_default(int number) {
    say("resets\n");
    signal(number, SIG_DFL);
}

static void program_resets(void) {
    signal(SIGSEGV, to_default);
    crash();
}

static void raises(int number) {
    say("raises\n");
    signal(number, SIG_DFL);
    raise(number);
    say("still here\n");
}

static void program_raises(void) {
    signal(SIGSEGV, raises);
    crash();
}

static void program_sent(void) {
    kill(getpid(), SIGSEGV);
    pause();
}

static void sent(int signal, siginfo_t *info, void *context) {
    say("code %d from %d\n", info->si_code, info->si_pid == getpid());
}

static void program_sent_handled(void) {
    struct sigaction action = {.sa_sigaction = sent, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    kill(getpid(), SIGSEGV);
    raise(SIGSEGV);
    sigqueue(getpid(), SIGSEGV, (union sigval){.sival_int = 1});
}

static void program_ignored(void) {
    signal(SIGSEGV, SIG_IGN);
    ask("ignored", SIGSEGV);
    raise(SIGSEGV);
    kill(getpid(), SIGSEGV);
    say("still here\n");
    crash();
}

static void program_inherited(void) {
    ask("at the start", SIGSEGV);
    if (getenv("AGAIN") == NULL) {
        /* Told to the kernel directly: what guard mode is told does not outlive exec. */
        struct {
            void *handler;
            unsigned long rest[7];
        } ignore = {.handler = SIG_IGN};
        setenv("AGAIN", "1", 1);
        syscall(SYS_rt_sigaction, SIGSEGV, &ignore, NULL, 8);
        execl("/proc/self/exe", "signals", "inherited", NULL);
    }
    raise(SIGSEGV);
    say("still here\n");
}

static void resumed(void) {
    say("resumed\n");
    _exit(0);
}

static void resume(int signal, siginfo_t *info, void *context) {
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
#if defined __x86_64__
    machine->gregs[REG_RIP] = (greg_t)resumed;
    machine->gregs[REG_RSP] = (machine->gregs[REG_RSP] - 256 & -16) - 8;
#elif defined __aarch64__
    machine->pc = (uintptr_t)resumed;
#else
    resumed();
#endif
}

static void program_resume(void) {
    struct sigaction action = {.sa_sigaction = resume, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    crash();
}

static void report_child(pid_t child) {
    int status;
    MUST(waitpid(child, &status, 0) == child);
    say("child: exit %d, signal %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1,
        WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void program_fork(void) {
    install(SIGSEGV, with_info, SA_SIGINFO);
    pid_t child = fork();
    if (child == 0) {
        try();
        install(SIGSEGV, without_info, 0);
        free(malloc(100));
        try();
        _exit(7);
    }
    report_child(child);
    child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        crash();
    }
    report_child(child);
    try();
    ask("after", SIGSEGV);
}

static void program_vfork(void) {
    install(SIGSEGV, with_info, SA_SIGINFO);
    pid_t child = vfork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        ask("in the child", SIGSEGV);
        _exit(7);
    }
    report_child(child);
    ask("after", SIGSEGV);
    try();
}

static void *thread_crash(void *unused) {
    free(malloc(10));
    crash();
    return NULL;
}

static void in_thread(void *(*run)(void *)) {
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, run, NULL) == 0);
    pthread_join(thread, NULL);
}

static void program_thread(void) {
    in_thread(thread_crash);
}

static void *thread_overflow(void *unused) {
    free(malloc(10));
    return (void *)(intptr_t)use_up(0);
}

static void program_thread_overflow(void) {
    in_thread(thread_overflow);
}

static void program_overflow(void) {
    use_up(0);
}

static void *tiny(void *run) {
    size_t least = sysconf(_SC_MINSIGSTKSZ);
    set_alternate(least + 4096 > 8192 ? least + 4096 : 8192);
    free(malloc(10));
    return ((void *(*)(void *))run)(NULL);
}

static void *tiny_crash(void *unused) {
    return tiny(thread_crash);
}

static void *tiny_overflow(void *unused) {
    return tiny(thread_overflow);
}

static void program_tiny(void) {
    in_thread(tiny_crash);
}

static void program_tiny_overflow(void) {
    in_thread(tiny_overflow);
}

static pthread_barrier_t start;

static void *crash_together(void *unused) {
    free(malloc(10));
    pthread_barrier_wait(&start);
    crash();
    return NULL;
}

static void program_together(void) {
    pthread_t threads[4];
    pthread_barrier_init(&start, NULL, 4);
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, crash_together, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

static void crash_on_signal(int signal) {
    crash();
}

static void program_in_handler(void) {
    struct sigaction action = {.sa_handler = crash_on_signal, .sa_flags = SA_ONSTACK};
    set_alternate(sizeof alternate);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}

static void read_beyond_the_file(void) {
    FILE *file = tmpfile();
    volatile char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fileno(file), 0);
    MUST(map != MAP_FAILED);
    say("%d\n", map[0]);
}

static void bus_handler(int signal, siginfo_t *info, void *context) {
    say("signal %d, code %d\n", signal, info->si_code);
    siglongjmp(back, 1);
}

static void program_bus_handled(void) {
    struct sigaction action = {.sa_sigaction = bus_handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    if (sigsetjmp(back, 1) == 0)
        read_beyond_the_file();
    ask("segv", SIGSEGV);
}

static void program_bus(void) {
    read_beyond_the_file();
}

static void program_codes(void) {
    install(SIGSEGV, with_info, SA_SIGINFO);
    char *map = mmap((void *)0x10000000, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile char *kinds[] = {map + 5, map - 0x1000, (char *)0x8};
    for (int i = 0; i < 3; i++)
        if (sigsetjmp(back, 1) == 0)
            *kinds[i] = 1;
#if defined __x86_64__
    if (sigsetjmp(back, 1) == 0)
        *(volatile char *)0xdead000000000000 = 1;
#endif
    if (sigsetjmp(back, 1) == 0)
        ((void (*)(void))(map + 16))();
}

/* The handler of a program calls the one that was there before. */
static struct sigaction earlier;

static void first(int signal, siginfo_t *info, void *context) {
    say("first, at %p\n", info->si_addr);
    siglongjmp(back, 1);
}

static void second(int signal, siginfo_t *info, void *context) {
    say("second, at %p\n", info->si_addr);
    earlier.sa_sigaction(signal, info, context);
}

static void program_chain(void) {
    struct sigaction action = {.sa_sigaction = first, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    action.sa_sigaction = second;
    sigaction(SIGSEGV, &action, &earlier);
    MUST(earlier.sa_sigaction == first);
    try();
    try();
    sigaction(SIGSEGV, &earlier, &action);
    MUST(action.sa_sigaction == second);
    try();
}

/* A handler that nobody but the kernel was told of. The kernel wants the address to return to,
 * which is the C library's, of a handler that it knows. */
struct raw {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static void raw_first(int signal, siginfo_t *info, void *context) {
    say("raw, at %p, blocked %lx\n", info->si_addr, blocked());
    siglongjmp(back, 1);
}

static struct raw raw_before;

static void raw_passes_on(int signal, siginfo_t *info, void *context) {
    say("raw, passes on\n");
    ((void (*)(int, siginfo_t *, void *))raw_before.handler)(signal, info, context);
}

static void raw_puts_back(int signal, siginfo_t *info, void *context) {
    say("raw, puts back\n");
    syscall(SYS_rt_sigaction, SIGSEGV, &raw_before, NULL, 8);
}

static void raw_install(void *handler) {
    struct raw action;
    signal(SIGUSR2, without_info);
    MUST(syscall(SYS_rt_sigaction, SIGUSR2, NULL, &action, 8) == 0);
    action.handler = handler;
    action.flags = action.flags & ~SA_RESTART | SA_SIGINFO;
    action.mask = 1ul << (SIGUSR1 - 1);
    MUST(syscall(SYS_rt_sigaction, SIGSEGV, &action, &raw_before, 8) == 0);
}

/* So many calls of malloc that guard mode looks after its handler. */
static void wait_for_a_look(void) {
    for (int i = 0; i < 300; i++)
        free(malloc(1));
}

static void program_raw(void) {
    raw_install(raw_first);
    try();
    wait_for_a_look();
    try();
    try();
}

static void program_raw_passes_on(void) {
    install(SIGSEGV, with_info, SA_SIGINFO);
    raw_install(raw_passes_on);
    try();
    wait_for_a_look();
    try();
    try();
}

static void program_raw_puts_back_late(void) {
    raw_install(raw_puts_back);
    wait_for_a_look();
    crash();
}

static void program_raw_puts_back(void) {
    raw_install(raw_puts_back);
    crash();
}

static void program_raw_resets(void) {
    raw_install(raw_first);
    wait_for_a_look();
    try();
    syscall(SYS_rt_sigaction, SIGSEGV, &raw_before, NULL, 8);
    crash();
}

static void program_blocked(void) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    crash();
}

static int many(volatile int *calls, int depth) {
    free(malloc(16));
    if (depth == 0) {
        crash();
        return 0;
    }
    return many(calls, depth - 1) + *calls;
}

static void program_deep(void) {
    many(&calls, 20);
}

static void program_core(void) {
    struct rlimit limit = {0};
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
    say("limit %d\n", limit.rlim_cur != 0);
    crash();
}

/* Not compared with the program alone: which alternate stacks threads are given. */
static void *stacks[64];

static void *has_stack(void *where) {
    free(malloc(10));
    stack_t stack;
    MUST(sigaltstack(NULL, &stack) == 0);
    MUST((stack.ss_flags & SS_DISABLE) == 0);
    MUST(stack.ss_size >= 32 << 10);
    memset(stack.ss_sp, 1, stack.ss_size);
    *(void **)where = stack.ss_sp;
    return NULL;
}

static void *keeps_its_own(void *unused) {
    static char own[16 << 10];
    stack_t stack = {.ss_sp = own, .ss_size = sizeof own}, now;
    MUST(sigaltstack(&stack, NULL) == 0);
    free(malloc(10));
    MUST(sigaltstack(NULL, &now) == 0);
    MUST(now.ss_sp == own && now.ss_size == sizeof own);
    return NULL;
}

static void program_stacks(void) {
    int different = 0;
    for (int i = 0; i < 64; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, has_stack, &stacks[i]);
        pthread_join(thread, NULL);
        int seen = 0;
        for (int j = 0; j < i; j++)
            seen |= stacks[j] == stacks[i];
        different += !seen;
    }
    say("%d different\n", different);
    in_thread(keeps_its_own);
}

#define PROGRAM(name) {#name, program_##name}

static const struct {
    const char *name;
    void (*run)(void);
} programs[] = {
    PROGRAM(info),
    PROGRAM(plain),
    PROGRAM(names),
    PROGRAM(mask),
    PROGRAM(resethand),
    PROGRAM(nodefer),
    PROGRAM(fault_in_handler),
    PROGRAM(barrier),
    PROGRAM(onstack),
    PROGRAM(resets),
    PROGRAM(raises),
    PROGRAM(sent),
    PROGRAM(sent_handled),
    PROGRAM(ignored),
    PROGRAM(inherited),
    PROGRAM(resume),
    PROGRAM(fork),
    PROGRAM(vfork),
    PROGRAM(thread),
    PROGRAM(thread_overflow),
    PROGRAM(overflow),
    PROGRAM(tiny),
    PROGRAM(tiny_overflow),
    PROGRAM(together),
    PROGRAM(in_handler),
    PROGRAM(bus_handled),
    PROGRAM(bus),
    PROGRAM(codes),
    PROGRAM(chain),
    PROGRAM(raw),
    PROGRAM(raw_passes_on),
    PROGRAM(raw_puts_back_late),
    PROGRAM(raw_puts_back),
    PROGRAM(raw_resets),
    PROGRAM(blocked),
    PROGRAM(deep),
    PROGRAM(core),
    PROGRAM(stacks),
};

int main(int count, char **arguments) {
    /* Only one of them wants a core. */
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    limit.rlim_cur = 0;
    setrlimit(RLIMIT_CORE, &limit);
    /* A block of the pool, so that guard mode is at work. */
    void *block = malloc(10);
    for (unsigned i = 0; i < sizeof programs / sizeof *programs; i++)
        if (strcmp(arguments[1], programs[i].name) == 0) {
            programs[i].run();
            free(block);
            return 0;
        }
    return 99;
}
