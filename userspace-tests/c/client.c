// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C library, function by function, as a program of Android's would call
 * it. Says what failed, with its line; exit code 1 if anything did.
 */
#define _GNU_SOURCE
#include <cutils/ashmem.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PURGE_ALL_CACHES _IO(0x77, 10)
#define PAGES 4

static int failures;
static size_t page;

static void expect_at(int line, const char *what, long long found, long long expected)
{
	if (found == expected)
		return;
	printf("line %d: %s: %lld, expected %lld\n", line, what, found, expected);
	failures++;
}

#define EXPECT(expression, expected) expect_at(__LINE__, #expression, (expression), (expected))

/* -1 and this errno. */
#define FAILS(expression, number)                                          \
	do {                                                               \
		errno = 0;                                                 \
		expect_at(__LINE__, #expression, (expression), -1);        \
		expect_at(__LINE__, "errno of " #expression, errno, (number)); \
	} while (0)

static char *map(int fd, size_t len, int prot)
{
	return mmap(NULL, len, prot, MAP_SHARED, fd, 0);
}

/* Whether some line of /proc/self/maps ends like this. */
static int maps_have(const char *end)
{
	char line[1024];
	int found = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	if (!maps)
		return 0;
	while (!found && fgets(line, sizeof(line), maps)) {
		size_t len = strcspn(line, "\n");

		line[len] = 0;
		found = len >= strlen(end) && !strcmp(line + len - strlen(end), end);
	}
	fclose(maps);
	return found;
}

static void test_create(void)
{
	char longest[ASHMEM_NAME_LEN + 50];
	int named = ashmem_create_region("picture cache", PAGES * page - 1);
	int unnamed = ashmem_create_region(NULL, page);
	int empty = ashmem_create_region("", 0);
	int cut;
	char *mapping;

	EXPECT(named >= 0 && unnamed >= 0 && empty >= 0, 1);
	EXPECT(fcntl(named, F_GETFD), FD_CLOEXEC);
	EXPECT(fcntl(named, F_GETFL) & O_ACCMODE, O_RDWR);
	EXPECT(ashmem_get_size_region(named), (int)(PAGES * page - 1));
	EXPECT(ashmem_get_size_region(empty), 0);
	mapping = map(named, PAGES * page, PROT_READ | PROT_WRITE);
	EXPECT(mapping != MAP_FAILED, 1);
	EXPECT(maps_have(" /dev/ashmem/picture cache (deleted)"), 1);
	munmap(mapping, PAGES * page);
	mapping = map(unnamed, page, PROT_READ);
	EXPECT(maps_have(" /dev/ashmem (deleted)"), 1);
	munmap(mapping, page);

	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	cut = ashmem_create_region(longest, page);
	mapping = map(cut, page, PROT_READ);
	longest[ASHMEM_NAME_LEN - 1] = 0;
	strcat(longest, " (deleted)");
	EXPECT(maps_have(longest), 1);
	munmap(mapping, page);
	close(cut);
	close(empty);
	close(unnamed);
	close(named);
}

static void test_create_without_a_node(void)
{
	int status = 0;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		failures = 0;
		EXPECT(chroot("/sys"), 0);
		FAILS(ashmem_create_region("nowhere", page), ENOENT);
		fflush(stdout);
		_exit(failures != 0);
	}
	EXPECT(waitpid(child, &status, 0), child);
	EXPECT(status, 0);
}

static void test_valid(void)
{
	int region = ashmem_create_region("valid", page);
	int twin = dup(region);
	int null = open("/dev/null", O_RDWR);
	int file = open("/proc/self/status", O_RDONLY);

	EXPECT(ashmem_valid(region), 1);
	EXPECT(ashmem_valid(twin), 1);
	EXPECT(ashmem_valid(null), 0);
	EXPECT(ashmem_valid(file), 0);
	EXPECT(ashmem_valid(-1), 0);
	EXPECT(ashmem_valid(INT_MAX), 0);
	close(file);
	close(null);
	close(twin);
	close(region);
	EXPECT(ashmem_valid(region), 0);
}

static void test_others_are_refused(void)
{
	static const struct {
		const char *path;
		int number;
	} others[] = { { "/dev/null", ENOTTY }, { "/proc/self/status", ENOTTY }, { NULL, EBADF } };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		int fd = others[i].path ? open(others[i].path, O_RDONLY) : -1;

		FAILS(ashmem_set_prot_region(fd, PROT_READ), others[i].number);
		FAILS(ashmem_pin_region(fd, 0, 0), others[i].number);
		FAILS(ashmem_unpin_region(fd, 0, 0), others[i].number);
		FAILS(ashmem_get_size_region(fd), others[i].number);
		if (fd >= 0)
			close(fd);
	}
	FAILS(ashmem_get_size_region(INT_MAX), EBADF);
}

