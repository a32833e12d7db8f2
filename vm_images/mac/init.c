/* The MAC VM's /sbin/init, in the SELinux domain init_t: gives device nodes their labels, mounts what may be written,
 * starts the link agent, and switches the machine off when the agent ends: its links end with it.
 *
 * No login, no shell, no service beside it. The root is read-only, modules cannot be loaded any more (see initrd.c).
 */

#include "common.h"

#include <sys/wait.h>
#include <sys/xattr.h>

#define AGENT "/opt/shamon/bin/link-agent"
#define TMPFS (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define LABELLED(type) "system_u:object_r:" type ":s0"

/* As the policy's file contexts have them. Every other node keeps what it got when the policy was loaded, before which
 * the kernel made it: a type that the agent may not use. */
static const char *const nodes[][2] = {
    {"/dev/console", LABELLED("console_device_t")},
    {"/dev/kmsg", LABELLED("kmsg_device_t")},
    {"/dev/null", LABELLED("null_device_t")},
    {"/dev/zero", LABELLED("zero_device_t")},
    {"/dev/random", LABELLED("random_device_t")},
    {"/dev/urandom", LABELLED("urandom_device_t")},
    {"/dev/tpm0", LABELLED("tpm_device_t")},
    {"/dev/tpmrm0", LABELLED("tpm_device_t")},
};

/* nft reads its commands by this name. */
static void link_standard_input(void)
{
    if (symlink("/proc/self/fd/0", "/dev/stdin") != 0)
        fail("cannot make", "/dev/stdin");
}

static void demand_own_domain(void)
{
    char context[256];
    must_read("/proc/self/attr/current", context, sizeof context);
    errno = 0;
    if (strstr(context, ":init_t:") == NULL)
        fail("init runs in another domain:", context);
}

static void label_nodes(void)
{
    for (size_t index = 0; index < sizeof nodes / sizeof *nodes; index++) {
        const char *label = nodes[index][1];
        if (lsetxattr(nodes[index][0], "security.selinux", label, strlen(label) + 1, 0) != 0 && errno != ENOENT)
            fail("cannot label", nodes[index][0]);
    }
}

static void run_agent(void)
{
    static char *const arguments[] = {AGENT, NULL};
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", "HOME=/", NULL};
    int nothing = open("/dev/null", O_RDONLY);
    if (setsid() < 0 || nothing < 0 || dup2(nothing, 0) < 0)
        _exit(126);
    close(nothing);
    execve(AGENT, arguments, environment);
    say("cannot run %s: %s", AGENT, strerror(errno));
    _exit(127);
}

int main(void)
{
    demand_own_domain();
    label_nodes();
    link_standard_input();
    to_console();
    umask(022);
    must_mount("tmpfs", "/run", "tmpfs", TMPFS, "mode=0755,size=4m,rootcontext=" LABELLED("shamon_var_run_t"));
    must_mount("tmpfs", "/var/lib/shamon", "tmpfs", TMPFS,
               "mode=0700,size=4m,rootcontext=" LABELLED("shamon_var_lib_t"));
    must_mount("tmpfs", "/tmp", "tmpfs", TMPFS, "mode=1777,size=4m,rootcontext=" LABELLED("tmp_t"));

    pid_t agent = fork();
    if (agent < 0)
        fail("cannot start", "the link agent");
    if (agent == 0)
        run_agent();
    int status = 0;
    for (pid_t ended = 0; ended != agent;) {
        ended = wait(&status);
        if (ended < 0 && errno != EINTR)
            fail("cannot wait for", "the link agent");
    }
    if (WIFSIGNALED(status))
        say("the link agent was ended by signal %d: the machine is switched off", WTERMSIG(status));
    else
        say("the link agent ended with status %d: the machine is switched off", WEXITSTATUS(status));
    power_off();
}
