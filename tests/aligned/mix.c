/* Replaces blocks of all alignments from 16 to 8192 bytes at random, checks each, and prints the
 * bytes in use at the end and the most that the heap had from the system. */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { SLOTS = 4096, STEPS = 400000 };

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static struct slot {
    unsigned char *block;
    size_t size;
    unsigned char tag;
} slots[SLOTS];

static int check(const struct slot *s) {
    return s->block[0] == s->tag && s->block[s->size - 1] == s->tag;
}

int main(void) {
    size_t live = 0, most = 0;
    for (int step = 0; step < STEPS; step++) {
        struct slot *s = &slots[next() % SLOTS];
        if (s->block) {
            if (!check(s)) {
                puts("a block was overwritten");
                return 1;
            }
            live -= s->size;
            free(s->block);
        }
        size_t align = (size_t)16 << next() % 9;
        /* One in 64 is aligned beyond what is told apart. */
        if (next() % 64 == 0)
            align = 8192;
        size_t low = (size_t)16 << next() % 7;
        size_t size = low + next() % low;
        /* Some come from malloc: what is set aside serves them too. */
        if (next() % 4 == 0)
            align = 16;
        s->block = align == 16 ? malloc(size) : memalign(align, size);
        s->size = size;
        s->tag = (unsigned char)next();
        if (!s->block) {
            puts("no memory");
            return 1;
        }
        if ((uintptr_t)s->block % align != 0) {
            puts("a block is not aligned");
            return 1;
        }
        s->block[0] = s->block[size - 1] = s->tag;
        live += size;
        if (step % 1024 == 0) {
            size_t now = mallinfo2().arena;
            most = now > most ? now : most;
        }
    }
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].block && !check(&slots[i])) {
            puts("a block was overwritten");
            return 1;
        }
    printf("%zu %zu\n", live, most);
    return 0;
}
