/* A disk that errs on request: calls on files whose path begins with `part` fail with `error`, `times` times, once
 * `after` of them have gone by. An `error` below zero is a signal: the process is gone before the call. The plan lies in a
 * file that both sides map, so that one process lives through many.
 *
 * cc -shared -fPIC -O1 -o faults.so faults.c -ldl ; LD_PRELOAD=faults.so FAULTS=/plan PROGRAM
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, OPEN = 4 };

/* As in test_t04_full_disk.py. */
struct plan { int32_t calls, after, times, error, hits; char part[492]; };

static struct plan *volatile plan;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void)
{
	const char *file = getenv("FAULTS");
	int fd = file ? (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC) : -1;
	void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	plan = mapped == MAP_FAILED ? NULL : mapped;
}

static int errs(const char *path)
{
	int err = 0;
	if (strncmp(path, plan->part, strlen(plan->part)))
		return 0;
	pthread_mutex_lock(&lock);
	if (plan->after > 0)
		plan->after--;
	else if (plan->times > 0) {
		plan->times--;
		plan->hits++;
		if (plan->error < 0)
			kill(getpid(), -plan->error);
		err = errno = plan->error;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

static int on(int call, int fd)
{
	char link[64], path[4096];
	ssize_t length;

	if (!plan || !(plan->calls & call))
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof path - 1);
	path[length < 0 ? 0 : length] = 0;
	return errs(path);
}

ssize_t write(int fd, const void *bytes, size_t size) { return on(WRITE, fd) ? -1 : REAL(write)(fd, bytes, size); }
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) { return on(WRITE, fd) ? -1 : REAL(pwrite)(fd, bytes, size, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) { return on(WRITE, fd) ? -1 : REAL(pwrite64)(fd, bytes, size, at); }
int ftruncate(int fd, off_t size) { return on(WRITE, fd) ? -1 : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return on(WRITE, fd) ? -1 : REAL(ftruncate64)(fd, size); }
int posix_fallocate(int fd, off_t at, off_t size) { return on(WRITE, fd) ? errno : REAL(posix_fallocate)(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { return on(WRITE, fd) ? errno : REAL(posix_fallocate64)(fd, at, size); }
int fsync(int fd) { return on(SYNC, fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return on(SYNC, fd) ? -1 : REAL(fdatasync)(fd); }

static int refused(const char *path, int flags)
{
	int changes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
	return changes && plan && plan->calls & OPEN && errs(path);
}

#define OPENS(name)                                                                             \
	int name(const char *path, int flags, ...)                                              \
	{                                                                                       \
		va_list rest;                                                                   \
		va_start(rest, flags);                                                          \
		mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                       \
		va_end(rest);                                                                   \
		return refused(path, flags) ? -1 : REAL(name)(path, flags, mode);               \
	}
OPENS(open)
OPENS(open64)
