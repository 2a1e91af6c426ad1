/* What a process asks of its disk: every change of a file below TRACE_ROOT, in order, with its bytes.
 *
 * cc -shared -fPIC -O1 -o recorder.so recorder.c -ldl ; LD_PRELOAD=recorder.so TRACE_ROOT=/dir TRACE_FILE=/trace PROGRAM
 *
 * A record is {op u32, fd i32, offset u64, length u32}, little endian, and `length` bytes. One lock around each call and
 * its record makes the order of records the order of the calls. What is written to descriptor 1 is recorded as well:
 * an acknowledgement has its place among the writes. Writes through mmap are not seen (SQLite does so only to -shm).
 * A process that PROGRAM starts and waits for is recorded too, its descriptors counted from DESCRIPTORS on; what it says
 * goes to PROGRAM and is no acknowledgement.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CREATE, CLOSE, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, SAID };
enum { DESCRIPTORS = 4096, PATH_BYTES = 4096 };

struct __attribute__((packed)) head { uint32_t op; int32_t fd; uint64_t offset; uint32_t length; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1, child;
static const char *root;
static char watched[DESCRIPTORS];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define LOCKED for (int once = (pthread_mutex_lock(&lock), 1); once; once = (pthread_mutex_unlock(&lock), 0))

__attribute__((constructor)) static void begin(void)
{
	const char *file = getenv("TRACE_FILE");
	root = getenv("TRACE_ROOT");
	if (file && root)
		trace = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	child = trace >= 0 && lseek(trace, 0, SEEK_END) > 0;
}

static void put(uint32_t op, int fd, uint64_t offset, const void *bytes, size_t length)
{
	struct head head = { op, fd + child * DESCRIPTORS, offset, (uint32_t)length };
	struct iovec parts[2] = { { &head, sizeof head }, { (void *)bytes, length } };

	if (syscall(SYS_writev, trace, parts, 2) != (long)(sizeof head + length)) {
		static const char words[] = "recorder: the trace cannot be written\n";
		syscall(SYS_write, 2, words, sizeof words - 1);
		abort();
	}
}

static int below(const char *path) { return trace >= 0 && strncmp(path, root, strlen(root)) == 0; }
static int seen(int fd) { return trace >= 0 && fd >= 0 && fd < DESCRIPTORS && watched[fd]; }

static void opened(int fd, int flags, int existed)
{
	char link[64], path[PATH_BYTES];
	ssize_t length;

	if (trace < 0 || fd < 0 || fd >= DESCRIPTORS)
		return;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof path - 1);
	path[length < 0 ? 0 : length] = 0;
	watched[fd] = below(path) != 0;
	if (!watched[fd])
		return;
	put(existed ? OPEN : CREATE, fd, 0, path, strlen(path));
	if (flags & O_TRUNC && existed)
		put(TRUNCATE, fd, 0, "", 0);
}

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
	int fd;
	LOCKED {
		int existed = syscall(SYS_faccessat, dir, path, F_OK) == 0;
		fd = (int)syscall(SYS_openat, dir, path, flags, mode);
		opened(fd, flags, existed);
	}
	return fd;
}

static mode_t mode_of(int flags, va_list rest)
{
	return flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(rest, mode_t) : 0;
}

#define OPENS(name)                                             \
	int name(const char *path, int flags, ...)              \
	{                                                       \
		va_list rest;                                   \
		va_start(rest, flags);                          \
		mode_t mode = mode_of(flags, rest);             \
		va_end(rest);                                   \
		return open_at(AT_FDCWD, path, flags, mode);    \
	}
#define OPENS_AT(name)                                          \
	int name(int dir, const char *path, int flags, ...)     \
	{                                                       \
		va_list rest;                                   \
		va_start(rest, flags);                          \
		mode_t mode = mode_of(flags, rest);             \
		va_end(rest);                                   \
		return open_at(dir, path, flags, mode);         \
	}
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }

int close(int fd)
{
	int result;
	LOCKED {
		if (seen(fd)) {
			put(CLOSE, fd, 0, "", 0);
			watched[fd] = 0;
		}
		result = REAL(close)(fd);
	}
	return result;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
	ssize_t done;
	LOCKED {
		done = REAL(write)(fd, bytes, length);
		if (done > 0 && seen(fd))
			put(WRITE, fd, (uint64_t)(lseek(fd, 0, SEEK_CUR) - done), bytes, (size_t)done);
		else if (done > 0 && fd == 1 && trace >= 0 && !child)
			put(SAID, fd, 0, bytes, (size_t)done);
	}
	return done;
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t offset)
{
	ssize_t done;
	LOCKED {
		done = REAL(pwrite64)(fd, bytes, length, offset);
		if (done > 0 && seen(fd))
			put(WRITE, fd, (uint64_t)offset, bytes, (size_t)done);
	}
	return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_at(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return write_at(fd, bytes, length, offset); }

static int truncate_to(int fd, off_t size)
{
	int result;
	LOCKED {
		result = REAL(ftruncate64)(fd, size);
		if (result == 0 && seen(fd))
			put(TRUNCATE, fd, (uint64_t)size, "", 0);
	}
	return result;
}

int ftruncate(int fd, off_t size) { return truncate_to(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_to(fd, size); }

static int allocate(int fd, off_t offset, off_t length)
{
	int result;
	LOCKED {
		struct stat held;
		result = REAL(posix_fallocate)(fd, offset, length);
		if (result == 0 && seen(fd) && fstat(fd, &held) == 0)
			put(TRUNCATE, fd, (uint64_t)held.st_size, "", 0);
	}
	return result;
}

int posix_fallocate(int fd, off_t offset, off_t length) { return allocate(fd, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return allocate(fd, offset, length); }

#define SYNCS(name)                                             \
	int name(int fd)                                        \
	{                                                       \
		int result;                                     \
		LOCKED {                                        \
			result = REAL(name)(fd);                \
			if (result == 0 && seen(fd))            \
				put(SYNC, fd, 0, "", 0);        \
		}                                               \
		return result;                                  \
	}
SYNCS(fsync)
SYNCS(fdatasync)

static void moved(const char *from, const char *to)
{
	char both[2 * PATH_BYTES];
	int length = snprintf(both, sizeof both, "%s%c%s", from, 0, to);
	if (below(from) || below(to))
		put(RENAME, -1, 0, both, (size_t)length);
}

int rename(const char *from, const char *to)
{
	int result;
	LOCKED {
		result = REAL(rename)(from, to);
		if (result == 0)
			moved(from, to);
	}
	return result;
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	int result;
	LOCKED {
		result = REAL(renameat)(from_dir, from, to_dir, to);
		if (result == 0)
			moved(from, to);
	}
	return result;
}

int unlink(const char *path)
{
	int result;
	LOCKED {
		result = REAL(unlink)(path);
		if (result == 0 && below(path))
			put(UNLINK, -1, 0, path, strlen(path));
	}
	return result;
}

int unlinkat(int dir, const char *path, int flags)
{
	int result;
	LOCKED {
		result = REAL(unlinkat)(dir, path, flags);
		if (result == 0 && below(path))
			put(UNLINK, -1, 0, path, strlen(path));
	}
	return result;
}

int mkdir(const char *path, mode_t mode)
{
	int result;
	LOCKED {
		result = REAL(mkdir)(path, mode);
		if (result == 0 && below(path))
			put(MKDIR, -1, 0, path, strlen(path));
	}
	return result;
}

int mkdirat(int dir, const char *path, mode_t mode)
{
	int result;
	LOCKED {
		result = REAL(mkdirat)(dir, path, mode);
		if (result == 0 && below(path))
			put(MKDIR, -1, 0, path, strlen(path));
	}
	return result;
}
