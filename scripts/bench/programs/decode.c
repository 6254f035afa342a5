/* The loop around the C that cantools generates, for the row can.decode: decode FRAMES.
 * bench.h is generated; cases.inc sums all decoded signals of each message. For each number of passes on standard
 * input it prints frames, nanoseconds and the sum of all values of one pass. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"

struct frame { uint32_t id; uint8_t length, pad[3], data[8]; };

static double decode(const struct frame *frame, double sum) {
    const uint8_t *data = frame->data;
    size_t length = frame->length;
    switch (frame->id) {
#include "cases.inc"
    default: break;
    }
    return sum;
}

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

int main(int count, char **words) {
    FILE *file = count == 2 ? fopen(words[1], "rb") : NULL;
    if (file == NULL) return 2;
    fseek(file, 0, SEEK_END);
    size_t frames = (size_t)ftell(file) / sizeof(struct frame);
    rewind(file);
    struct frame *all = malloc(frames * sizeof *all);
    if (all == NULL || fread(all, sizeof *all, frames, file) != frames) return 1;
    long passes;
    while (scanf("%ld", &passes) == 1) {
        double sum = 0;
        long long began = now_ns();
        for (long pass = 0; pass < passes; pass++) {
            sum = 0;
            for (size_t at = 0; at < frames; at++) sum = decode(&all[at], sum);
            __asm__ volatile("" : : "r"(all) : "memory");
        }
        printf("%zu %lld %.17g\n", frames * (size_t)passes, now_ns() - began, sum);
        fflush(stdout);
    }
    return 0;
}
