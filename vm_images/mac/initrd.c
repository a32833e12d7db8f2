/* The first program of the MAC VM, in its initrd: loads every kernel module that the machine will ever have and forbids
 * more, opens the root behind dm-verity, loads the policies of SELinux and IMA, and goes over to the root's /sbin/init.
 *
 * The kernel's command line names the root: shamon.root.blocks=N (of 4096 bytes, the hash tree begins behind them),
 * shamon.root.salt=HEX and shamon.root.hash=HEX, of SHA-256. Whoever starts the machine digests kernel, initrd and command
 * line, so what is checked here is checked by what was measured. A block that is not as it was when the image was made
 * makes the kernel panic, whenever it is read; and all of them are read once, before any is used.
 *
 * Sources: Documentation/admin-guide/device-mapper/verity.rst, include/uapi/linux/dm-ioctl.h of the kernel.
 */

#define _GNU_SOURCE /* O_DIRECT */
#include "common.h"

#include <ctype.h>
#include <dirent.h>
#include <linux/dm-ioctl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#define BLOCK 4096
#define DIGEST 64 /* hexadecimal digits of SHA-256 */
#define MAX_BLOCKS (1UL << 20)
#define WAIT_MS 10000
#define PIECE (1UL << 20)
#define POLICY "/root/etc/selinux/default/policy/policy.33"
#define IMA_POLICY "/etc/ima/ima-policy"

static char command_line[4096];

/* One write: the kernel's control files take a value whole. */
static void must_write(const char *path, const void *value, size_t length)
{
    int file = open(path, O_WRONLY);
    if (file < 0 || write(file, value, length) != (ssize_t)length)
        fail("cannot write", path);
    close(file);
}

/* The value of a word of the command line. */
static const char *option(const char *name, char *value, size_t size)
{
    size_t length = strlen(name);
    for (const char *at = command_line; (at = strstr(at, name)) != NULL; at += length) {
        if (at != command_line && at[-1] != ' ')
            continue;
        size_t end = strcspn(at + length, " \n");
        if (end >= size)
            break;
        memcpy(value, at + length, end);
        value[end] = '\0';
        return value;
    }
    errno = 0;
    fail("the command line lacks, or has too long,", name);
    return NULL;
}

static void demand_digest(const char *name, const char *value)
{
    errno = 0;
    if (strlen(value) != DIGEST || strspn(value, "0123456789abcdef") != DIGEST)
        fail("not a SHA-256 digest:", name);
}

static void pause_ms(long ms)
{
    struct timespec time = {.tv_nsec = ms * 1000000};
    nanosleep(&time, NULL);
}

static int wait_for(const char *const *paths)
{
    for (int waited = 0; waited < WAIT_MS; waited += 20) {
        for (int index = 0; paths[index]; index++)
            if (access(paths[index], F_OK) == 0)
                return index;
        pause_ms(20);
    }
    errno = 0;
    fail("no such device:", paths[0]);
    return -1;
}

/* All modules of a directory, in the order of their names. A driver whose hardware is not there says ENODEV. */
static void load_modules(const char *directory)
{
    struct dirent **found;
    int count = scandir(directory, &found, NULL, alphasort);
    if (count < 0 || chdir(directory) != 0)
        fail("cannot list", directory);
    for (int index = 0; index < count; index++) {
        const char *name = found[index]->d_name;
        if (name[0] == '.')
            continue;
        int file = open(name, O_RDONLY | O_CLOEXEC);
        if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != ENODEV))
            fail("cannot load", name);
        close(file);
        unlink(name);
    }
    if (chdir("/") != 0)
        fail("cannot leave", directory);
}

struct request {
    struct dm_ioctl head;
    struct dm_target_spec target;
    char parameters[1024];
};

static void ask_device_mapper(int control, unsigned long command, struct request *request, uint32_t flags)
{
    struct dm_ioctl head = {.version = {DM_VERSION_MAJOR, 0, 0}, .data_size = sizeof *request, .flags = flags};
    head.data_start = offsetof(struct request, target);
    head.target_count = command == DM_TABLE_LOAD ? 1 : 0;
    strcpy(head.name, "root");
    request->head = head;
    if (ioctl(control, command, request) != 0)
        fail("dm-verity refuses the root", "");
}