static void test_protection(void)
{
	int fd = ashmem_create_region("protection", page);
	char *before = map(fd, page, PROT_READ | PROT_WRITE);

	EXPECT(ashmem_set_prot_region(fd, PROT_READ | PROT_WRITE), 0);
	EXPECT(ashmem_set_prot_region(fd, PROT_READ), 0);
	FAILS(ashmem_set_prot_region(fd, PROT_READ | PROT_WRITE), EINVAL);
	FAILS(ashmem_set_prot_region(fd, 0x100), EINVAL);
	FAILS(ashmem_set_prot_region(fd, -1), EINVAL);
	errno = 0;
	EXPECT(map(fd, page, PROT_WRITE) == MAP_FAILED, 1);
	EXPECT(errno, EPERM);
	before[0] = 1;
	EXPECT(ashmem_set_prot_region(fd, PROT_NONE), 0);
	munmap(before, page);
	close(fd);
}

static void test_pin(void)
{
	size_t size = PAGES * page;
	int fd = ashmem_create_region("pin", size);
	char *mapping;

	FAILS(ashmem_unpin_region(fd, 0, 0), EINVAL);
	FAILS(ashmem_pin_region(fd, 0, 0), EINVAL);
	mapping = map(fd, size, PROT_READ | PROT_WRITE);
	memset(mapping, 'x', size);
	EXPECT(ashmem_pin_region(fd, 0, 0), ASHMEM_NOT_PURGED);

	/* The second page, then from the last on. */
	EXPECT(ashmem_unpin_region(fd, page, page), 0);
	EXPECT(ashmem_pin_region(fd, 0, size), ASHMEM_NOT_PURGED);
	EXPECT(ashmem_unpin_region(fd, page, page), 0);
	EXPECT(ashmem_unpin_region(fd, size - page, 0), 0);
	EXPECT(ioctl(fd, PURGE_ALL_CACHES), 2);
	EXPECT(mapping[0], 'x');
	EXPECT(mapping[page], 0);
	EXPECT(mapping[2 * page], 'x');
	EXPECT(mapping[3 * page], 0);
	EXPECT(ashmem_pin_region(fd, 0, page), ASHMEM_NOT_PURGED);
	EXPECT(ashmem_pin_region(fd, page, page), ASHMEM_WAS_PURGED);
	EXPECT(ashmem_pin_region(fd, page, page), ASHMEM_NOT_PURGED);
	EXPECT(ashmem_pin_region(fd, 0, 0), ASHMEM_WAS_PURGED);
	/* Pinned it stays, after the call too. */
	EXPECT(ioctl(fd, PURGE_ALL_CACHES), 0);

	FAILS(ashmem_unpin_region(fd, 1, page), EINVAL);
	FAILS(ashmem_unpin_region(fd, 0, page + 1), EINVAL);
	FAILS(ashmem_pin_region(fd, 0, size + page), EINVAL);
	FAILS(ashmem_pin_region(fd, size + page, 0), EINVAL);
	/* What a struct of 32 bits would have cut to the first page. */
	FAILS(ashmem_pin_region(fd, (size_t)-1 - page + 1, page), EINVAL);
#if SIZE_MAX > UINT_MAX
	EXPECT(ashmem_unpin_region(fd, (size_t)1 << 32, page), -1);
#endif
	EXPECT(ioctl(fd, PURGE_ALL_CACHES), 0);
	munmap(mapping, size);
	close(fd);
}

static void test_size(void)
{
	int fd = ashmem_create_region("size", INT_MAX);

	EXPECT(ashmem_get_size_region(fd), INT_MAX);
	close(fd);
	fd = ashmem_create_region("size", (size_t)INT_MAX + 1);
	FAILS(ashmem_get_size_region(fd), EOVERFLOW);
	close(fd);
}

int main(void)
{
	page = (size_t)sysconf(_SC_PAGESIZE);
	test_create();
	test_create_without_a_node();
	test_valid();
	test_others_are_refused();
	test_protection();
	test_pin();
	test_size();
	printf("%d failed\n", failures);
	return failures != 0;
}
