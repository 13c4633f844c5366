/* Writes where it must not, then goes on allocating and freeing.
 * usage: writes CRIME */
#include "tell.h"

/* Two chunks of `size`, the second right behind the first. */
static void neighbours(size_t size, char **a, char **b)
{
    char *seen[512];
    for (int i = 0; i < 512; i++) {
        seen[i] = fresh(size);
        for (int j = 0; j < i; j++)
            for (int k = 0; k < 2; k++) {
                *a = seen[k ? i : j], *b = seen[k ? j : i];
                if (*a + usable + 8 == *b)
                    return;
            }
    }
    _exit(98);
}

static void overflow(size_t size, int bytes, int value, int first)
{
    char *a, *b;
    neighbours(size, &a, &b);
    tell(b);
    memset(a + usable, value, bytes);
    free(first ? a : b);
    free(first ? b : a);
}

static void overflow1(void) { overflow(40, 1, 'A', 0); }
static void overflow1_nul(void) { overflow(40, 1, 0, 0); }
static void overflow8(void) { overflow(40, 8, 'A', 0); }
static void overflow16(void) { overflow(40, 16, 'A', 0); }
static void overflow8_medium(void) { overflow(900, 8, 'A', 0); }
static void overflow8_large(void) { overflow(20000, 8, 'A', 0); }
static void overflow16_large(void) { overflow(20000, 16, 0, 0); }
static void overflow8_then_own(void) { overflow(40, 8, 'A', 1); }
static void overflow16_then_own(void) { overflow(900, 16, 'A', 1); }
static void overflow8_large_then_own(void) { overflow(20000, 8, 'A', 1); }

/* The victim's head says what another malloc would write there. */
static void overflow_forged(void)
{
    char *a, *b;
    neighbours(40, &a, &b);
    tell(b);
    *(size_t *)(b - 8) = 0x61;
    free(b);
}

static void overflow_realloc(void)
{
    char *a, *b;
    neighbours(40, &a, &b);
    tell(b);
    memset(a + usable, 'A', 8);
    realloc(b, 4000);
}

static void overflow_usable(void)
{
    char *a, *b;
    neighbours(40, &a, &b);
    tell(b);
    memset(a + usable, 'A', 8);
    malloc_usable_size(b);
}

/* A neighbour's head, copied: right but for the address. */
static void head_copied(void)
{
    char *a, *b;
    neighbours(40, &a, &b);
    tell(b);
    memcpy(b - 8, a - 8, 8);
    free(b);
}

/* One bit of each byte of the head in turn; byte 0 holds PREV_INUSE, which a
 * neighbour may change at any time, so its highest bit is the one flipped. */
static void head_bit(int byte)
{
    unsigned char *p = fresh(40);
    tell(p);
    p[-8 + byte] ^= 0x80;
    free(p);
}
static void head_bit0(void) { head_bit(0); }
static void head_bit1(void) { head_bit(1); }
static void head_bit2(void) { head_bit(2); }
static void head_bit3(void) { head_bit(3); }
static void head_bit4(void) { head_bit(4); }
static void head_bit5(void) { head_bit(5); }
static void head_bit6(void) { head_bit(6); }
static void head_bit7(void) { head_bit(7); }

static void underflow(size_t size, int bytes, int value)
{
    char *p = fresh(size);
    tell(p);
    /* The tag is random: one byte of it may be just that. */
    if (bytes == 1 && p[-1] == value)
        value++;
    memset(p - bytes, value, bytes);
    free(p);
}
static void underflow1(void) { underflow(40, 1, 'A'); }
static void underflow8(void) { underflow(40, 8, 'A'); }
static void underflow8_zero(void) { underflow(40, 8, 0); }
static void underflow8_large(void) { underflow(20000, 8, 'A'); }
static void underflow8_mapped(void) { underflow(400000, 8, 'A'); }
static void underflow8_mapped_zero(void) { underflow(400000, 8, 0); }

/* The link in a free chunk, then as many allocations as find it. */
static void write_after_free(size_t size, int word, size_t value, int among)
{
    size_t *p[256];
    for (int i = 0; i < 256; i++)
        p[i] = fresh(size);
    /* Every other one, so that free chunks cannot join. */
    for (int i = 0; i < 256; i += 2)
        free(p[i]);
    tell(p[among]);
    p[among][word] = value;
    for (int round = 0; round < 4; round++) {
        void *again[400];
        for (int i = 0; i < 400; i++)
            again[i] = fresh(size);
        for (int i = 0; i < 400; i++)
            free(again[i]);
        free(malloc(100000));
    }
}