static void open_root(const char *disk)
{
    char blocks[24], salt[DIGEST + 2], hash[DIGEST + 2];
    option("shamon.root.blocks=", blocks, sizeof blocks);
    demand_digest("shamon.root.salt", option("shamon.root.salt=", salt, sizeof salt));
    demand_digest("shamon.root.hash", option("shamon.root.hash=", hash, sizeof hash));
    char *end;
    unsigned long count = strtoul(blocks, &end, 10);
    errno = 0;
    if (*end != '\0' || !isdigit(blocks[0]) || count == 0 || count > MAX_BLOCKS)
        fail("not a number of blocks:", blocks);

    struct request request = {0};
    int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        fail("cannot open", "/dev/mapper/control");
    ask_device_mapper(control, DM_DEV_CREATE, &request, 0);
    request.target.length = count * (BLOCK / 512);
    strcpy(request.target.target_type, "verity");
    snprintf(request.parameters, sizeof request.parameters, "1 %s %s %d %d %lu %lu sha256 %s %s 1 panic_on_corruption", disk,
             disk, BLOCK, BLOCK, count, count, hash, salt);
    ask_device_mapper(control, DM_TABLE_LOAD, &request, DM_READONLY_FLAG);
    ask_device_mapper(control, DM_DEV_SUSPEND, &request, 0); /* without DM_SUSPEND_FLAG: resume */
    close(control);
}

/* Past the page cache, which would keep what nobody asks for again. */
static void read_whole(const char *device)
{
    void *piece;
    int file = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (file < 0 || (errno = posix_memalign(&piece, BLOCK, PIECE)) != 0)
        fail("cannot open", device);
    for (ssize_t length; (length = read(file, piece, PIECE)) != 0;)
        if (length < 0)
            fail("cannot read", device);
    free(piece);
    close(file);
}

static void load_policy(void)
{
    struct stat about;
    int file = open(POLICY, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &about) != 0)
        fail("cannot read", POLICY);
    void *policy = mmap(NULL, about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (policy == MAP_FAILED)
        fail("cannot map", POLICY);
    must_write("/root/sys/fs/selinux/load", policy, about.st_size);
    munmap(policy, about.st_size);
    close(file);
}

static void demand(const char *path, const char *word, const char *what)
{
    char text[256];
    must_read(path, text, sizeof text);
    errno = 0;
    if (strstr(text, word) == NULL)
        fail(what, "");
}

int main(void)
{
    static const char *const disks[] = {"/dev/vda", "/dev/xvda", NULL}, *const roots[] = {"/dev/dm-0", NULL};
    mount("dev", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755");
    to_console();
    must_mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    must_read("/proc/cmdline", command_line, sizeof command_line);

    load_modules("/modules/common");
    load_modules(access("/sys/hypervisor/type", F_OK) == 0 ? "/modules/xen" : "/modules/virtio");
    must_write("/proc/sys/kernel/modules_disabled", "1", 1);

    open_root(disks[wait_for(disks)]);
    wait_for(roots);
    read_whole(roots[0]);
    /* Not MS_NOSUID: with it, a program that is run there cannot enter a domain of its own. */
    must_mount(roots[0], "/root", "squashfs", MS_RDONLY | MS_NODEV, NULL);
    must_mount("/dev", "/root/dev", NULL, MS_MOVE, NULL);
    must_mount("/proc", "/root/proc", NULL, MS_MOVE, NULL);
    must_mount("/sys", "/root/sys", NULL, MS_MOVE, NULL);
    must_mount("selinuxfs", "/root/sys/fs/selinux", "selinuxfs", MS_NOSUID | MS_NOEXEC, NULL);
    must_mount("securityfs", "/root/sys/kernel/security", "securityfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    demand("/root/sys/kernel/security/lockdown", "[confidentiality]", "the kernel is not locked down");
    load_policy();
    demand("/root/sys/fs/selinux/enforce", "1", "SELinux does not enforce");

    unlink("/init");
    if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        fail("cannot go over to", "the root");
    /* Right behind SELinux's, before anything of the root runs: what is measured before it, nobody could place. */
    must_write("/sys/kernel/security/ima/policy", IMA_POLICY, strlen(IMA_POLICY));
    execl("/sbin/init", "/sbin/init", NULL);
    fail("cannot run", "/sbin/init");
}
