/* A file system and a clock that fail at a chosen call, preloaded over the C library (LD_PRELOAD).

   layer_arm(folder, mode, n, code) starts counting the calls that change something under `folder`:
   open with O_CREAT or O_TMPFILE, write, fsync, ftruncate, fallocate, rename, link, unlink, mkdir.
   At the n-th, counted from 1, it does what the mode says:

     FAIL    the call returns `code` as its error; the next ones work
     FULL    it and every later one fail, except unlink, as on a full disk
     KILL    SIGKILL before it
     HALF    SIGKILL after half of it, if it is a write; else after it
     POWER   as HALF, and what was written since its file's last fsync is lost

   layer_calls() returns how many were counted. With XPNET_LAYER_CLOCK set, the time of day goes
   back an hour each time it is read. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OFF, FAIL, FULL, KILL, HALF, POWER };
enum { OTHER, UNLINK, WRITE };

static char folder[PATH_MAX];
static int mode = OFF, at, code, calls;

static struct { int fd; dev_t dev; ino_t ino; off_t size; } dirty[256];
static int n_dirty;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int inside(const char *path) {
  char full[PATH_MAX];
  if (mode == OFF || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(full, sizeof full / 2)) return 0;
    strcat(full, "/");
    strncat(full, path, sizeof full / 2 - 2);
    path = full;
  }
  return strncmp(path, folder, strlen(folder)) == 0;
}

static int inside_fd(int fd) {
  char link[64], path[PATH_MAX];
  if (mode == OFF) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return inside(path);
}

static void die(void) {
  if (mode == POWER) {
    mode = OFF;
    for (int i = 0; i < n_dirty; i++)
      if (ftruncate(dirty[i].fd, dirty[i].size)) abort();
  }
  raise(SIGKILL);
}

/* Count a call; return whether it must fail. */
static int fails(int kind) {
  calls++;
  if (calls == at && mode == KILL) die();
  if ((calls == at && mode == FAIL) || (calls >= at && mode == FULL && kind != UNLINK)) {
    errno = code;
    return 1;
  }
  return 0;
}

static void done(void) {
  if (calls == at && (mode == HALF || mode == POWER)) die();
}

static void note_write(int fd) {
  struct stat s;
  if (fstat(fd, &s) || !S_ISREG(s.st_mode)) return;
  for (int i = 0; i < n_dirty; i++)
    if (dirty[i].dev == s.st_dev && dirty[i].ino == s.st_ino) return;
  if (n_dirty == 256) abort();
  dirty[n_dirty].fd = dup(fd);
  dirty[n_dirty].dev = s.st_dev;
  dirty[n_dirty].ino = s.st_ino;
  dirty[n_dirty++].size = s.st_size;
}

static void note_sync(int fd) {
  struct stat s;
  if (fstat(fd, &s)) return;
  for (int i = 0; i < n_dirty; i++)
    if (dirty[i].dev == s.st_dev && dirty[i].ino == s.st_ino) {
      close(dirty[i].fd);
      dirty[i] = dirty[--n_dirty];
      return;
    }
}

void layer_arm(const char *where, int what, int n, int error) {
  snprintf(folder, sizeof folder, "%s", where);
  at = n, code = error, calls = 0, n_dirty = 0, mode = what;
}

int layer_calls(void) { return calls; }

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  if (!inside_fd(fd)) return real(fd, data, size);
  if (fails(WRITE)) return -1;
  if (mode == POWER) note_write(fd);
  if (calls == at && (mode == HALF || mode == POWER)) size /= 2;
  ssize_t n = real(fd, data, size);
  done();
  return n;
}

int fsync(int fd) {
  REAL(fsync);
  if (!inside_fd(fd)) return real(fd);
  if (fails(OTHER)) return -1;
  int result = real(fd);
  if (mode == POWER) note_sync(fd);
  done();
  return result;
}

#define FD_CALL(name, type)                   \
  int name(int fd, type size) {               \
    REAL(name);                               \
    if (!inside_fd(fd)) return real(fd, size); \
    if (fails(OTHER)) return -1;              \
    int result = real(fd, size);              \
    done();                                   \
    return result;                            \
  }
FD_CALL(ftruncate, off_t)
FD_CALL(ftruncate64, off64_t)

#define ALLOCATE(name, type)                              \
  int name(int fd, type from, type size) {                \
    REAL(name);                                           \
    if (!inside_fd(fd)) return real(fd, from, size);      \
    if (fails(OTHER)) return code;                        \
    int result = real(fd, from, size);                    \
    done();                                               \
    return result;                                        \
  }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

#define OPEN(name)                                                            \
  int name(const char *path, int flags, ...) {                                \
    REAL(name);                                                               \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    int makes = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;          \
    mode_t bits = makes ? va_arg(rest, mode_t) : 0;                           \
    va_end(rest);                                                             \
    if (!makes || !inside(path)) return real(path, flags, bits);              \
    if (fails(OTHER)) return -1;                                              \
    int fd = real(path, flags, bits);                                         \
    done();                                                                   \
    return fd;                                                                \
  }
OPEN(open)
OPEN(open64)

#define TWO_PATHS(name)                                     \
  int name(const char *from, const char *to) {              \
    REAL(name);                                             \
    if (!inside(to)) return real(from, to);                 \
    if (fails(OTHER)) return -1;                            \
    int result = real(from, to);                            \
    done();                                                 \
    return result;                                          \
  }
TWO_PATHS(rename)
TWO_PATHS(link)

int unlink(const char *path) {
  REAL(unlink);
  if (!inside(path)) return real(path);
  if (fails(UNLINK)) return -1;
  int result = real(path);
  done();
  return result;
}

int mkdir(const char *path, mode_t bits) {
  REAL(mkdir);
  if (!inside(path)) return real(path, bits);
  if (fails(OTHER)) return -1;
  int result = real(path, bits);
  done();
  return result;
}

int clock_gettime(clockid_t which, struct timespec *time) {
  static long back;
  REAL(clock_gettime);
  int result = real(which, time);
  if (which == CLOCK_REALTIME && getenv("XPNET_LAYER_CLOCK")) time->tv_sec -= back += 3600;
  return result;
}
