/* The app that the tests confine: a static program that does what its first argument says. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <dirent.h>

static void list(const char *path) {
    DIR *dir = opendir(path);
    printf("list %s:", path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.') printf(" %s", e->d_name);
    printf("\n");
}

static void try(const char *what, long result) {
    printf("try %s: %s\n", what, result < 0 ? strerror(errno) : "POSSIBLE");
}

static void probe(void) {
    char text[4096] = "";
    struct stat in;
    printf("stdin %s\n", !fstat(0, &in) && S_ISCHR(in.st_mode) && in.st_rdev == 0x103 ? "null" : "WRONG");
    printf("first free %d\n", dup(1));
    printf("pid %d uid %d\n", getpid(), getuid());
    gethostname(text, sizeof text);
    printf("host %s ", text);
    printf("cwd %s\n", getcwd(text, sizeof text));
    printf("own");
    static const char *kinds[] = {"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"};
    for (int i = 0; i < 7; i++) {
        char path[64], link[64] = "";
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        if (readlink(path, link, sizeof link - 1) < 0) strcpy(link, "UNREADABLE");
        printf(" %s", link);
    }
    printf("\n");
    list("/tmp");
    list("/"); list("/app"); list("/dev"); list("/proc/self/fd"); list("/run/verge");
    try("write-root", open("/x", O_CREAT | O_WRONLY, 0644));
    try("write-app", open("/app/x", O_CREAT | O_WRONLY, 0644));
    try("core_pattern", open("/proc/sys/kernel/core_pattern", O_WRONLY));
    try("kcore", open("/proc/kcore", O_RDONLY) >= 0 && read(open("/proc/kcore", O_RDONLY), text, 8) > 0 ? 0 : (errno = EPERM, -1));
    try("unshare", unshare(CLONE_NEWUSER));
    try("mount", mount("none", "/tmp", "tmpfs", 0, 0));
    try("umount", umount2("/proc", MNT_DETACH));
    try("chroot", chroot("/tmp"));
    try("bpf", syscall(SYS_bpf, 0, 0, 0));
    try("io_uring", syscall(SYS_io_uring_setup, 1, text));
    try("userfaultfd", syscall(SYS_userfaultfd, 0));
    try("ptrace", syscall(SYS_ptrace, 0, 0, 0, 0));
    try("keyctl", syscall(SYS_keyctl, 0, 0, 0));
    try("setns", syscall(SYS_setns, 0, 0));
    try("clone3", syscall(SYS_clone3, text, 64));
    try("packet", socket(AF_PACKET, SOCK_RAW, 0));
    try("netlink", socket(AF_NETLINK, SOCK_RAW, 0));
    try("init-exe", open("/proc/1/exe", O_RDONLY));
    try("init-root", open("/proc/1/root", O_RDONLY));
    try("init-mem", open("/proc/1/mem", O_RDWR));
    try("mknod", mknod("/tmp/dev", S_IFBLK | 0600, 0x800));
    try("kill-outside", kill(2, 0) == 0 && getpid() != 2 ? 0 : (errno = ESRCH, -1));
    printf("tmp %s\n", open("/tmp/x", O_CREAT | O_WRONLY, 0644) >= 0 ? "writable" : strerror(errno));
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(text, sizeof text, status))
        if (!strncmp(text, "Cap", 3) || !strncmp(text, "Seccomp:", 8) || !strncmp(text, "NoNewPrivs", 10)) printf("status %s", text);
    FILE *cgroup = fopen("/proc/self/cgroup", "r");
    while (cgroup && fgets(text, sizeof text, cgroup)) printf("cgroup %s", text);
    printf("done\n");
}

static void on_term(int signal) { (void)signal; printf("term\n"); fflush(stdout); _exit(42); }

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "exit";
    setvbuf(stdout, 0, _IOLBF, 0);
    if (!strcmp(what, "exit")) return argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(what, "probe")) { probe(); return 0; }
    if (!strcmp(what, "probe-and-stay")) { probe(); for (;;) pause(); }
    if (!strcmp(what, "hidden")) {
        struct statvfs tmp;
        printf("tmp %s\n", open("/tmp/x", O_CREAT | O_WRONLY, 0644) >= 0 ? "writable" : strerror(errno));
        statvfs("/tmp", &tmp);
        printf("tmp size %lu\n", (unsigned long)(tmp.f_blocks * tmp.f_frsize));
        list("/proc/acpi");
        try("write-proc-dir", open("/proc/acpi/x", O_CREAT | O_WRONLY, 0644));
        for (int i = 2; i < argc; i++) {
            char text[64];
            int file = open(argv[i], O_RDONLY);
            printf("hidden %s: %s\n", argv[i], file < 0 || read(file, text, sizeof text) <= 0 ? "nothing" : "CONTENT");
        }
        printf("done\n");
        return 0;
    }
    if (!strcmp(what, "reach")) {
        /* Whatever these paths are, they are not ours. */
        for (int i = 2; i < argc; i++) {
            int file = open(argv[i], O_CREAT | O_WRONLY | O_APPEND, 0666);
            if (file >= 0) write(file, "touched", 7);
            chmod(argv[i], 0777); chown(argv[i], 0, 0); truncate(argv[i], 0);
            rename(argv[i], "/tmp/taken"); unlink(argv[i]); mkdir(argv[i], 0777); symlink("/", argv[i]);
        }
        mknod("/tmp/mem", S_IFCHR | 0666, 0x101); mknod("/dev/disk", S_IFBLK | 0666, 0x800);
        open("/dev/mem", O_RDWR); open("/dev/kmsg", O_RDWR); open("/tmp/mem", O_RDWR); open("/dev/disk", O_RDWR);
        for (;;) pause();
    }
    if (!strcmp(what, "term")) { signal(SIGTERM, on_term); printf("ready\n"); for (;;) pause(); }
    if (!strcmp(what, "deaf")) { signal(SIGTERM, SIG_IGN); printf("ready\n"); for (;;) pause(); }
    if (!strcmp(what, "spin")) { printf("ready\n"); for (;;) ; }
    if (!strcmp(what, "tick")) { for (int i = 0;; i++) { printf("tick %d\n", i); usleep(10000); } }
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "eat")) for (;;) { char *p = malloc(1 << 20); if (!p) { printf("refused\n"); return 7; } memset(p, 1, 1 << 20); }
    if (!strcmp(what, "fork")) {
        int made = 0;
        while (made < 10000) { pid_t pid = fork(); if (pid == 0) { for (;;) pause(); } if (pid < 0) break; made++; }
        printf("forked %d: %s\n", made, strerror(errno));
        for (;;) pause();
    }
    return 9;
}
