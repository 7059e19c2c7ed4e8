/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The C side of the example `languages`: region-c REGION SOCKET, two inherited
 * descriptors. A region is used by the functions that Android's programs know,
 * of libashmem; what they do not have is an ioctl.
 */
#include <ashmem.h>
#include <cutils/ashmem.h>

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* The first page has lines of this length, filled up with NULs. */
#define LINE 64

static int checked(int result, const char *call)
{
	if (result < 0)
		err(1, "%s", call);
	return result;
}

static char *map(int fd, size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap");
	return memory;
}

static void use(int fd)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char name[ASHMEM_NAME_LEN];
	char *memory, *line;
	size_t size;
	int result;

	if (!ashmem_valid(fd))
		errx(1, "this is no region");
	checked(ioctl(fd, ASHMEM_GET_NAME, name), "ASHMEM_GET_NAME");
	size = checked(ashmem_get_size_region(fd), "ashmem_get_size_region");
	printf("is given \"%s\", %zu bytes\n", name, size);

	memory = map(fd, size);
	for (line = memory; *line; line += LINE)
		printf("reads \"%s\"\n", line);
	strcpy(line, "a line written in C");

	/* The second page is one that could be made anew. */
	memset(memory + page, 'C', page);
	checked(ashmem_unpin_region(fd, page, page), "ashmem_unpin_region");
	result = checked(ashmem_pin_region(fd, page, page), "ashmem_pin_region");
	printf("pins what was unpinned: %d, '%c' is there\n", result, memory[page]);
	checked(ashmem_unpin_region(fd, page, page), "ashmem_unpin_region");
	checked(ioctl(fd, ASHMEM_PURGE_ALL_CACHES), "ASHMEM_PURGE_ALL_CACHES");
	result = checked(ashmem_pin_region(fd, page, page), "ashmem_pin_region");
	printf("pins what was purged: %d, %d is there\n", result, memory[page]);
	munmap(memory, size);
}

/* A descriptor goes beside a byte. */
static void send_fd(int to, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .header = {
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
		.cmsg_len = CMSG_LEN(sizeof(int)),
	} };
	struct iovec byte = { .iov_base = "+", .iov_len = 1 };
	struct msghdr message = {
		.msg_iov = &byte,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	checked(sendmsg(to, &message, 0), "sendmsg");
}

static void make(int to)
{
	size_t size = 5000;
	int fd = checked(ashmem_create_region("made in C", size), "ashmem_create_region");
	char *memory = map(fd, size);

	strcpy(memory, "what C has to say");
	/* From here on nobody maps it to be written. */
	checked(ashmem_set_prot_region(fd, PROT_READ), "ashmem_set_prot_region");
	send_fd(to, fd);
	munmap(memory, size);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(1, "usage: region-c REGION SOCKET");
	use(atoi(argv[1]));
	make(atoi(argv[2]));
	return 0;
}