static void uaf_last(void) { write_after_free(40, 0, 0x4141414141414141, 254); }
static void uaf_middle(void) { write_after_free(40, 0, 0x4141414141414141, 128); }
static void uaf_first(void) { write_after_free(40, 0, 0x4141414141414141, 0); }
static void uaf_heap_pointer(void) { write_after_free(40, 0, (size_t)malloc(40), 254); }
static void uaf_stack_pointer(void) { write_after_free(40, 0, (size_t)&usable & ~15ul, 254); }
static void uaf_medium_fd(void) { write_after_free(900, 0, 0x4141414141414141, 128); }
static void uaf_medium_bk(void) { write_after_free(900, 1, 0x4141414141414141, 128); }
static void uaf_large_fd(void) { write_after_free(70000, 0, 0x4141414141414141, 128); }
static void uaf_large_bk(void) { write_after_free(70000, 1, 0x4141414141414141, 128); }

/* nextsize links: chunks of different sizes in one large bin, too large for the depot. */
static size_t of_one_bin(int i) { return 270000 + 8192 * (size_t)i; }
static void uaf_nextsize(int word)
{
    size_t *p[28];
    mallopt(M_MMAP_THRESHOLD, 16 << 20);
    for (int i = 0; i < 28; i++) {
        p[i] = fresh(of_one_bin(i));
        malloc(100000 + i);
    }
    for (int i = 0; i < 28; i += 2)
        free(p[i]);
    free(malloc(1000000));
    tell(p[20]);
    p[20][word] = 0x4141414141414141;
    for (int i = 0; i < 28; i++)
        malloc(of_one_bin(27 - i));
    for (int i = 1; i < 28; i += 2)
        free(p[i]);
    for (int i = 0; i < 28; i++)
        malloc(of_one_bin(i));
}
static void uaf_fd_nextsize(void) { uaf_nextsize(2); }
static void uaf_bk_nextsize(void) { uaf_nextsize(3); }

/* The head of a chunk that is free. */
static void freed_head(size_t size)
{
    size_t *p = fresh(size), *q = fresh(size), *r = fresh(size);
    free(q);
    tell(q);
    q[-1] = 0x4141414141414141;
    for (int i = 0; i < 64; i++)
        malloc(size);
    free(p);
    free(r);
}
static void freed_head_small(void) { freed_head(40); }
static void freed_head_large(void) { freed_head(70000); }

/* prev_size of the chunk behind a free one: where the free chunk ends. */
static void prev_size(void)
{
    char *a, *b;
    neighbours(70000, &a, &b);
    free(a);
    tell(b);
    *(size_t *)(b - 16) = 0x20;
    free(b);
    malloc(120000);
}

/* The head of top, behind the highest chunk. */
static void top_head(void)
{
    char *p = 0;
    for (int i = 0; i < 3; i++) {
        char *q = fresh(70000);
        p = q > p ? q : p;
    }
    tell(p + usable + 8);
    *(size_t *)(p + usable) = ~0ul;
    for (int i = 0; i < 100; i++)
        malloc(70000);
}

static const struct {
    const char *name;
    void (*commit)(void);
} crimes[] = {
#define CRIME(f) {#f, f}
    CRIME(overflow1), CRIME(overflow1_nul), CRIME(overflow8), CRIME(overflow16),
    CRIME(overflow8_medium), CRIME(overflow8_large), CRIME(overflow16_large),
    CRIME(overflow8_then_own), CRIME(overflow16_then_own), CRIME(overflow8_large_then_own),
    CRIME(overflow_forged), CRIME(overflow_realloc), CRIME(overflow_usable), CRIME(head_copied),
    CRIME(head_bit0), CRIME(head_bit1), CRIME(head_bit2), CRIME(head_bit3),
    CRIME(head_bit4), CRIME(head_bit5), CRIME(head_bit6), CRIME(head_bit7),
    CRIME(underflow1), CRIME(underflow8), CRIME(underflow8_zero), CRIME(underflow8_large),
    CRIME(underflow8_mapped), CRIME(underflow8_mapped_zero),
    CRIME(uaf_last), CRIME(uaf_middle), CRIME(uaf_first), CRIME(uaf_heap_pointer),
    CRIME(uaf_stack_pointer), CRIME(uaf_medium_fd), CRIME(uaf_medium_bk), CRIME(uaf_large_fd),
    CRIME(uaf_large_bk), CRIME(uaf_fd_nextsize), CRIME(uaf_bk_nextsize),
    CRIME(freed_head_small), CRIME(freed_head_large), CRIME(prev_size), CRIME(top_head),
};

int main(int argc, char **argv)
{
    if (argc != 2)
        return 94;
    no_core();
    for (size_t i = 0; i < sizeof crimes / sizeof *crimes; i++)
        if (!strcmp(crimes[i].name, argv[1])) {
            crimes[i].commit();
            survived();
        }
    return 97;
}
