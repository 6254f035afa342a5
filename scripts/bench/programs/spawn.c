/* Starts a command again and again and reads the stamp that it (or what it starts) prints first.
 *
 *   spawn IDLE_MS COUNT COMMAND ARGUMENT...
 *
 * One line per run: nanoseconds from just before the spawn to the stamp, and to the command's end.
 * With the stamp program itself as the command this is the floor: vfork and exec, no confinement. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { WARM_UP = 5 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

static void fail(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(1);
}

static long long read_stamp(int from) {
    char text[512];
    size_t length = 0;
    ssize_t got;
    while (length < sizeof text - 1 && (got = read(from, text + length, sizeof text - 1 - length)) != 0) {
        if (got < 0) fail("read", errno);
        length += (size_t)got;
    }
    text[length] = 0;
    long long stamp = atoll(text);
    if (stamp <= 0) {
        fprintf(stderr, "no stamp but: %s\n", text);
        exit(1);
    }
    return stamp;
}

static void run(char **command, int print) {
    int ends[2], error, status;
    if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe", errno);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    pid_t child;
    long long began = now_ns();
    if ((error = posix_spawnp(&child, command[0], &actions, NULL, command, environ)) != 0) fail(command[0], error);
    close(ends[1]);
    long long stamp = read_stamp(ends[0]);
    close(ends[0]);
    if (waitpid(child, &status, 0) != child) fail("wait", errno);
    long long ended = now_ns();
    posix_spawn_file_actions_destroy(&actions);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "%s ended with status %d\n", command[0], status);
        exit(1);
    }
    if (print) printf("%lld %lld\n", stamp - began, ended - began);
}

int main(int count, char **words) {
    if (count < 4) {
        fprintf(stderr, "usage: spawn IDLE_MS COUNT COMMAND ARGUMENT...\n");
        return 2;
    }
    long idle = atol(words[1]), runs = atol(words[2]);
    struct timespec pause = {idle / 1000, idle % 1000 * 1000000};
    for (long number = -WARM_UP; number < runs; number++) {
        if (idle > 0) nanosleep(&pause, NULL);
        run(words + 3, number >= 0);
    }
    return 0;
}
