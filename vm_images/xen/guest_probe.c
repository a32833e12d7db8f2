/* Runs in a guest: tries what FLASK decides between two guests, pages that one offers and event channels.
 *
 *   guest_probe offer DOMAIN          offer a page to a domain: print its reference, keep it for a minute
 *   guest_probe map DOMAIN REFERENCE  use the page that a domain has offered: print what it says
 *   guest_probe listen DOMAIN         let a domain bind an event channel: print its port, keep it for a minute
 *   guest_probe bind DOMAIN PORT      bind the event channel that a domain keeps
 *
 * Prints "refused: REASON" and exits with 1 where the hypervisor says no.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The headers below want these from elsewhere (Xen's public/xen.h and grant_table.h). */
typedef unsigned short domid_t;
typedef unsigned int grant_ref_t;
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

#define PAGE 4096
#define KEPT_S 60
#define GREETING "a page of another guest"

static int refused(const char *what)
{
	printf("refused: %s: %s\n", what, strerror(errno));
	return 1;
}

static int keep(const char *what, unsigned int number)
{
	printf("%s %u\n", what, number);
	fflush(stdout);
	if (fork() == 0) {
		close(0); close(1); close(2);
		sleep(KEPT_S);
		_exit(0);
	}
	return 0;
}

static int offer(unsigned int domain)
{
	struct ioctl_gntalloc_alloc_gref asked = { .domid = domain, .flags = GNTALLOC_FLAG_WRITABLE, .count = 1 };
	int device = open("/dev/xen/gntalloc", O_RDWR);
	char *page;

	if (device < 0 || ioctl(device, IOCTL_GNTALLOC_ALLOC_GREF, &asked) < 0)
		return refused("offer");
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, asked.index);
	if (page == MAP_FAILED)
		return refused("offer");
	strcpy(page, GREETING);
	return keep("reference", asked.gref_ids[0]);
}

static int map(unsigned int domain, unsigned int reference)
{
	struct ioctl_gntdev_map_grant_ref asked = { .count = 1, .refs = { { .domid = domain, .ref = reference } } };
	int device = open("/dev/xen/gntdev", O_RDWR);
	char *page;

	if (device < 0 || ioctl(device, IOCTL_GNTDEV_MAP_GRANT_REF, &asked) < 0)
		return refused("map");
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, asked.index);
	if (page == MAP_FAILED)
		return refused("map");
	printf("it says: %.*s\n", (int)sizeof(GREETING), page);
	return 0;
}

static int listen_for(unsigned int domain)
{
	struct ioctl_evtchn_bind_unbound_port asked = { .remote_domain = domain };
	int device = open("/dev/xen/evtchn", O_RDWR);
	int port = device < 0 ? -1 : ioctl(device, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &asked);

	return port < 0 ? refused("listen") : keep("port", port);
}

static int bind_to(unsigned int domain, unsigned int remote)
{
	struct ioctl_evtchn_bind_interdomain asked = { .remote_domain = domain, .remote_port = remote };
	int device = open("/dev/xen/evtchn", O_RDWR);

	if (device < 0 || ioctl(device, IOCTL_EVTCHN_BIND_INTERDOMAIN, &asked) < 0)
		return refused("bind");
	printf("bound\n");
	return 0;
}

int main(int count, char **words)
{
	unsigned int domain = count > 2 ? strtoul(words[2], NULL, 10) : 0;
	unsigned int number = count > 3 ? strtoul(words[3], NULL, 10) : 0;

	if (count == 3 && !strcmp(words[1], "offer"))
		return offer(domain);
	if (count == 4 && !strcmp(words[1], "map"))
		return map(domain, number);
	if (count == 3 && !strcmp(words[1], "listen"))
		return listen_for(domain);
	if (count == 4 && !strcmp(words[1], "bind"))
		return bind_to(domain, number);
	fprintf(stderr, "usage: guest_probe offer|listen DOMAIN, guest_probe map|bind DOMAIN NUMBER\n");
	return 2;
}
