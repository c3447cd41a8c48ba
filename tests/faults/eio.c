/* For LD_PRELOAD: while the file $EIO_FLAG exists, writes below $EIO_UNDER fail as those of a dying disk do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int broken(int descriptor) {
    const char *flag = getenv("EIO_FLAG"), *under = getenv("EIO_UNDER");
    int before = errno;
    char link[64], path[PATH_MAX];
    if (flag == NULL || under == NULL || access(flag, F_OK) != 0) {
        errno = before;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = before;
    if (size < 0) return 0;
    path[size] = 0;
    if (strncmp(path, under, strlen(under)) != 0) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);

ssize_t write(int fd, const void *data, size_t size) { REAL(write) return broken(fd) ? -1 : real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev) return broken(fd) ? -1 : real(fd, v, n); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite) return broken(fd) ? -1 : real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64) return broken(fd) ? -1 : real(fd, data, size, at);
}
int fsync(int fd) { REAL(fsync) return broken(fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync) return broken(fd) ? -1 : real(fd); }
